"""Settings of an evaluation: one file, checked key by key before any model loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Literal

from icm.config import MOST_REPEATS, EngineConfig, GenerationConfig, LabelSource, WorkersConfig
from icm.errors import ConfigError
from icm.http import check_address
from icm.labelling.arguments import CommandParser, add_options, refuse_rest, respelt, switched
from icm.labelling.options import build, checked, class_options, nearest
from icm.results.fields import shown
from icm.tasks.source import DataSource
from icm.yaml_files import mapping, merged, read_mapping

_LONGEST_NAME = 120  # bytes; file systems take 255 for a file's whole name
_LONGEST = 86_400  # seconds: a day

Kind = Literal["majority", "surface", "zero-shot", "chat", "chat-server", "many-shot", "fine-tuned"]


@dataclass(frozen=True)
class ServerConfig:
    """An OpenAI-compatible chat server (Together AI, OpenRouter, `vllm serve`, …).

    Attributes:
        base_url: address up to and including the version ("https://api.together.xyz/v1").
        api_key_env: environment variable that holds the key; None for a server without keys. It is the one that belongs
            to the host (TOGETHER_API_KEY, OPENAI_API_KEY, …; see `icm.http.key_name`).
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
        check_address(self.base_url, "server.base_url")
        for name in ("timeout", "concurrency", "max_tokens"):
            _at_least(name, getattr(self, name), 1)
        _at_least("max_retries", self.max_retries, 0)
        _at_most("max_retries", self.max_retries, MOST_REPEATS)
        _at_most("timeout", self.timeout, _LONGEST)


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
class BenchmarkConfig:
    """Tasks of lm-evaluation-harness (`pip install icm[benchmarks]`), in its own names.

    Attributes:
        tasks: names of tasks, groups or tags (`gsm8k`, `truthfulqa_mc1`, `arc_challenge`), those of `include_path` too.
        conditions: names of zero-shot, chat or fine-tuned conditions whose models are asked; None asks all of these but
            for those with a preamble.
        limit: at most this many items a task, its first ones; items whose question a label file holds are left out.
        num_fewshot: demonstrations of the task's own data; None is as the task says.
        include_path: folder of task files of your own, with local data where there is no hub. A task file may name
            Python code beside it, which is run.
        apply_chat_template: ask all conditions through the tokenizer's chat template, not chat conditions alone.
        batch_size: prompts at once where transformers runs the task; `auto` tries how many fit.
    """

    tasks: tuple[str, ...]
    conditions: list[str] | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    include_path: str | None = None
    apply_chat_template: bool = False
    batch_size: int | Literal["auto"] = 1

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"benchmarks.tasks: found {list(self.tasks)}, expected at least one, all distinct")
        if self.limit is not None:
            _at_least("benchmarks.limit", self.limit, 1)
        if self.num_fewshot is not None:
            _at_least("benchmarks.num_fewshot", self.num_fewshot, 0)
        if self.batch_size != "auto":
            _at_least("benchmarks.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class EvalConfig:
    """An evaluation.

    Attributes:
        data: the held-out items (`part: test` of a holdout, or a test split).
        engine: model and engine of all conditions that do not name their own.
        generation: how that engine writes claims for held-out questions without (kept in `output_dir/generated`).
        conditions: what is compared.
        labels: label files of the search, one, or one a seed. They decide template and verbalisers, the first one also
            data and engine where these are not given.
        adapters: LoRA folders that were trained on the labels, one, or one a seed: one more condition, `Fine-tuned`.
        shots: demonstrations of the many-shot conditions.
        orders: demonstration orders over which log-probabilities are averaged.
        calibration: of the headline figures: `batch` centres the label log-odds over the held-out items (no labels
            needed), `prototypical` puts the boundary between the groups they fall into (where one label is rarer),
            `none` takes the likelier label as in the papers. `batch` and `none` are always in results.json.
        seeds: each draws other demonstrations, orders and random labels.
        output_dir: folder of results.
        rerun: names of conditions to run again although they are finished.
        multiple_choice: also run TruthfulQA MC1 and MC2.
        benchmarks: also run tasks of lm-evaluation-harness.
        workers: engines that answer side by side, or `auto`, as for `icm run`; they decide no answer. The benchmarks
            run on one.
        ray_address: `HOST:PORT` of a running Ray cluster whose machines they run on; None is this machine.
    """

    conditions: list[ConditionConfig]
    data: DataSource = field(default_factory=lambda: DataSource(part="test"))
    engine: EngineConfig = field(default_factory=EngineConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    labels: list[str] | None = None
    adapters: list[str] | None = None
    shots: int = 64
    orders: int = 1
    calibration: Literal["none", "batch", "prototypical"] = "batch"
    seeds: tuple[int, ...] = (0,)
    output_dir: str = "eval_output"
    rerun: tuple[str, ...] = ()
    multiple_choice: MultipleChoiceConfig | None = None
    benchmarks: BenchmarkConfig | None = None
    workers: int | Literal["auto"] = 1
    ray_address: str | None = None

    def __post_init__(self) -> None:
        assert self.engines
        for name in ("shots", "orders"):
            _at_least(name, getattr(self, name), 1)
        _at_most("orders", self.orders, MOST_REPEATS)
        names = [condition.name for condition in self.conditions]
        for name in names:
            _check_name(name)
        if not names or len(set(map(slug, names))) != len(names):
            raise ConfigError(f"conditions: expected at least one, with distinct names; found {names}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: found {list(self.seeds)}, expected at least one, all distinct")
        asked = [*self.rerun, *(self.multiple_choice.conditions if self.multiple_choice else [])]
        asked += (self.benchmarks and self.benchmarks.conditions) or []
        for name in asked:
            if name not in names:
                raise ConfigError(f"unknown condition {name!r}{nearest(name, names)}")

    @property
    def engines(self) -> WorkersConfig:
        """How many, and where."""
        return WorkersConfig(self.workers, self.ray_address)

    @property
    def label_files(self) -> tuple[str, ...]:
        """Every label file that is named, each once."""
        named = [path for condition in self.conditions for path in condition.files or []]
        return tuple(dict.fromkeys([*(self.labels or []), *named]))

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


def _check_name(name: str) -> None:
    """A name stands in file names, tables and figures."""
    if not name.isprintable() or not 0 < len(slug(name).encode()) <= _LONGEST_NAME:
        raise ConfigError(
            f"condition name: found {shown(name)}, expected letters or digits, no control characters, and at most "
            f"{_LONGEST_NAME} bytes"
        )


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"{name}: found {value}, expected at least {least}")


def _at_most(name: str, value: float, most: float) -> None:
    if value > most:
        raise ConfigError(f"{name}: found {value}, expected at most {most:,}")


EXAMPLES = """\
  python eval/run.py --labels icm_results/reviews.jsonl
  python eval/run.py --labels icm_results/reviews.jsonl --adapters outputs/icm
  python eval/run.py --config configs/eval/reviews.yaml --labels icm_results/reviews.jsonl
  python eval/run.py --config configs/eval/reviews.yaml --data.max_examples 100 --seeds 0 1 2 --output_dir out
  python eval/run.py --config configs/eval/reviews.yaml --rerun "Zero-shot Base" "Many-shot ICM"
  python eval/run.py --labels icm_results/reviews.jsonl --workers auto
  python eval/run.py --config mine.yaml --data.dataset held-out.csv --engine.model NAME

Options override the file. Conditions stand in the file alone. Dashes and underscores are the same. The label files
decide template, verbalisers and labels; where no data and no model are named, the held-out data is the other part of
what the first one labels, and the model the one that labelled. Without conditions, zero-shot, plainly
and, of a model with a chat template, in it, is compared with many-shot random, found and, where there are any, gold
labels; without label files too the first two, with the data's gold labels, say what there is to gain."""

WITHOUT_LABELS: Sequence[Mapping[str, str]] = (
    {"name": "Zero-shot Base", "kind": "zero-shot"},
    {"name": "Zero-shot Chat", "kind": "chat"},
)
DEFAULT_CONDITIONS: Sequence[Mapping[str, str]] = (
    *WITHOUT_LABELS,
    {"name": "Many-shot Random", "kind": "many-shot", "labels_from": "random"},
    {"name": "Many-shot Labels", "kind": "many-shot", "labels_from": "labels"},
    {"name": "Many-shot Golden", "kind": "many-shot", "labels_from": "gold"},
)


def make_parser() -> CommandParser:
    """`--config FILE` and an option for every setting (`--data.dataset`, `--engine.model`, `--seeds`, …)."""
    parser = CommandParser(
        prog="python eval/run.py",
        usage="python eval/run.py [--config FILE] [--labels FILE ...] [options]",
        description="Compare conditions on one held-out set.",
        epilog=f"examples:\n{EXAMPLES}",
    )
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[], help="settings file (YAML or JSON), see configs/eval/"
    )
    options = class_options(EvalConfig)
    for section, members in groupby(options, lambda option: option.part if "." in option.name else "evaluation"):
        add_options(parser.add_argument_group(section), members)
    return parser


