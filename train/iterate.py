"""Iterative fine-tuning for data larger than one context (arXiv 2506.10139, section on larger data sets).

    python train/iterate.py --settings SETTINGS.yaml --train_config configs/train/sft_lora.yaml \
        --output_dir DIR --rounds 8 [--scheme kfold] [--accelerate_config configs/accelerate/cpu.yaml]

`grow` (default): label part 1 with the base model; fine-tune the base on parts 1..j; label part j+1 with the result.
`kfold`: label everything with the base model; for each fold fine-tune on the others and label it again.

SETTINGS is a settings file of `icm run`. This is `icm pipeline` with `label: {rounds: …, scheme: …}` for an experiment
without a file: it ends with labels/*.jsonl, adapters trained on them and, where there is gold, on gold, and an
evaluation of both where data is held out. Run the same command again to continue.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icm.config import LabelSource
from icm.doors import door
from icm.errors import ConfigError
from icm.labelling.settings import environment_values, file_values, resolve_settings
from icm.pipeline.experiment import LabelStage, PipelineConfig, Scheme, TrainStage
from icm.pipeline.run import run_pipeline
from icm.secrets import load_secrets
from icm.tasks import load_task
from icm.tasks.written import stand_ins

_OWN = {"algorithm", "seed", "slice", "output_dir", "output_name"}
"""Options of `icm run` that an experiment sets itself."""


def experiment(
    settings: Path, train_config: Path, accelerate_config: Path, output_dir: Path, rounds: int, scheme: Scheme
) -> PipelineConfig:
    """The experiment that the options describe. Raises ICMError for what cannot be used."""
    for name, path in (("train_config", train_config), ("accelerate_config", accelerate_config)):
        if not path.is_file():
            raise ConfigError(f"--{name} {path}: no such file")
    if rounds < 2:
        raise ConfigError(f"--rounds: found {rounds}, expected at least 2")
    resolved = resolve_settings({}, settings_file=settings)
    data, algorithms = load_task(resolved.data), (resolved.search.algorithm,)
    sources: tuple[LabelSource, ...] = ("labels", "gold") if len(data.gold) == len(data.dataset) else ("labels",)
    held_out = resolved.data.holdout and load_task(replace(resolved.data.whole, part="test"), stand_ins).gold
    tuned = [{"name": f"Fine-tuned {s}", "kind": "fine-tuned", "labels_from": s} for s in sources]
    given = {**file_values(settings), **environment_values(os.environ)}
    return PipelineConfig(
        path=settings,
        name=output_dir.name,
        output_dir=output_dir,
        given={name: value for name, value in given.items() if name not in _OWN},
        label=LabelStage(algorithms, (resolved.search.seed,), rounds=rounds, scheme=scheme),
        train=TrainStage(str(train_config), str(accelerate_config), algorithms, sources),
        eval={"conditions": [{"name": "Zero-shot Base", "kind": "zero-shot"}, *tuned]} if held_out else None,
    )


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, required=True, help="settings file of `icm run`")
    parser.add_argument("--train_config", type=Path, required=True, help="recipe of train/run.py")
    parser.add_argument("--accelerate_config", type=Path, default=Path("configs/accelerate/cpu.yaml"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="parts of the data, or folds")
    parser.add_argument("--scheme", choices=("grow", "kfold"), default="grow")
    arguments = parser.parse_args(words)

    def run() -> None:
        load_secrets(Path.cwd())
        run_pipeline(experiment(**vars(arguments)))

    return door("error", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
