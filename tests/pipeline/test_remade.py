"""Stages whose end nobody recorded, and what was made again: known by content, not by time or path."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.made_results import claims

from icm.errors import ResumeError
from icm.files import file_sha256, write_json
from icm.pipeline.manifest import MANIFEST, digest, read_manifest, write_manifest
from icm.pipeline.run import run_stages
from icm.pipeline.stages import Stage
from icm.results.format import ICMResult, read_result, trace_path, write_result
from icm.results.record import RunRecord

SETTINGS = {"data": {"dataset": "d"}, "search": {"seed": 1}}
# Stands for `icm run`, which refuses a result that is there: labels with the seconds of now in their first line.
LABEL = """
import sys
from pathlib import Path
path, source, log = map(Path, sys.argv[1:4])
with log.open("a") as handle:
    print("labelled", file=handle)
sys.exit("exists") if path.exists() else path.write_bytes(source.read_bytes())
"""


def labels(created: str = "2026-01-01", settings: Any = SETTINGS, seconds: float = 1.0) -> ICMResult:
    record = RunRecord(settings=settings, created=created, usage={"seconds": seconds}, versions={"icm": created})
    return replace(claims(2, 2, seed=1), record=record)


def stage(folder: Path, **changes: Any) -> Stage:
    """Labels `l.jsonl` with what lies in `source`, and what reads them."""
    words = [str(folder / name) for name in ("l.jsonl", "source", "log")]
    path = folder / "l.jsonl"
    made = Stage("label l", (sys.executable, "-c", LABEL, *words), SETTINGS, (), (path,), trace=trace_path(path))
    return replace(made, **changes)


def run(folder: Path, *stages: Stage, force: bool = False) -> int:
    """Run the stages; returns how often labels were made so far."""
    (folder / "source").exists() or write_result(folder / "source", labels())
    run_stages(folder, stages, force, Console(quiet=True))
    return (folder / "log").read_text().count("labelled") if (folder / "log").exists() else 0


def forget_the_end(folder: Path) -> None:
    """The manifest as it was when the stage had been started."""
    records = read_manifest(folder)
    write_manifest(folder, {name: replace(record, outputs={}) for name, record in records.items()})


@pytest.mark.parametrize("force", [False, True])
def test_a_finished_stage_whose_end_was_not_recorded_is_adopted(tmp_path: Path, force: bool) -> None:
    run(tmp_path, stage(tmp_path))
    forget_the_end(tmp_path)
    before = (tmp_path / "l.jsonl").stat().st_mtime_ns
    assert run(tmp_path, stage(tmp_path), force=force) == 1
    assert (tmp_path / "l.jsonl").stat().st_mtime_ns == before
    assert read_manifest(tmp_path)["label l"].finished


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("there", ["other settings", "cut", "nothing known"])
def test_what_does_not_fit_is_made_again(tmp_path: Path, there: str, force: bool) -> None:
    run(tmp_path, stage(tmp_path))
    forget_the_end(tmp_path)
    path = tmp_path / "l.jsonl"
    if there == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        settings = {} if there == "nothing known" else {**SETTINGS, "search": {"seed": 2}}
        write_result(path, labels(settings=settings))
    assert run(tmp_path, stage(tmp_path), force=force) == 2
    assert read_result(path).record.settings == SETTINGS


def test_labels_of_unknown_origin_are_neither_taken_nor_lost(tmp_path: Path) -> None:
    write_result(tmp_path / "l.jsonl", labels("by hand"))
    with pytest.raises(ResumeError, match=rf"l.jsonl exists, and .*{MANIFEST} knows nothing of it; .*--force"):
        run(tmp_path, stage(tmp_path))
    assert read_result(tmp_path / "l.jsonl").record.created == "by hand"
    assert run(tmp_path, stage(tmp_path), force=True) == 1


def reading(folder: Path) -> Stage:
    """A stage that reads the labels."""
    code = "import sys; open(sys.argv[1], 'a').write('read\\n')"
    words = (sys.executable, "-c", code, str(folder / "second"))
    return Stage("train l", words, {}, (folder / "l.jsonl",), (folder / "second",))


def test_labels_that_are_made_again_are_the_same_labels(tmp_path: Path) -> None:
    run(tmp_path, stage(tmp_path), reading(tmp_path))
    (tmp_path / "l.jsonl").unlink()
    write_result(tmp_path / "source", labels("2027-07-07", seconds=9.0))
    assert run(tmp_path, stage(tmp_path), reading(tmp_path)) == 2
    assert (tmp_path / "second").read_text() == "read\n"
    write_result(tmp_path / "l.jsonl", replace(labels(), labeled_examples=labels().labeled_examples[:-1]))
    with pytest.raises(ResumeError, match="changed"):
        run(tmp_path, stage(tmp_path), reading(tmp_path))


def test_manifests_of_earlier_versions_know_labels_by_their_bytes(tmp_path: Path) -> None:
    run(tmp_path, stage(tmp_path), reading(tmp_path))
    path, records = str(tmp_path / "l.jsonl"), read_manifest(tmp_path)
    known = {path: file_sha256(path)}
    records["label l"] = replace(records["label l"], outputs=known)
    records["train l"] = replace(records["train l"], inputs=known)
    write_manifest(tmp_path, records)
    assert run(tmp_path, stage(tmp_path), reading(tmp_path)) == 1
    assert (tmp_path / "second").read_text() == "read\n"


def test_a_training_that_is_made_again_is_the_same_training(tmp_path: Path) -> None:
    weights, results = tmp_path / "adapter_model.safetensors", tmp_path / "train_results.json"
    weights.write_bytes(b"w")
    write_json(results, {"train_loss": 1.0, "minutes": 2.0, "peak_memory_gib": {"process": 1}})
    first = digest(results)
    write_json(results, {"train_loss": 1.0, "minutes": 3.0, "peak_memory_gib": {"process": 2}})
    assert digest(results) == first
    weights.write_bytes(b"v")
    assert digest(results) != first


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"other"), lambda path: path.rename(f"{path}.bak")])
def test_a_model_is_known_by_what_lies_in_its_folder(tmp_path: Path, change: Callable[[Path], object]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text(json.dumps(name))
    run(tmp_path, stage(tmp_path, inputs=(model,)))
    assert run(tmp_path, stage(tmp_path, inputs=(model,))) == 1
    change(model / "tokenizer.json")
    with pytest.raises(ResumeError, match="model has changed"):
        run(tmp_path, stage(tmp_path, inputs=(model,)))
    assert run(tmp_path, stage(tmp_path, inputs=(model,)), force=True) == 2
