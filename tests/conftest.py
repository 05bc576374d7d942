"""What all tests share. That this file is here also puts its folder on the path, for `made_results`."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ICM_ variables do not change what is tested; where models are cached stays."""
    for name in os.environ:
        if name.startswith("ICM_") and name != "ICM_CACHE":
            monkeypatch.delenv(name)
