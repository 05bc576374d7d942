"""Settings of a training run: our few fields beside TRL's own, from a YAML file and the command line, strictly.

YAML values are turned into command-line tokens, so that types, choices and unknown keys get the same checks from
either source (TRL's own scripts pass YAML values through unchecked).
"""

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import yaml
from trl.scripts.utils import TrlParser

from icm.config import LabelSource
from icm.errors import ConfigError
from icm.files import atomic_write
from icm.labelling.options import nearest
from icm.secrets import refuse_secrets
from icm.yaml_files import read_mapping
from train.world import check_gpu, started_processes

if TYPE_CHECKING:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.model_config import ModelConfig
    from trl.trainer.sft_config import SFTConfig

TrainingConfig: TypeAlias = "SFTConfig | DPOConfig"
Method = Literal["sft", "sft_answers", "dpo_labels", "dpo_answers"]

# What may differ between the first start of a run and its continuation without changing its weights.
_NOT_IDENTITY = {
    "labels",
    "output_dir",
    "overwrite_output_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "report_to",
    "run_name",
}
_COMMAND_LINE = "command line"
_SETTINGS = (
    *(f"trl.trainer.{kind}_config" for kind in ("base", "sft", "dpo", "model")),
    "transformers.training_args",
)
# Follows from total_batch_size, the number of ranks and the rows that each takes at once; must therefore not be given.
_DERIVED = "gradient_accumulation_steps"
_ROWS = "per_device_train_batch_size"


