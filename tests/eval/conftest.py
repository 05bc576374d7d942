"""Label files and settings over the built-in reviews."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.evaluation_data import TEST, TRAIN
from support.tiny_training import save_tiny_llama

from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.record import DataRecord, RunRecord
from icm.tasks import load_task
from icm.tasks.source import DataSource


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose log-probabilities differ."""
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama", initializer_range=0.2)


@pytest.fixture(scope="session")
def label_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes label files: every `wrong`-th label differs from gold."""
    folder = tmp_path_factory.mktemp("labels")

    def make(name: str = "icm", wrong: int = 5, source: DataSource = TRAIN) -> str:
        task = load_task(source)
        rng = random.Random(name)
        items = []
        for place, example in enumerate(task.dataset):
            gold = task.gold[example.id]
            other = next(label for label in task.dataset.label_space.labels if label != gold)
            items.append(LabeledExample(example, other if place % wrong == 0 else gold, rng.gauss(2, 1)))
        record = RunRecord(data=DataRecord(source, task.dataset.fingerprint, "reviews"))
        path = folder / f"{name}.jsonl"
        write_result(path, ICMResult(items, -0.5, task.dataset.label_space, task.dataset.task, record))
        return str(path)

    return make


@pytest.fixture
def settings_file(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Writes a settings file over the test reviews with the tiny model."""

    def make(conditions: list[dict[str, Any]], **settings: Any) -> Path:
        content = {
            "data": TEST,
            "engine": {"model": str(tiny_model), "engine": "transformers", "dtype": "float32"},
            "shots": 16,
            "output_dir": str(tmp_path / "out"),
            "conditions": conditions,
            **settings,
        }
        path = tmp_path / "eval.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return make
