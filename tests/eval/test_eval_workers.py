"""Answers of several engines: the same numbers, whoever dies; a condition's error is the same line."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from eval.conditions.answers import AnswerFile, Batch
from eval.conditions.base import ITEMS_PER_BATCH
from eval.run import main
from eval.settings import parse_settings
from eval.sheets import SHARDS_PER_WORKER, shard_bounds
from icm.engines import crew
from icm.engines.cluster import joined
from icm.errors import ConfigError

CONDITIONS: list[dict[str, Any]] = [
    {"name": "Majority", "kind": "majority"},
    {"name": "Base", "kind": "zero-shot"},
    {"name": "Preamble", "kind": "zero-shot", "preamble": True},
    {"name": "Found", "kind": "many-shot", "labels_from": "labels"},
    {"name": "Golden", "kind": "many-shot", "labels_from": "gold"},
]
QUESTIONS = [
    {"question": f"Is {n} an even number?", "mc1_targets": {"Yes": n % 2 == 0, "No": n % 2 == 1}} for n in range(40)
]
INCIDENTAL = {"date", "total_evaluation_time_seconds", "engine_starts", "config"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """As workers have, so that sums come in the same order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray of our own for all evaluations here: it starts in seconds that need not be spent twice."""
    pytest.importorskip("ray", reason="needs icm[ray]")
    with joined(None) as ray, pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew, "joined", lambda address: nullcontext(ray))
        yield


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, label_file: Callable[..., str]
) -> tuple[Path, Path]:
    """Output folder and settings file of an evaluation in one process, in batches of which the last is short."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "questions.json").write_text(json.dumps([{**q, "mc2_targets": q["mc1_targets"]} for q in QUESTIONS]))
    chat = {"name": "Chat", "kind": "chat", "model": str(tiny_model)}
    settings = {
        "data": {"dataset": "reviews", "part": "test", "max_examples": 56},
        "engine": {"model": str(tiny_model), "engine": "transformers", "dtype": "float32", "device": "cpu"},
        "labels": [label_file("spread")],
        "shots": 16,
        "orders": 2,
        "seeds": [0, 1],
        "conditions": [*CONDITIONS, chat],
        "multiple_choice": {"questions": str(folder / "questions.json"), "conditions": ["Base", "Chat"]},
    }
    path = folder / "eval.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["--config", str(path), "--output_dir", str(folder / "out")]) == 0
    return folder / "out", path


def figures(folder: Path) -> dict[str, Any]:
    """All of results.json, but for times and costs."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for entry in found["results"].values():
        cost = entry.pop("usage")
        entry["usage"] = {name: cost[name] for name in ("prompts", "prompt_tokens") if name in cost}
    return {name: value for name, value in found.items() if name not in INCIDENTAL}


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    """By file and id. Raises KeyError for none."""
    files = sorted((folder / "answers").iterdir())
    rows = {path.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in files}
    return {name: {a["id"]: a for batch in batches for a in batch["answers"]} for name, batches in rows.items()}


@pytest.mark.slow
def test_two_workers_of_which_one_dies_fill_the_gaps_with_the_same_numbers(
    alone: tuple[Path, Path], one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    out, kept, killed = tmp_path / "out", AnswerFile.add, list[psutil.Process]()
    shutil.copytree(alone[0] / "answers", out / "answers")
    for path in (out / "answers").iterdir():  # an earlier run, over workers too, has left holes
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[1:2] if path.name.startswith(("base", "golden")) else []), encoding="utf-8")

    def kill_one(file: AnswerFile, batch: Batch) -> None:
        kept(file, batch)
        working = [p for p in psutil.process_iter(["cmdline"]) if "ray::Worker.run" in "".join(p.info["cmdline"] or ())]
        if working and not killed and "majority" not in file.path.name:
            working[0].kill()
            killed.append(working[0])

    monkeypatch.setattr(AnswerFile, "add", kill_one)
    assert main(["--config", str(alone[1]), "--output_dir", str(out), "--workers", "2"]) == 0
    assert killed and any(" died while it answered " in said for said in caplog.messages)
    assert answers(out) == answers(alone[0])
    assert figures(out) == figures(alone[0])
    for path in sorted(alone[0].glob("samples_*.jsonl")):
        assert (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_error_of_a_condition_is_the_same_line(
    alone: tuple[Path, Path], one_ray: None, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "plain"))
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (model / name).unlink(missing_ok=True)
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    config = tmp_path / "eval.yaml"
    chat = {"name": "Chat", "kind": "chat", "model": str(model)}
    own = {"extends": str(alone[1]), "conditions": [chat], "multiple_choice": None, "output_dir": str(tmp_path / "out")}
    own["data"] = {"max_examples": 16}  # for one worker
    config.write_text(yaml.safe_dump(own), encoding="utf-8")
    said = []
    for workers in ("1", "auto"):
        assert main(["--config", str(config), "--workers", workers]) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert "no chat template, so not a chat model" in said[0]


def test_shards_are_whole_batches_and_cover_all_items() -> None:
    for items in (1, 16, 17, 1000, 100_003):
        for workers in (1, 2, 64):
            bounds = shard_bounds(items, workers)
            assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
            assert bounds[-1][1] == items and all(start % ITEMS_PER_BATCH == 0 for start, _ in bounds)
            assert len(bounds) <= workers * SHARDS_PER_WORKER
            if items >= 16 * workers * SHARDS_PER_WORKER:
                assert len(bounds) > workers * (SHARDS_PER_WORKER - 1)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--workers", "0"], "workers: found 0, expected auto or a number above 0"),
        (["--workers", "some"], "--workers: found 'some', expected a whole number or one of auto"),
    ],
)
def test_no_such_number_of_workers(words: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        parse_settings(["--labels", "labels.jsonl", *words])


def test_workers_where_no_cluster_is_get_one_line_before_anything_is_read(
    alone: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="needs icm[ray]")
    assert main(["--config", str(alone[1]), "--ray-address", "127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --ray-address 127.0.0.1:1: [Errno 111]")
