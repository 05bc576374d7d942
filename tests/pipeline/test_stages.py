"""Finished stages are skipped, by content."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icm.errors import ICMError, ResumeError
from icm.pipeline.manifest import read_manifest
from icm.pipeline.run import run_stages
from icm.pipeline.stages import Stage

# Stages of a line of Python each, to see which run.
COPY = """
import sys
from pathlib import Path
source, target, log = map(Path, sys.argv[1:4])
with log.open("a") as handle:
    print(target.name, *sys.argv[4:], file=handle)
target.write_text(source.read_text().upper())
"""


def chain(folder: Path, settings: Mapping[str, Any] | None = None) -> list[Stage]:
    """raw → first → second."""
    (folder / "raw").exists() or (folder / "raw").write_text("gold")
    return [
        copy_stage(folder, "raw", "first", {"depth": {"alpha": 1}, **(settings or {})}),
        copy_stage(folder, "first", "second", {}),
    ]


def copy_stage(folder: Path, source: str, target: str, settings: Mapping[str, Any]) -> Stage:
    words = [str(folder / name) for name in (source, target, "log")]
    command = (sys.executable, "-c", COPY, *words)
    return Stage(target, command, settings, (folder / source,), (folder / target,))


def run(folder: Path, stages: list[Stage], force: bool = False) -> str:
    output = io.StringIO()
    run_stages(folder, stages, force, Console(file=output, width=200))
    return output.getvalue()


def log(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


def test_finished_stages_are_not_run_again(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    assert log(tmp_path) == ["first", "second"]
    assert run(tmp_path, chain(tmp_path)).count("finished before") == 2
    assert log(tmp_path) == ["first", "second"]


def test_an_older_name_of_the_same_labels_is_no_change(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path, {"conditions": [{"name": "ICM", "labels_from": "file"}]}))
    renamed = chain(tmp_path, {"conditions": [{"name": "ICM", "labels_from": "labels"}]})
    assert run(tmp_path, renamed).count("finished before") == 2


def test_other_settings_are_refused_by_name_and_redone_by_force(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    changed = chain(tmp_path, {"depth": {"alpha": 2}})
    with pytest.raises(ResumeError, match=r"'first' was made differently: depth\.alpha was 1, is 2.*--force"):
        run(tmp_path, changed)
    run(tmp_path, changed, force=True)
    # The second stage's input came out the same, so it stands.
    assert log(tmp_path) == ["first", "second", "first"]
    assert read_manifest(tmp_path)["first"].settings == {"depth.alpha": 2}


def test_a_changed_input_runs_through_all_that_follows(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    (tmp_path / "raw").write_text("other")
    with pytest.raises(ResumeError, match="raw has changed"):
        run(tmp_path, chain(tmp_path))
    run(tmp_path, chain(tmp_path), force=True)
    assert log(tmp_path) == ["first", "second"] * 2
    assert (tmp_path / "second").read_text() == "OTHER"


def test_an_output_that_was_edited_is_refused_and_a_deleted_one_made_again(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    (tmp_path / "second").write_text("by hand")
    with pytest.raises(ResumeError, match="second was changed by hand"):
        run(tmp_path, chain(tmp_path))
    (tmp_path / "second").unlink()
    run(tmp_path, chain(tmp_path))
    assert log(tmp_path) == ["first", "second", "second"]


def test_a_failed_stage_stops_the_run_and_is_continued_from_its_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    broken = f"from pathlib import Path; Path({str(trace)!r}).touch(); raise SystemExit(3)"
    first, second = chain(tmp_path)
    failing = Stage("first", (sys.executable, "-c", broken), first.settings, first.inputs, first.outputs, trace=trace)
    with pytest.raises(ICMError, match=r"'first' failed \(exit code 3\)"):
        run(tmp_path, [failing, second])
    assert not (tmp_path / "second").exists()
    whole = Stage("first", first.command, first.settings, first.inputs, first.outputs, trace=trace)
    run(tmp_path, [whole, second])
    assert log(tmp_path) == ["first", "--resume", str(trace), "second"]


def test_a_stage_without_its_output_has_failed(tmp_path: Path) -> None:
    first, _ = chain(tmp_path)
    silent = Stage("first", (sys.executable, "-c", ""), {}, first.inputs, first.outputs)
    with pytest.raises(ICMError, match="did not write"):
        run(tmp_path, [silent])
    assert not read_manifest(tmp_path)["first"].finished


def test_a_foreign_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text('{"stages": {"first": {"key": 1}}}')
    with pytest.raises(ResumeError, match=r"pipeline\.json"):
        run(tmp_path, chain(tmp_path))
