"""Label files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from icm.examples import LabelSpace
from icm.files import write_jsonl
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.record import DataRecord, ModelRecord, RunRecord
from icm.tasks import load_task
from icm.tasks.source import DataSource


@pytest.fixture(scope="session")
def make_labels(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Label files for the first `size` reviews of the train part, every `wrong`-th label flipped."""

    def make(size: int, model: str, wrong: int = 5, source: DataSource | None = None) -> Path:
        source = source or DataSource(dataset=str(reviews), holdout=0.25)
        data = load_task(source)
        space = data.dataset.label_space
        other = dict(zip(space.labels, reversed(space.labels), strict=True))
        items = [
            LabeledExample(e, other[data.gold[e.id]] if place % wrong == 0 else data.gold[e.id], 0.5 + place % 3)
            for place, e in enumerate(data.dataset.examples[:size])
        ]
        record = RunRecord(model=ModelRecord(model), data=DataRecord(source))
        path = tmp_path_factory.mktemp("labels") / "things_icm.jsonl"
        write_result(path, ICMResult(items, -0.4, space, data.dataset.task, record))
        return path

    return make


@pytest.fixture(scope="session")
def answers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label file with two true and two false answers to each of four questions."""
    source = tmp_path_factory.mktemp("claims") / "claims.jsonl"
    rows = [
        {
            "question": f"What is {n} plus {n}?",
            "choice": f"It is {n + n + d}.",
            "label": int(d == 0),
            "consistency_id": n,
        }
        for n in range(3, 7)
        for d in (0, 1, 2, 3)
    ]
    write_jsonl(source, rows)
    data = load_task(DataSource(dataset=str(source), task_type="truthfulqa"))
    items = [LabeledExample(e, "True" if i % 2 else "False", 1.0) for i, e in enumerate(data.dataset)]
    path = source.with_name("answers.jsonl")
    write_result(path, ICMResult(items, None, LabelSpace(), "truthfulqa"))
    return path
