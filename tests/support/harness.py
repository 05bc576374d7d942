"""Runs lm-evaluation-harness itself on local questions: its task files, its request building, its model class."""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from icm.models import resolve_model


def harness_scores(model: str, questions: list[dict[str, Any]]) -> dict[str, float]:
    """`mc1` and `mc2` as the harness computes them in float32 on the CPU, with its own data set replaced."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "validation.json"
        data.write_text("\n".join(json.dumps(_hub_row(row)) for row in questions), encoding="utf-8")
        shared = {
            **_task_file("truthfulqa_mc1"),
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"validation": str(data)}},
        }
        second = {
            **shared,
            "task": "truthfulqa_mc2",
            "doc_to_choice": "{{mc2_targets.choices}}",
            "process_results": process_results_mc2,
        }
        harness_model = HFLM(pretrained=resolve_model(model), dtype="float32", device="cpu", batch_size=1)
        own = TaskManager(include_defaults=False)  # else it reads the files of its thousands of tasks
        found = lm_eval.simple_evaluate(harness_model, tasks=[shared, second], task_manager=own, bootstrap_iters=0)
    return {name: found["results"][f"truthfulqa_{name}"]["acc,none"] for name in ("mc1", "mc2")}


def _task_file(name: str) -> dict[str, Any]:
    import lm_eval.tasks.truthfulqa

    path = Path(lm_eval.tasks.truthfulqa.__path__[0]) / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _hub_row(row: dict[str, Any]) -> dict[str, Any]:
    """The hub's form of a question: parallel lists, the true answer of MC1 first."""
    targets = {
        name: {"choices": list(row[name]), "labels": list(row[name].values())}
        for name in ("mc1_targets", "mc2_targets")
    }
    return {"question": row["question"], **targets}
