"""Real training through the real command: what moves, layouts, kills, outputs."""

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_runs import ROOT, command, environment, train, train_here, weights

from icm.files import file_sha256, read_jsonl
from icm.models import resolve_model
from train.checkpoints import checkpoints
from train.run import main

pytestmark = pytest.mark.slow
MakeLabels = Callable[..., Path]
CONFIGS = ROOT / "configs" / "accelerate"


@pytest.fixture(scope="module")
def labels(make_labels: MakeLabels, tiny_model: Path) -> Path:
    """40 labels; with 8 rows a step and 3 epochs that is 15 steps."""
    return make_labels(40, str(tiny_model))


@pytest.fixture(scope="module")
def baseline(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one rank."""
    output = tmp_path_factory.mktemp("runs") / "baseline"
    train(labels, output, ["--config_file", str(CONFIGS / "cpu.yaml")])
    return output


def losses(folder: Path) -> list[float]:
    return [row["loss"] for _, row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "train_results.json").read_text())


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_outputs(baseline: Path, labels: Path, tiny_model: Path) -> None:
    from huggingface_hub import ModelCard

    found = results(baseline)
    assert found["labels_sha256"] == file_sha256(labels)
    assert (found["steps"], found["rows"], found["examples"]) == (15, 40, 40)
    assert 0 < found["peak_memory_gib"]["process"] < 8 and found["minutes"] > 0
    assert found["trainable_parameters"] == sum(tensor.numel() for tensor in weights(baseline).values())
    assert len(losses(baseline)) == 15 and losses(baseline)[-1] < losses(baseline)[0]
    last = [row for _, row in read_jsonl(baseline / "metrics.jsonl")][-1]
    assert (last["step"], last["epoch"]) == (15, 3)
    assert (baseline / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.yaml", "environment.json", "tokenizer.json"} <= {path.name for path in baseline.iterdir()}
    assert not list(baseline.glob("*.bin")) and not list(baseline.glob("*.tmp"))
    assert json.loads((baseline / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)
    card = ModelCard.load(baseline / "README.md")
    assert card.data.to_dict()["base_model_relation"] == "adapter" and "None" not in card.text
    assert found["labels_sha256"] in card.text


def test_labels_of_one_model_train_another(labels: Path, tmp_path: Path) -> None:
    """The adapter and its record name the model that was trained; the card names it and the labeler."""
    from huggingface_hub import ModelCard
    from support.tiny_training import save_tiny_llama

    other = save_tiny_llama(tmp_path / "other-llama")
    assert train_here(labels, tmp_path / "out", model_name_or_path=other, max_steps=1) == 0
    assert results(tmp_path / "out")["model"] == str(other)
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "| model | other-llama |" in card and "| labelling model | tiny-llama |" in card


def test_resolved_config_can_be_read_again(baseline: Path) -> None:
    from train.arguments import read_settings, training_arguments

    settings = read_settings(["--config", str(baseline / "config.yaml")])
    training, model = training_arguments(settings, "sft", baseline)
    assert (training.learning_rate, training.warmup_steps, training.bf16) == (0.01, 0.05, False)
    assert (model.lora_r, model.lora_target_modules, model.dtype) == (32, "all-linear", "float32")


def test_a_finished_run_is_left_alone(baseline: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (baseline / "train_results.json").stat().st_mtime_ns
    assert train_here(labels, baseline) == 0
    assert "finished before" in capsys.readouterr().err
    assert (baseline / "train_results.json").stat().st_mtime_ns == before
    assert train_here(labels, baseline, learning_rate=0.02) == 2
    assert "learning_rate was ['0.01'], is ['0.02']" in capsys.readouterr().err


def test_two_ranks_draw_the_same_curve(baseline: Path, labels: Path, tmp_path: Path) -> None:
    train(labels, tmp_path / "two", ["--config_file", str(CONFIGS / "cpu_2.yaml"), "--main_process_port", "0"])
    assert losses(tmp_path / "two") == pytest.approx(losses(baseline), rel=1e-3)
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["processes"] == 2


def test_rows_at_once_without_padding_have_the_same_losses(baseline: Path, labels: Path, tmp_path: Path) -> None:
    """The recipe takes rows together without padding and keeps activations; sums alone come in another order."""
    apart = {"padding_free": "false", "per_device_train_batch_size": 1, "gradient_checkpointing": "true"}
    assert train_here(labels, tmp_path / "apart", **apart) == 0
    assert losses(tmp_path / "apart") == pytest.approx(losses(baseline), rel=1e-4)


def test_a_launcher_that_drops_a_rank_is_caught(labels: Path, tmp_path: Path) -> None:
    done = train(labels, tmp_path / "trap", ["--cpu", "--num_processes", "2"], check=False)
    assert done.returncode != 0
    assert "2 processes were asked for, but 1 took part" in done.stderr
    assert not (tmp_path / "trap").exists()


def kill_when(ready: Callable[[], bool], words: list[str], delay: float, **variables: str) -> None:
    """Start the command and kill it `delay` seconds after `ready`."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(**variables),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not ready() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)  # a launcher's child, too
    process.wait()


def test_killed_run_ends_with_the_same_weights(baseline: Path, labels: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    delay = random.Random(os.getpid()).uniform(0, 0.4)
    kill_when(lambda: (output / "checkpoint-9").exists(), command(labels, output), delay)
    assert not (output / "train_results.json").exists()
    newest = checkpoints(output)[-1]
    (newest / "complete.json").unlink(missing_ok=True)  # torn, whenever the kill came
    (newest / "optimizer.pt").unlink(missing_ok=True)
    done = train(labels, output)
    assert f"{newest.name} is incomplete" in done.stderr
    assert "continuing from checkpoint-" in done.stderr
    assert same_weights(output, baseline)
    assert losses(output) == losses(baseline)


@pytest.mark.gpu
def test_one_gpu_draws_the_same_curve_and_continues_after_a_kill(baseline: Path, labels: Path, tmp_path: Path) -> None:
    on_gpu, one_gpu = {"CUDA_VISIBLE_DEVICES": "0"}, ["--config_file", str(CONFIGS / "single_gpu.yaml")]
    train(labels, tmp_path / "whole", one_gpu, variables=on_gpu)
    assert losses(tmp_path / "whole") == pytest.approx(losses(baseline), rel=1e-2)  # bfloat16 there
    assert results(tmp_path / "whole")["peak_memory_gib"]["gpu"] > 0
    output = tmp_path / "killed"
    ready = output / "checkpoint-9" / "complete.json"
    kill_when(ready.exists, command(labels, output, one_gpu), 0, **on_gpu)
    done = train(labels, output, one_gpu, variables=on_gpu)
    assert "continuing from checkpoint-" in done.stderr
    assert losses(output) == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_dpo_on_answers_with_robust_loss(
    answers_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "config": ROOT / "configs" / "train" / "dpo_robust.yaml",
        "labels": answers_file,
        "output_dir": tmp_path / "dpo",
        "method": "dpo_answers",
        "model_name_or_path": tiny_model,
        "total_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 0.001,
    }
    assert main([f"--{name}={value}" for name, value in values.items()]) == 0
    assert "flip probability 0.269" in capsys.readouterr().err  # 1 - sigmoid(1)
    assert len(set(losses(tmp_path / "dpo"))) > 1
    assert any(tensor.abs().sum() > 0 for name, tensor in weights(tmp_path / "dpo").items() if "lora_B" in name)


def test_deepspeed_draws_the_same_curve(baseline: Path, labels: Path, tmp_path: Path) -> None:
    """Two ranks on the CPU, parameters sharded too. The first start on a machine compiles DeepSpeed's communication
    kernel."""
    pytest.importorskip("deepspeed", reason="needs the extra [deepspeed]")
    if not (shutil.which("g++") and shutil.which("ninja")):
        pytest.skip("needs g++ and ninja")
    output = tmp_path / "zero"
    launch = ["--config_file", str(CONFIGS / "zero3_cpu.yaml"), "--main_process_port", "0"]
    train(labels, output, launch, variables={"DS_ACCELERATOR": "cpu"})
    described = json.loads((output / "environment.json").read_text())
    assert (described["processes"], described["distributed"]) == (2, "DEEPSPEED")
    assert losses(output) == pytest.approx(losses(baseline), rel=1e-3)
    whole, sharded = weights(baseline), weights(output)
    assert whole.keys() == sharded.keys()
    assert all(torch.allclose(whole[name], sharded[name], atol=1e-2) for name in whole)
    assert results(output)["parameters"] == results(baseline)["parameters"]


def test_merged_model_answers_like_base_and_adapter(
    baseline: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merge = runpy.run_path(str(ROOT / "scripts" / "merge_adapter.py"))["main"]
    assert merge([str(baseline), str(tmp_path / "merged")]) == 0
    assert merge([str(baseline), str(tmp_path / "merged")]) == 2 and "exists already" in capsys.readouterr().err
    ids = torch.tensor([[5, 77, 300, 9]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, str(baseline))(input_ids=ids).logits
    assert torch.allclose(merged(input_ids=ids).logits, adapted, atol=1e-4)
    assert not torch.allclose(plain, adapted, atol=1e-2)
    assert (tmp_path / "merged" / "tokenizer.json").is_file() and list((tmp_path / "merged").glob("*.safetensors"))


def test_embedded_adapter_moves_and_base_does_not(make_labels: MakeLabels, tmp_path: Path) -> None:
    """The real model, in this process, so that the trained model can be looked at before it is saved."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from train.arguments import read_settings, training_arguments
    from train.check import make_plan
    from train.outputs import write_outputs
    from train.rows import LengthStatistics, token_rows
    from train.trainers import build_trainer

    labels = make_labels(8, "embedded")
    output = tmp_path / "embedded"
    settings = read_settings(
        ["--config", "configs/train/demo_sft.yaml", f"--labels={labels}", f"--output_dir={output}", "--max_steps=2"]
    )
    plan = make_plan(settings)
    training, model_config = training_arguments(settings, "sft", output)
    tokenizer = AutoTokenizer.from_pretrained(plan.model_path)
    rows = token_rows(plan.rows.rows, tokenizer, plan.result, "sft")
    trainer = build_trainer(plan, rows, tokenizer, training, model_config)
    trainer.train()
    write_outputs(plan, trainer, LengthStatistics.of(rows), push=False)

    fresh = AutoModelForCausalLM.from_pretrained(resolve_model("embedded"), dtype=torch.bfloat16)
    trained = {name.replace(".base_layer", ""): p for name, p in trainer.model.get_base_model().named_parameters()}
    assert all(torch.equal(p, trained[name]) for name, p in fresh.named_parameters())
    assert all(tensor.abs().max() > 0 for name, tensor in weights(output).items() if "lora_B" in name)
    assert sum("lora_B" in name for name in weights(output)) == 7 * 30  # all linear layers

    ids = torch.tensor([[*rows[0].prompt]])
    reloaded = PeftModel.from_pretrained(fresh, str(output)).eval()
    # Training runs under autocast, which the trainer's model keeps: the same for both.
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.bf16):
        again, now = reloaded(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits
    assert torch.equal(again.float(), now.float())
