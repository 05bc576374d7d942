"""Settings of an evaluation: one file, checked key by key before any model loads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from icm.config import EngineConfig, LabelSource
from icm.errors import ConfigError
from icm.labelling.options import nearest
from icm.tasks.source import DataSource

Kind = Literal["majority", "surface", "zero-shot", "chat", "chat-server", "many-shot", "fine-tuned"]


@dataclass(frozen=True)
class ServerConfig:
    """An OpenAI-compatible chat server (Together AI, OpenRouter, `vllm serve`, …).

    Attributes:
        base_url: address up to and including the version ("https://api.together.xyz/v1").
        api_key_env: environment variable that holds the key; None for a server without keys.
        timeout: seconds for one answer.
        max_retries: further tries after a failed one (429, 5xx, time-out, broken or empty answer).
        retry_delay: seconds before the first retry; doubles each time, up to 60; a Retry-After header wins.
        requests_per_minute: rate limit; None asks as fast as `concurrency` allows.
        concurrency: requests under way at once.
        max_tokens: longest reply.
        price_input, price_output: US dollars a million tokens, for the cost in the report; None leaves it out.
    """

    base_url: str
    api_key_env: str | None = None
    timeout: float = 60.0
    max_retries: int = 5
    retry_delay: float = 1.0
    requests_per_minute: float | None = None
    concurrency: int = 4
    max_tokens: int = 16
    price_input: float | None = None
    price_output: float | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"server.base_url: found {self.base_url!r}, expected an http:// or https:// address")
        for name in ("timeout", "concurrency", "max_tokens"):
            _at_least(name, getattr(self, name), 1)
        _at_least("max_retries", self.max_retries, 0)


@dataclass(frozen=True)
class ConditionConfig:
    """One bar of the figure.

    Attributes:
        name: as in tables and figures ("Zero-shot Base").
        kind: `majority` class; `surface` cues (question-blind words and length); `zero-shot`; `chat` (local chat
            model); `chat-server`; `many-shot`; `fine-tuned` (adapter, zero-shot prompt).
        labels_from: whose labels: the `labels` of the file (also called `file`), `gold`, `random`, or gold
            `perturbed` to the file's accuracy.
            For `fine-tuned` it says what the adapter was trained on.
        files: label files, one, or one a seed; none takes the evaluation's `labels`.
        adapters: LoRA folders, one, or one a seed.
        model: another model than the engine's; chat kinds find the base model's chat counterpart by themselves.
        preamble: put the assistant preamble in front.
        server: where `chat-server` asks.
    """

    name: str
    kind: Kind
    labels_from: LabelSource | Literal["file"] | None = None
    files: list[str] | None = None
    adapters: list[str] | None = None
    model: str | None = None
    preamble: bool = False
    server: ServerConfig | None = None

    def __post_init__(self) -> None:
        if self.labels_from == "file":
            object.__setattr__(self, "labels_from", "labels")
        given = {f.name for f in fields(self) if getattr(self, f.name) not in (None, False)} - {"name", "kind"}
        unused = sorted(given - _USED[self.kind])
        if unused:
            raise ConfigError(f"condition {self.name!r}: {self.kind} does not use {unused[0]}; leave it out")
        missing = sorted(_NEEDED.get(self.kind, set()) - given)
        if missing:
            raise ConfigError(f"condition {self.name!r}: {self.kind} needs {missing[0]}")


_USED: Mapping[str, set[str]] = {
    "majority": set(),
    "surface": set(),
    "zero-shot": {"model", "preamble"},
    "chat": {"model"},
    "chat-server": {"model", "server"},
    "many-shot": {"labels_from", "files", "model"},
    "fine-tuned": {"labels_from", "files", "adapters", "model"},
}
_NEEDED = {
    "chat-server": {"server"},
    "many-shot": {"labels_from"},
    "fine-tuned": {"adapters", "labels_from"},
}


@dataclass(frozen=True)
class MultipleChoiceConfig:
    """TruthfulQA MC1 and MC2.

    Attributes:
        questions: `mc_task.json`, a JSON/JSONL export, or the hub name ("truthfulqa/truthful_qa").
        conditions: names of zero-shot, chat or fine-tuned conditions whose models are asked.
        max_questions: at most this many of the questions that no label file holds, chosen by content hash.
    """

    questions: str
    conditions: list[str]
    max_questions: int | None = None


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation.

    Attributes:
        data: the held-out items (`part: test` of a holdout, or a test split).
        engine: model and engine of all conditions that do not name their own.
        conditions: what is compared.
        labels: label files of the search, one, or one a seed.
        shots: demonstrations of the many-shot conditions.
        orders: demonstration orders over which log-probabilities are averaged.
        calibration: of the headline figures: `batch` centres the label log-odds over the held-out items (no labels
            needed), `none` takes the likelier label as in the papers. Both are always in results.json.
        seeds: each draws other demonstrations, orders and random labels.
        output_dir: folder of results.
        rerun: names of conditions to run again although they are finished.
        multiple_choice: also run TruthfulQA MC1 and MC2.
    """

    conditions: list[ConditionConfig]
    data: DataSource = field(default_factory=lambda: DataSource(part="test"))
    engine: EngineConfig = field(default_factory=EngineConfig)
    labels: list[str] | None = None
    shots: int = 64
    orders: int = 1
    calibration: Literal["none", "batch"] = "batch"
    seeds: tuple[int, ...] = (0,)
    output_dir: str = "eval_output"
    rerun: tuple[str, ...] = ()
    multiple_choice: MultipleChoiceConfig | None = None

    def __post_init__(self) -> None:
        for name in ("shots", "orders"):
            _at_least(name, getattr(self, name), 1)
        names = [condition.name for condition in self.conditions]
        if not names or len(set(map(slug, names))) != len(names):
            raise ConfigError(f"conditions: expected at least one, with distinct names; found {names}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: found {list(self.seeds)}, expected at least one, all distinct")
        asked = [*self.rerun, *(self.multiple_choice.conditions if self.multiple_choice else [])]
        for name in asked:
            if name not in names:
                raise ConfigError(f"unknown condition {name!r}{nearest(name, names)}")

    def files_of(self, condition: ConditionConfig) -> list[str]:
        """Label files of a condition. Raises ConfigError if there are none, or not one a seed."""
        files = condition.files or self.labels
        if not files:
            raise ConfigError(f"condition {condition.name!r}: needs a label file; give labels: [FILE]")
        return self._one_a_seed(f"label files of {condition.name!r}", files)

    def adapters_of(self, condition: ConditionConfig) -> list[str]:
        """Adapter folders of a `fine-tuned` condition, one, or one a seed."""
        return self._one_a_seed(f"adapters of {condition.name!r}", condition.adapters or [])

    def _one_a_seed(self, what: str, paths: list[str]) -> list[str]:
        if len(paths) not in (1, len(self.seeds)):
            raise ConfigError(f"{what}: found {len(paths)}, expected 1 or one for each of {len(self.seeds)} seeds")
        return paths


