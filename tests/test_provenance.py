"""What a result says of its making."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from icm import provenance
from icm.provenance import GitRevision, git_revision, package_versions, peak_memory_gib


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that holds the module."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_the_revision_says_whether_the_code_was_changed(repository: Path) -> None:
    assert git_revision() is None
    (repository / "provenance.py").write_text("one")
    author = ("-c", "user.name=n", "-c", "user.email=e")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=repository, check=True)
    found = git_revision()
    assert found is not None and len(found.commit) == 40 and str(found) == found.commit[:12]
    (repository / "untracked").write_text("not code that ran")
    assert git_revision() == found
    (repository / "provenance.py").write_text("two")
    assert git_revision() == GitRevision(found.commit, True)
    assert str(git_revision()) == f"{found.commit[:12]}-dirty"


def test_versions_and_memory() -> None:
    found = package_versions(("trl", "no-such-package"))
    assert found["python"] == platform.python_version() and found["trl"] == version("trl")
    assert "no-such-package" not in found and found["numpy"] == version("numpy")
    assert 0 < peak_memory_gib() < 1024