def parse_settings(arguments: Sequence[str]) -> EvalConfig:
    """Settings from the command line alone; `eval.held_out.read_settings` asks the label files too.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, or a value out of range.
    """
    return checked_settings(*given_settings(arguments))


def checked_settings(content: Mapping[str, object], where: str) -> EvalConfig:
    """Settings from what is given; `where` starts messages. Errors are those of `parse_settings`."""
    data = content.get("data")
    if not {"conditions", "labels"} & content.keys() and not (isinstance(data, Mapping) and "dataset" in data):
        raise ConfigError(
            "conditions: none are given; name label files with --labels, held-out data with --data.dataset, or a "
            "settings file with --config"
        )
    usual = DEFAULT_CONDITIONS if "labels" in content else WITHOUT_LABELS
    conditions, adapters = content.get("conditions", list(usual)), content.get("adapters")
    if adapters and isinstance(conditions, Sequence):
        tuned = {"name": "Fine-tuned", "kind": "fine-tuned", "labels_from": "labels", "adapters": adapters}
        conditions = [*conditions, tuned]
    return build(EvalConfig, {**content, "conditions": conditions}, where)


def given_settings(arguments: Sequence[str]) -> tuple[dict[str, object], str]:
    """What files and options say, unchecked, and the names of the files."""
    parser = make_parser()
    known, rest = parser.parse_known_args(switched(respelt(arguments), class_options(EvalConfig)))
    refuse_rest(rest, parser)
    given, content = vars(known), dict[str, object]()
    for path in given["config"]:
        content = merged(content, read_mapping(path, "--config takes a YAML file"))
    for option in class_options(EvalConfig):
        if option.name in given:
            value = checked(option.kind, given[option.name], option.flag)
            content = _overridden(content, option.places[0], value)
    return content, ", ".join(given["config"])


def _overridden(content: Mapping[str, object], path: Sequence[str], value: object) -> dict[str, object]:
    """`content` with another value at `path`, whole: a mapping is not merged."""
    name, *rest = path
    if not rest:
        return {**content, name: value}
    within = content.get(name)
    return {**content, name: _overridden({} if within is None else mapping(within, name), rest, value)}
