"""The folder `shared` beside the repository: published data sets and the documents that the project starts from."""

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[3] / "shared"


def beside(name: str) -> Path:
    """A file of that folder. Skips the test where it is absent."""
    path = _SHARED / name
    if not path.exists():
        pytest.skip(f"needs shared/{name}, which lies beside the repository, not in it")
    return path