@dataclass
class LabelArguments:
    """What a training run needs beside TRL's own settings.

    Attributes:
        labels: result file of `icm run` (or of codelion/icm).
        label_source: `labels` found by the labeler; `gold` the golden twin: the same examples with the data set's
            own labels; `random`: the same examples with balanced labels drawn from `seed`.
        surest: share of the examples of each label that are trained on, those that the labeler is surest of; twins take
            the same ones. Found labels are wrong mostly where the labeler is unsure.
        method: `sft` the label as completion; `sft_answers` the answers labelled True; `dpo_labels` the label against
            another label; `dpo_answers` an answer labelled True against one of the same question labelled False.
        confidence_margin: of answers, in nats: `dpo_answers` takes pairs whose labels' log-odds have at least this sum,
            `sft_answers` answers whose label has at least these log-odds.
        apply_chat_template: of answers: as turns of the tokenizer's chat template, the question in the user's words.
        total_batch_size: rows in one optimiser step over all ranks; gradient accumulation follows from it, so that a
            recipe means the same on one CPU and on many GPUs. A rank takes its share at once, or
            `per_device_train_batch_size` rows at a time where that is set.
        eval_source: `icm.tasks.DataSource` (mapping) of the evaluation; training on its questions is refused. What it
            does not say of the labelled data set is as its labels were made.
        task_type: module of your own task by which the label file's data are read, where the file names one.
        overwrite_output_dir: train again although the output folder holds a run.
    """

    labels: str = field(metadata={"help": "Result file of `icm run`."})
    label_source: LabelSource = field(
        default="labels", metadata={"help": "Labels found, gold labels of the same examples, or random ones."}
    )
    surest: float = field(
        default=1.0,
        metadata={"help": "Share of the examples of each label to train on: those that the labeler is surest of."},
    )
    method: Method = field(
        default="sft", metadata={"help": "Labels as completions, label preferences, or answer preferences."}
    )
    confidence_margin: float = field(
        default=0.0, metadata={"help": "Least sum of the log-odds of a pair's labels (dpo_answers), in nats."}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "Answers as turns of the tokenizer's chat template."}
    )
    total_batch_size: int = field(default=32, metadata={"help": "Rows in one optimiser step over all ranks."})
    eval_source: str | None = field(
        default=None,
        metadata={
            "help": "Data source of the evaluation (JSON; what it leaves out is as the labels were made); training on "
            "its questions is refused."
        },
    )
    task_type: str | None = field(
        default=None, metadata={"help": "Module of your own task, where the label file names one: its code is run."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Train again although the output folder holds a run."}
    )

    def __post_init__(self) -> None:
        if self.total_batch_size < 1:
            raise ConfigError(f"total_batch_size: found {self.total_batch_size}, expected at least 1")
        if not 0 < self.surest <= 1:
            raise ConfigError(f"surest: found {self.surest}, expected a share above 0 and at most 1")
        if not 0 <= self.confidence_margin < inf:
            raise ConfigError(f"confidence_margin: found {self.confidence_margin}, expected a number of at least 0")
        for name in ("confidence_margin", "apply_chat_template"):
            if getattr(self, name) and not self.method.endswith("_answers"):
                raise ConfigError(f"{name}: method {self.method} trains on labels, not on answers; leave it out")


class _Parser(TrlParser):
    """TRL's parser with errors as one line instead of two screens of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


@dataclass(frozen=True)
class GivenSettings:
    """What was set, by name, before types are known: the file's values overridden by the command line's.

    Attributes:
        values: setting → its words ([] for a bare flag), or None for YAML's null.
        origin: setting → where it was set, for messages.
        help: the command line asks for help.
    """

    values: Mapping[str, list[str] | None]
    origin: Mapping[str, str]
    help: bool = False

    def first(self, name: str, default: str = "") -> str:
        """The value of a setting of one word."""
        return (self.values.get(name) or [default])[0]

    def flag(self, name: str) -> bool:
        """Whether a boolean setting is on."""
        words = self.values.get(name)
        return words is not None and (not words or words[0].lower() in ("true", "1", "yes", "y", "t"))

    def identity(self) -> dict[str, list[str] | None]:
        """The settings that decide the weights."""
        return {name: words for name, words in sorted(self.values.items()) if name not in _NOT_IDENTITY}

    def label_arguments(self) -> LabelArguments:
        """Our own fields, checked; needs neither torch nor transformers."""
        own = {entry.name for entry in fields(LabelArguments)}
        values = {name: words for name, words in self.values.items() if name in own}
        (arguments,) = _parse(_parser(LabelArguments), values)
        return arguments


def read_settings(words: Sequence[str]) -> GivenSettings:
    """Read the command line and the YAML file that its `--config` names.

    Raises:
        ConfigError: a missing or malformed file, or a word that belongs to no setting.
    """
    help_words = {"-h", "--help"} & set(words)
    given = _command_line([word for word in words if word not in help_words])
    path = (given.pop("config", None) or [""])[0]
    content = read_mapping(path, "--config takes a recipe like configs/train/sft_lora.yaml") if path else {}
    filed = {name: _yaml_words(value) for name, value in content.items()}
    origin = dict.fromkeys(filed, path) | dict.fromkeys(given, _COMMAND_LINE)
    refuse_secrets(content, path)
    refuse_secrets({name: _parsed(words) for name, words in given.items()}, _COMMAND_LINE)
    if _DERIVED in origin:
        raise ConfigError(
            f"{origin[_DERIVED]}: {_DERIVED} follows from total_batch_size, {_ROWS} and the number of ranks; set "
            "total_batch_size instead"
        )
    _check_names(origin)
    return GivenSettings({**filed, **given}, origin, help=bool(help_words))


def _check_names(origin: Mapping[str, str]) -> None:
    """Raise ConfigError for a name that no class of settings has, before the classes are imported."""
    known = setting_names()
    for name, where in origin.items():
        if name not in known and name.removeprefix("no_") not in known:
            if where != _COMMAND_LINE:
                raise ConfigError(f"{where}: unknown key {name!r}{nearest(name, known)}")
            options = [f"--{one}" for one in known]
            raise ConfigError(f"unknown option --{name}{nearest(f'--{name}', options)} (see train/run.py --help)")


def setting_names() -> list[str]:
    """The names of all settings, as the sources of the classes have them: to import these takes torch, and long."""
    found = [entry.name for entry in fields(LabelArguments)]
    for module in _SETTINGS:
        package, _, file = module.rpartition(".")
        spec = find_spec(package)
        folder = Path((spec and spec.origin) or "").parent
        tree = ast.parse((folder / f"{file}.py").read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        fields_ = [node.target for one in classes for node in one.body if isinstance(node, ast.AnnAssign)]
        found += [target.id for target in fields_ if isinstance(target, ast.Name)]
    return found


def _command_line(words: Sequence[str]) -> dict[str, list[str] | None]:
    given: dict[str, list[str] | None] = {}
    current: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            current = [value] if equals else []
            given[name.replace("-", "_")] = current
        elif current is None:
            raise ConfigError(f"command line: found {word!r}, expected a setting such as --labels FILE")
        else:
            current.append(word)
    return given


def _parsed(words: Sequence[str] | None) -> object:
    """Words of the command line with mappings read, as the trainer reads them; it says what is wrong with one."""
    try:
        return [json.loads(word) if word.lstrip().startswith("{") else word for word in words or ()]
    except (ValueError, RecursionError):
        return words


def _yaml_words(value: object) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, list):
        return [word for item in value for word in _yaml_words(item) or ["none"]]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]


def _tokens(values: Mapping[str, list[str] | None]) -> list[str]:
    """Command-line tokens; `--name=word` lets a word start with a minus sign."""
    tokens: list[str] = []
    for name, words in values.items():
        if words is not None:
            tokens += [f"--{name}={words[0]}"] if len(words) == 1 else [f"--{name}", *words]
    return tokens


def training_parser(method: Method) -> _Parser:
    """The full parser: our fields, TRL's SFTConfig or DPOConfig, and ModelConfig (PEFT). Imports torch."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.model_config import ModelConfig
    from trl.trainer.sft_config import SFTConfig

    return _parser(LabelArguments, SFTConfig if method.startswith("sft") else DPOConfig, ModelConfig)


def _parser(*kinds: Any) -> _Parser:
    return _Parser(kinds, prog="train/run.py", allow_abbrev=False)


def training_arguments(
    settings: GivenSettings, method: Method, output_dir: Path, touch_gpus: bool = True
) -> "tuple[TrainingConfig, ModelConfig]":
    """TRL's training configuration and model configuration.

    Args:
        settings: as given.
        method: which trainer's.
        output_dir: of the run.
        touch_gpus: False for who checks the settings only: transformers starts CUDA for a configuration, and it would
            hold memory for as long as the process lives.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value of the wrong type, or one that TRL refuses.
    """
    parser = training_parser(method)
    known = sorted({option.lstrip("-").replace("-", "_") for option in parser._option_string_actions})
    for name in settings.values:
        if name not in known:
            raise ConfigError(f"{settings.origin[name]}: unknown key {name!r}{nearest(name, known)}")
    nulls = {name: None for name, words in settings.values.items() if words is None}
    parser.set_defaults(**_machine_defaults(touch_gpus), **nulls)
    split = {name: [str(number)] for name, number in batch_split(settings).items()}
    values = {**settings.values, "output_dir": [str(output_dir)], **split}
    _, training, model = _parse(parser, values)
    _refuse_unsupported(training)
    _refuse_senseless(training, model)
    return training, model


def _parse(parser: _Parser, values: Mapping[str, list[str] | None]) -> tuple[Any, ...]:
    """Data classes from settings; what their own checks refuse becomes one line."""
    try:
        parsed: tuple[Any, ...] = parser.parse_args_into_dataclasses(_tokens(values), look_for_args_file=False)
    except ConfigError:
        raise
    except (ValueError, ImportError) as error:
        raise ConfigError(f"training settings: {' '.join(str(error).split())}") from None
    return parsed


def write_resolved(path: Path, arguments: LabelArguments, training: TrainingConfig, model: "ModelConfig") -> None:
    """Write every value of a run, defaults included, as a file that `--config` reads."""
    values = asdict(arguments) | training.to_dict() | asdict(model)
    # The trainer's copy shows tokens as <HUB_TOKEN>; they are no setting of a recipe.
    left_out = {_DERIVED, *(name for name in values if name.endswith("_token"))}
    kept = {name: value for name, value in values.items() if value not in (None, []) and name not in left_out}
    with atomic_write(path) as handle:
        yaml.safe_dump(json.loads(json.dumps(kept, default=str)), handle)


def batch_split(settings: GivenSettings) -> dict[str, int]:
    """TRL's settings that make a step of total_batch_size rows: rows that a rank takes at once (its whole share unless
    set), and how often it does."""
    total, ranks = settings.label_arguments().total_batch_size, started_processes()
    share, rest = divmod(total, ranks)
    if rest:
        raise ConfigError(f"total_batch_size: found {total}, expected a multiple of the number of ranks ({ranks})")
    rows = settings.first(_ROWS, str(share))
    if not rows.isdecimal() or int(rows) < 1:
        raise ConfigError(f"{_ROWS}: found {rows!r}, expected a whole number, at least 1")
    steps, rest = divmod(share, int(rows))
    if rest or not steps:
        raise ConfigError(f"total_batch_size: found {total}, expected a multiple of {_ROWS} ({rows}) x ranks ({ranks})")
    return {_ROWS: int(rows), _DERIVED: steps}


def _machine_defaults(touch_gpus: bool) -> dict[str, object]:
    """Defaults that depend on the machine, so that one recipe runs on a laptop and on a GPU."""
    import torch

    defaults: dict[str, object] = {"train_sampling_strategy": "sequential"}
    if not touch_gpus:
        return defaults | {"use_cpu": True}
    check_gpu(torch.accelerator.is_available())
    if torch.accelerator.is_available():
        return defaults
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        # With `use_cpu` accelerate would leave DeepSpeed out; without a backend it would count one process.
        return defaults | {"ddp_backend": "gloo", "bf16": False, "dataloader_pin_memory": False}
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return defaults | {"use_cpu": True, "bf16": bf16, "dataloader_pin_memory": False}


def _refuse_unsupported(training: TrainingConfig) -> None:
    """Settings of TRL that would break a promise of ours."""
    if training.eval_strategy != "no":
        found = getattr(training.eval_strategy, "value", training.eval_strategy)  # TRL has made it an enum
        raise ConfigError(f"eval_strategy: found {found!r}; evaluation is eval/run.py's: use no")
    if training.save_total_limit is not None and training.save_total_limit < 2:
        raise ConfigError(
            f"save_total_limit: found {training.save_total_limit}, expected at least 2: the newest checkpoint may be "
            "torn by a crash"
        )
    if training.train_sampling_strategy != "sequential":
        raise ConfigError(
            f"train_sampling_strategy: found {training.train_sampling_strategy!r}, expected sequential: the rows are "
            "shuffled before, in the same order on every layout"
        )
    if getattr(training, "packing", False):
        raise ConfigError("packing: found true, expected false: a label is judged after its own question alone")


def _refuse_senseless(training: TrainingConfig, model: "ModelConfig") -> None:
    """Numbers that would fail, or train nothing, once the model is loaded."""
    by_steps = training.max_steps > 0
    expected = {
        "max_steps": (by_steps or training.max_steps == -1, "at least 1, or -1: num_train_epochs decides"),
        "num_train_epochs": (by_steps or training.num_train_epochs > 0, "above 0"),
        "learning_rate": (training.learning_rate > 0, "above 0"),
        "weight_decay": (training.weight_decay >= 0, "at least 0"),
        "warmup_steps": (training.warmup_steps >= 0, "at least 0"),
        "lora_r": (model.lora_r > 0, "at least 1"),
        "lora_alpha": (model.lora_alpha > 0, "at least 1"),
        "lora_dropout": (0 <= model.lora_dropout < 1, "at least 0 and below 1"),
    }
    for name, (sensible, range_) in expected.items():
        if not sensible:
            raise ConfigError(f"{name}: found {getattr(training, name, getattr(model, name, None))}, expected {range_}")
