"""What a finished run leaves: weights, tokenizer, settings, environment, metrics, loss plot, card, results."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from icm.files import atomic_write, read_object, write_json, write_jsonl
from icm.provenance import git_revision, machine, package_versions, peak_memory_gib
from icm.publish.hub import push_adapter
from icm.text import say
from train.card import write_card
from train.check import Plan, check_hub_token
from train.checkpoints import FINISHED_FILE
from train.rows import LengthStatistics
from train.trainers import METRICS_FILE, metrics_rows

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

_ALSO = ("trl", "accelerate", "datasets", "huggingface_hub")
# Files that the trainer leaves beside the weights: a pickle of its settings, which stand in config.yaml.
_SURPLUS = ("training_args.bin",)


@dataclass(frozen=True)
class Results:
    """How the run went. Times and memory count this start alone, not what ran before a resume.

    Attributes:
        train_loss: mean of the logged losses, nats a label token (SFT) or a pair (DPO).
        final_loss: loss at the last logged step.
        steps: optimiser steps.
        examples: labelled examples.
        rows: training rows.
        trainable_parameters, parameters: of the model with its adapter.
        minutes: wall-clock time of training.
        peak_memory_gib: largest resident memory of a rank's process, and of its GPU where there is one.
        lengths: of the rows in tokens.
    """

    train_loss: float
    final_loss: float
    steps: int
    examples: int
    rows: int
    trainable_parameters: int
    parameters: int
    minutes: float
    peak_memory_gib: dict[str, float]
    lengths: LengthStatistics


def write_outputs(plan: Plan, trainer: "Trainer", lengths: LengthStatistics, push: bool) -> None:
    """Write everything but config.yaml, which is there already.

    The results file comes last: where it stands, the rest is whole.
    """
    results = _results(plan, trainer, lengths)
    _save_weights(plan, trainer)
    if trainer.is_world_process_zero():
        folder = plan.output_dir
        history = metrics_rows(trainer.state.log_history, plan.arguments.total_batch_size / results.rows)
        write_jsonl(folder / METRICS_FILE, history)
        environment = describe_environment(trainer)
        write_json(folder / "environment.json", environment)
        plot_loss(history, folder / "loss.png")
        write_card(plan, trainer, asdict(results), environment)
        write_json(folder / FINISHED_FILE, asdict(results) | _provenance(plan))
        say(_summary(plan, results), error=True)
    trainer.accelerator.wait_for_everyone()
    if push and trainer.is_world_process_zero():
        push_outputs(plan, trainer.args)
    trainer.end()


def _save_weights(plan: Plan, trainer: "Trainer") -> None:
    """Adapter (or model) and tokenizer. The adapter names its base as the user did, not a folder of this machine."""
    trainer.save_model(str(plan.output_dir))
    if not trainer.is_world_process_zero():
        return
    for name in _SURPLUS:
        (plan.output_dir / name).unlink(missing_ok=True)
    path = plan.output_dir / "adapter_config.json"
    if path.is_file():
        config = read_object(path)
        write_json(path, config | {"base_model_name_or_path": plan.model, "revision": plan.revision})


def _results(plan: Plan, trainer: "Trainer", lengths: LengthStatistics) -> Results:
    history = trainer.state.log_history
    summary = next(row for row in reversed(history) if "train_loss" in row)
    losses = [row["loss"] for row in history if "loss" in row]
    model = trainer.accelerator.unwrap_model(trainer.model)
    # ZeRO-3 leaves empty shards in place of parameters and keeps their size beside them.
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return Results(
        train_loss=fmean(losses or [summary["train_loss"]]),  # the summary's counts this start alone
        final_loss=losses[-1] if losses else summary["train_loss"],
        steps=trainer.state.global_step,
        examples=len(plan.result.labeled_examples),
        rows=len(plan.rows.rows),
        trainable_parameters=sum(size for size, trained in sizes if trained),
        parameters=sum(size for size, _ in sizes),
        minutes=round(summary["train_runtime"] / 60, 2),
        peak_memory_gib=_peak_memory(trainer),
        lengths=lengths,
    )


def _peak_memory(trainer: "Trainer") -> dict[str, float]:
    """GiB, largest over the ranks."""
    import torch

    host = peak_memory_gib()
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    every = trainer.accelerator.gather(torch.tensor([[host, gpu]], device=trainer.accelerator.device))
    host, gpu = (round(value, 2) for value in every.max(dim=0).values.tolist())
    return {"process": host, "gpu": gpu} if gpu else {"process": host}


def _provenance(plan: Plan) -> dict[str, str | None]:
    return {
        "model": plan.model,
        "revision": plan.revision,
        "method": plan.arguments.method,
        "labels": Path(plan.arguments.labels).name,
        "labels_sha256": plan.labels_sha256,
        "labels_content": plan.labels_content,
        "label_source": plan.arguments.label_source,
    }


def describe_environment(trainer: "Trainer") -> dict[str, object]:
    """Versions, code revision and layout of the run."""
    import torch

    state, code = trainer.accelerator.state, git_revision()
    return {
        "versions": package_versions(_ALSO),
        "git": code and asdict(code),
        "platform": machine(),
        "processes": state.num_processes,
        "distributed": state.distributed_type.value,
        "device": str(state.device.type),
        "threads": torch.get_num_threads(),
    }


def plot_loss(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss over epochs as PNG."""
    from matplotlib.figure import Figure

    points = [(row["epoch"], row["loss"]) for row in history if "loss" in row]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss (nats)")
    axes.grid(alpha=0.3)
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=150)


def _summary(plan: Plan, results: Results) -> str:
    memory = ", ".join(f"{value} GiB {name}" for name, value in results.peak_memory_gib.items())
    return (
        f"trained  {results.steps} steps in {results.minutes} min, loss {results.train_loss:.4f}, "
        f"peak memory {memory} (largest rank)\nwritten  {plan.output_dir}"
    )


def push_outputs(plan: Plan, training: "TrainingArguments") -> None:
    """Publish a finished run."""
    name = training.hub_model_id or plan.output_dir.name
    repo = name if "/" in name else f"{check_hub_token()}/{name}"
    say(f"pushed   {push_adapter(plan.output_dir, repo, private=bool(training.hub_private_repo))}", error=True)
