"""Train an adapter (or a whole model) on labels.

    accelerate launch --config_file configs/accelerate/cpu.yaml train/run.py \
        --config configs/train/sft_lora.yaml --labels RESULT.jsonl [--label_source gold] [--output_dir DIR]

Any setting of TRL's SFTConfig or DPOConfig and ModelConfig stands in the YAML file or on the command line, which
wins. Run the same command again to continue after a crash.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from icm.doors import door, storing
from icm.doors.locks import held
from icm.doors.signals import tether
from icm.errors import ConfigError
from icm.files import write_json
from icm.secrets import load_secrets
from icm.text import Console, say
from train.arguments import (
    GivenSettings,
    TrainingConfig,
    read_settings,
    training_arguments,
    training_parser,
    write_resolved,
)
from train.check import Plan, flip_probability, make_plan
from train.checkpoints import (
    LOCK_FILE,
    RUN_FILE,
    check_output_dir,
    empty,
    is_finished,
    newest_complete,
    remove_torn,
)
from train.rows import LengthStatistics, TokenRow, check_lengths, show_row, token_rows
from train.world import check_world_size, launch_words, leave, rank, show_one_gpu, started_processes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.model_config import ModelConfig


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code. What a user can mend becomes one line on standard error."""
    again = "; the same command continues from the newest complete checkpoint"
    return door("error", lambda: _run(words), again, speaks=rank() == 0)


def _run(words: Sequence[str]) -> int:
    if launch_words() is not None:
        tether()  # a launcher that is killed takes no rank along
    load_secrets(Path.cwd())
    settings = read_settings(words)
    if settings.help:
        _print_help(settings)
        return 0
    check_world_size(started_processes())
    plan = make_plan(settings)
    with _only_one(plan):
        if is_finished(plan.output_dir) and not plan.arguments.overwrite_output_dir:
            _say(f"{plan.output_dir}: finished before; --overwrite_output_dir trains again")
            _push_again(plan)
            return 0
        _say(plan.report())
        with storing(plan.output_dir):
            train(plan)
    return 0


@contextmanager
def _only_one(plan: Plan) -> Iterator[None]:
    """Two trainings in one folder would write over each other; the first rank holds the folder for all."""
    folder = plan.output_dir
    busy = f"output_dir {folder}: another training is writing there; wait, or choose another --output_dir"
    with held(folder / LOCK_FILE, busy) if rank() == 0 else nullcontext():
        check_output_dir(folder, plan.identity, plan.arguments.overwrite_output_dir)
        yield


def _push_again(plan: Plan) -> None:
    """A run may have finished without reaching the hub."""
    training, _ = training_arguments(plan.settings, plan.arguments.method, plan.output_dir)
    if training.push_to_hub and rank() == 0:
        from train.outputs import push_outputs

        push_outputs(plan, training)


def train(plan: Plan) -> None:
    """Train, continuing from the newest complete checkpoint, and write the outputs.

    Raises:
        ICMError: settings that TRL refuses, rows that do not fit, or ranks that are missing.
    """
    show_one_gpu()
    training, model = training_arguments(plan.settings, plan.arguments.method, plan.output_dir)
    check_world_size(training.distributed_state.num_processes)
    _set_flip_probability(plan, training)
    tokenizer, rows = _tokenize(plan, training)
    _prepare_folder(plan, training, model)
    # Pushed once, when everything is written, instead of at every checkpoint.
    push, training.push_to_hub = training.push_to_hub, False

    from train.outputs import write_outputs
    from train.trainers import build_trainer

    try:
        trainer = build_trainer(plan, rows, tokenizer, training, model)
    except ValueError as error:  # such as LoRA modules that this model has none of
        raise ConfigError(f"the training cannot be set up: {' '.join(str(error).split())[:300]}") from None
    checkpoint = newest_complete(plan.output_dir)
    if checkpoint is not None:
        _say(f"continuing from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    write_outputs(plan, trainer, LengthStatistics.of(rows), push)


def _tokenize(plan: Plan, training: TrainingConfig) -> "tuple[PreTrainedTokenizerBase, list[TokenRow]]":
    """Tokenizer and rows; shows the lengths and one row with its loss mask."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plan.model_path, revision=plan.revision or "main")
    own = plan.arguments
    rows = token_rows(plan.rows.rows, tokenizer, plan.result, own.method, own.apply_chat_template)
    if training.max_length is not None:
        check_lengths(rows, plan.rows.rows, training.max_length, "max_length")
    text_config = AutoConfig.from_pretrained(plan.model_path, revision=plan.revision or "main").get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    if context is not None:
        check_lengths(rows, plan.rows.rows, context, "the model's context length")
    if rank() == 0:
        _say(f"lengths  {LengthStatistics.of(rows)}")
        Console(stderr=True).print(show_row(rows[0], tokenizer))
    return tokenizer, rows


def _set_flip_probability(plan: Plan, training: TrainingConfig) -> None:
    """Robust DPO without a given flip probability takes it from the labels' confidence."""
    from trl.trainer.dpo_config import DPOConfig

    if isinstance(training, DPOConfig) and "robust" in training.loss_type and training.label_smoothing == 0:
        training.label_smoothing = flip_probability(plan.result)
        _say(f"robust   flip probability {training.label_smoothing:.3f}, from the labels' log-odds")


def _prepare_folder(plan: Plan, training: TrainingConfig, model: "ModelConfig") -> None:
    """Empty the folder if asked, name its run, remove torn checkpoints; the other ranks wait."""
    state = training.distributed_state
    if state.is_main_process:
        if plan.arguments.overwrite_output_dir:
            empty(plan.output_dir)
        write_json(plan.output_dir / RUN_FILE, plan.identity)
        write_resolved(plan.output_dir / "config.yaml", plan.arguments, training, model)
        for folder in remove_torn(plan.output_dir):
            _say(f"{folder.name} is incomplete (killed while saving?): removed")
    state.wait_for_everyone()


def _print_help(settings: GivenSettings) -> None:
    say(__doc__)
    training_parser("dpo_labels" if settings.first("method", "sft").startswith("dpo") else "sft").print_help()


def _say(text: str) -> None:
    if rank() == 0:
        say(text, error=True)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
