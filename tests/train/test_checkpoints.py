"""Checkpoints and output folders: what a run goes on from, and what it never touches."""

from pathlib import Path

import pytest

from icm.errors import ConfigError, ResumeError
from icm.files import write_json
from train.checkpoints import (
    FINISHED_FILE,
    LOCK_FILE,
    RUN_FILE,
    check_output_dir,
    empty,
    is_complete,
    is_finished,
    mark_complete,
    newest_complete,
    remove_torn,
)


def checkpoint(folder: Path, step: int, files: tuple[str, ...] = ("adapter_model.safetensors", "optimizer.pt")) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    for name in files:
        (path / name).write_bytes(b"x" * 100)
        (path / "global_step" / name).write_bytes(b"y" * 10)
    return path


def test_only_complete_checkpoints_are_continued(tmp_path: Path) -> None:
    for step in (9, 20, 100):
        mark_complete(checkpoint(tmp_path, step))
    unmarked = checkpoint(tmp_path, 300)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-100"
    (tmp_path / "checkpoint-100" / "global_step" / "optimizer.pt").unlink()  # deleting was cut short
    (tmp_path / "checkpoint-20" / "optimizer.pt").write_bytes(b"x" * 99)  # a file was cut
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-9"
    assert set(remove_torn(tmp_path)) == {unmarked, tmp_path / "checkpoint-100", tmp_path / "checkpoint-20"}
    assert is_complete(tmp_path / "checkpoint-9") and not unmarked.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_known_by_its_hash(name: str, tmp_path: Path) -> None:
    for step in (3, 6):
        mark_complete(checkpoint(tmp_path, step))
    damaged = tmp_path / "checkpoint-6" / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")  # of the same size
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-3"
    assert remove_torn(tmp_path) == [tmp_path / "checkpoint-6"]


def test_marks_of_earlier_versions_hold_sizes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 3, ("optimizer.pt",))
    write_json(folder / "complete.json", {"files": {"optimizer.pt": 100, "global_step/optimizer.pt": 10}})
    assert is_complete(folder)
    (folder / "optimizer.pt").write_bytes(b"x")
    assert not is_complete(folder)


@pytest.mark.parametrize("files", [[], "all", 3, None, {}, {"optimizer.pt": None}, {"../../run.json": "ab"}])
def test_a_mark_that_says_nonsense_marks_nothing(files: object, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 3)
    write_json(folder / "complete.json", {"files": files})
    assert not is_complete(folder) and remove_torn(tmp_path) == [folder] and not folder.exists()


def test_links_are_removed_and_what_they_point_to_is_kept(tmp_path: Path) -> None:
    real = checkpoint(tmp_path / "elsewhere", 9)
    output = tmp_path / "output"
    output.mkdir()
    (output / "checkpoint-9").symlink_to(real)
    (output / "checkpoint-12").symlink_to(tmp_path / "nowhere")
    (output / "checkpoint-15").write_text("a file")
    assert len(remove_torn(output)) == 3 and not any(output.iterdir()) and real.is_dir()
    (tmp_path / "link").symlink_to(output)
    (output / "old").mkdir()
    (output / "link").symlink_to(real)
    (output / LOCK_FILE).touch()
    empty(tmp_path / "link")
    assert [path.name for path in output.iterdir()] == [LOCK_FILE] and any(real.iterdir())


def test_labels_are_compared_by_content_and_what_was_not_said_before_is_not(tmp_path: Path) -> None:
    said = {"seed": ["1"], "labels_sha256": "ab", "labels_content": "c", "content.model": "m"}
    write_json(tmp_path / RUN_FILE, {"seed": ["1"], "labels_sha256": "ab"})
    (tmp_path / "metrics.jsonl").touch()
    check_output_dir(tmp_path, said, overwrite=False)
    with pytest.raises(ResumeError, match="labels_sha256 was 'ab', is 'x'"):
        check_output_dir(tmp_path, {**said, "labels_sha256": "x"}, overwrite=False)
    write_json(tmp_path / RUN_FILE, said)
    check_output_dir(tmp_path, {**said, "labels_sha256": "made again"}, overwrite=False)
    for name in ("labels_content", "content.model"):
        with pytest.raises(ResumeError, match=f"{name} was"):
            check_output_dir(tmp_path, {**said, name: "other"}, overwrite=False)


def test_output_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "new", {"seed": ["1"]}, overwrite=False)
    write_json(tmp_path / RUN_FILE, {"seed": ["1"], "labels_sha256": "ab"})
    check_output_dir(tmp_path, {"seed": ["1"], "labels_sha256": "ab"}, overwrite=False)
    (tmp_path / "config.yaml").touch()
    check_output_dir(tmp_path, {"seed": ["3"]}, overwrite=False)  # it has never come to a step
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ResumeError, match="labels_sha256 was 'ab', is 'cd'"):
        check_output_dir(tmp_path, {"seed": ["1"], "labels_sha256": "cd"}, overwrite=False)
    check_output_dir(tmp_path, {"seed": ["2"]}, overwrite=True)
    assert not is_finished(tmp_path)
    write_json(tmp_path / FINISHED_FILE, {})
    assert is_finished(tmp_path)


@pytest.mark.parametrize("overwrite", [True, False])
def test_folders_that_hold_something_else_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(ConfigError, match="no training run"):
        check_output_dir(tmp_path, {}, overwrite)
