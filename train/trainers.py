"""TRL's trainers on our token rows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.model_config import ModelConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import get_peft_config, get_quantization_config

from icm.files import write_jsonl
from icm.text import say
from train.check import Plan
from train.checkpoints import PREFIX, mark_complete
from train.rows import TokenRow, row_order

METRICS_FILE = "metrics.jsonl"
_LINES = 10  # of a training that no terminal shows


class LabelTrainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
    """SFT without TRL's model card, which calls a local base model "None"; ours is written at the end."""

    def create_model_card(self, *arguments: object, **options: object) -> None:
        """Nothing: see `train.card`."""


class PairTrainer(DPOTrainer):  # type: ignore[misc, unused-ignore]
    """DPO on rows that are tokenised already, which DPOTrainer has no switch for."""

    def create_model_card(self, *arguments: object, **options: object) -> None:
        """Nothing: see `train.card`."""

    def _prepare_dataset(self, dataset: Dataset, *arguments: object, **options: object) -> Dataset:
        return dataset


class RunFiles(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Marks complete checkpoints, and keeps metrics.jsonl equal to the trainer's own log, also after a resume."""

    def __init__(self, output_dir: Path, epochs_a_step: float) -> None:
        self._output_dir = output_dir
        self._epochs_a_step = epochs_a_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """All ranks have written their part: mark the checkpoint."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_complete(self._output_dir / f"{PREFIX}{state.global_step}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Rewrite the metrics file."""
        if not state.is_world_process_zero:
            return
        rows = metrics_rows(state.log_history, self._epochs_a_step)
        write_jsonl(self._output_dir / METRICS_FILE, rows)
        tenth = -(-state.max_steps // _LINES)
        if not sys.stderr.isatty() and "loss" in rows[-1] and rows[-1]["step"] % tenth == 0:
            say(f"step {rows[-1]['step']} of {state.max_steps}, loss {rows[-1]['loss']:.4f}", error=True)


def metrics_rows(history: Sequence[dict[str, float]], epochs_a_step: float) -> list[dict[str, float]]:
    """The trainer's log with true epochs: the trainer sees all epochs as one long one (see `row_order`). Without TRL's
    `num_tokens`, which counts from the last start, and in one order of keys, which a checkpoint sorts."""
    rows = ({**row, "epoch": round(row["step"] * epochs_a_step, 4)} for row in history)
    return [{key: row[key] for key in sorted(row) if key != "num_tokens"} for row in rows]


def build_trainer(
    plan: Plan,
    rows: Sequence[TokenRow],
    tokenizer: PreTrainedTokenizerBase,
    training: SFTConfig | DPOConfig,
    model: ModelConfig,
) -> LabelTrainer | PairTrainer:
    """The trainer of the plan's method with model, adapter and data.

    Args:
        plan: the checked run.
        rows: token rows, each once.
        tokenizer: of the base model.
        training: SFTConfig or DPOConfig; `max_steps` and `model_init_kwargs` are set here.
        model: precision, quantisation and LoRA settings.
    """
    total = plan.arguments.total_batch_size
    order = _order(len(rows), total, training)
    training.max_steps = len(order) // total
    given = training.model_init_kwargs or {}
    assert not isinstance(given, str)  # TrainingArguments has parsed it
    training.model_init_kwargs = _loading(plan, model) | given
    columns = [row.columns() for row in rows]
    options: dict[str, Any] = {
        "model": plan.model_path,
        "args": training,
        "train_dataset": Dataset.from_list([columns[place] for place in order]),
        "processing_class": tokenizer,
        "quantization_config": get_quantization_config(model),
        "peft_config": get_peft_config(model),
        "callbacks": [RunFiles(plan.output_dir, total / len(rows))],
    }
    if isinstance(training, DPOConfig):
        trainer: LabelTrainer | PairTrainer = PairTrainer(**options)
    else:
        training.dataset_kwargs = {"skip_prepare_dataset": True}
        if training.padding_free:
            training.max_length = None  # `check_lengths` has been there; TRL would refuse to rely on it
        trainer = LabelTrainer(**options)
    # PEFT keeps a set, and would write it in another order in each process: the same adapter, another hash.
    for adapter in getattr(trainer.model, "peft_config", {}).values():
        if isinstance(adapter.target_modules, set):
            adapter.target_modules = sorted(adapter.target_modules)
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    return trainer


def _order(rows: int, total_batch: int, training: TrainingArguments) -> list[int]:
    """Places of the rows for `max_steps` if given, else for `num_train_epochs`."""
    steps = training.max_steps
    epochs = steps * total_batch / rows if steps > 0 else training.num_train_epochs
    return row_order(rows, epochs, total_batch, training.seed)


def _loading(plan: Plan, model: ModelConfig) -> dict[str, str | None]:
    """How the base model is loaded."""
    revision = plan.revision or "main"
    return {"revision": revision, "attn_implementation": model.attn_implementation, "dtype": model.dtype}