def slug(name: str) -> str:
    """Key of a condition in files: `Zero-shot Base` → `zero-shot-base`."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{name}: found {value}, expected at least {least}")


def parser() -> ArgumentParser:
    """`--config FILE` and one option for every setting (`--data.dataset`, `--engine.model`, `--seeds`, …)."""
    made = ArgumentParser(prog="python eval/run.py", description=__doc__, exit_on_error=False)
    made.add_argument("--config", action="config", help="YAML file; options behind it override it")
    made.add_class_arguments(EvalConfig)
    return made


def parse_settings(arguments: Sequence[str]) -> EvalConfig:
    """Settings from the command line.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, or a value out of range.
    """
    for path in _config_files(arguments):
        _check_file(path)
    made = parser()
    try:
        parsed = made.instantiate(made.parse_args(list(arguments)))
        return EvalConfig(**{f.name: parsed[f.name] for f in fields(EvalConfig)})
    except ConfigError:
        raise
    except (ArgumentError, ValueError) as error:
        # The library lists every type of a union that does not fit; the first is the one with the settings.
        reason = re.search(r"^ *- (.+)$", str(error), re.MULTILINE)
        message = reason[1] if reason else _one_line(str(error))
        raise ConfigError(message + _nearest_option(made, str(error))) from None


def _nearest_option(made: ArgumentParser, message: str) -> str:
    unknown = re.search(r"unrecognized arguments: (--\S+)", message)
    options = [text for action in made._actions for text in action.option_strings if text.startswith("--")]
    return nearest(unknown[1].split("=")[0], options) if unknown else ""


def _config_files(arguments: Sequence[str]) -> list[str]:
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    return [value if flag == "--config" else flag[9:] for flag, value in following if flag.split("=")[0] == "--config"]


def _check_file(path: str) -> None:
    """jsonargparse refuses unknown keys too, but names neither the file nor the nearest key."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({_one_line(str(error))})") from None
    _check_keys(EvalConfig, content, path, "")


def _check_keys(kind: type, content: Any, path: str, place: str) -> None:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {place.rstrip('.') or 'file'}: found {content!r}, expected a mapping of settings")
    hints = get_type_hints(kind)
    for key, value in content.items():
        if key not in hints:
            raise ConfigError(f"{path}: unknown key {place + str(key)!r}{nearest(str(key), hints)}")
        inner = _dataclass_in(hints[key])
        for position, entry in enumerate(value if isinstance(value, list) else [value]):
            if inner is not None and entry is not None:
                at = f"[{position}]" if isinstance(value, list) else ""
                _check_keys(inner, entry, path, f"{place}{key}{at}.")


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass inside `X`, `X | None` or `list[X]`."""
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


def _one_line(text: str) -> str:
    return " ".join(text.split())
