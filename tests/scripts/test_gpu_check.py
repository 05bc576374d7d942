"""scripts/gpu_check.sh runs where no GPU is, too: what needs one is SKIPPED, the rest is real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_list_without_a_gpu(tiny_model: Path, tmp_path: Path) -> None:
    page, model = tmp_path / "page.md", tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_check.sh", "--model", model, "--page", page],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in page.read_text().splitlines()[6:]]
    states = {check: state for state, check, _, _ in rows}
    real = {"transformers engine, CPU", "icm run", "training", "kill -9 and resume", "evaluation with the adapter"}
    assert len(states) == 13 and {check for check, state in states.items() if state == "PASS"} == real
    assert set(states.values()) == {"PASS", "SKIPPED"}
    figures = {check: figure for _, check, figure, _ in rows}
    assert "tokens/s" in figures["transformers engine, CPU"] and "rows/s" in figures["training"]
    assert "the largest difference 0" in figures["kill -9 and resume"]  # the same bits on a CPU
