"""From settings to runs: what every condition asks, checked as far as that goes before a model loads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

from eval.conditions.base import Condition
from eval.conditions.chat import LocalChat
from eval.conditions.chat_models import chat_counterpart
from eval.conditions.in_context import PREAMBLE, InContext
from eval.conditions.server import ServerChat, check_key
from eval.conditions.surface import Majority, SurfaceCues
from eval.held_out import asked_source, load_held_out
from eval.labels import LabelFile, choose, labels_for, with_gold
from eval.settings import ConditionConfig, EvalConfig, slug
from icm.config import EngineConfig
from icm.engines import check_engine
from icm.engines.adapters import Adapter, read_adapter
from icm.engines.common import model_folder
from icm.errors import ConfigError, DataError, ICMError
from icm.examples import ICMExample, LabelSpace, TaskData
from icm.files import file_sha256, fingerprint, read_object
from icm.models import model_label, weights_hash
from icm.results.accuracy import measure_accuracy
from icm.results.format import ICMResult, content_hash, read_result
from icm.results.twins import need_gold, refuse_overlap
from icm.tasks.source import DataSource
from icm.tasks.written import Generate


@dataclass(frozen=True)
class Run:
    """One condition with one seed.

    Attributes:
        config: the condition's settings.
        seed: of demonstrations, orders and random labels.
        condition: what answers.
        identity: all that the answers depend on, by content.
        label_accuracy: share of the demonstrations' labels that equal gold; None without demonstrations or gold.
    """

    config: ConditionConfig
    seed: int
    condition: Condition
    identity: Mapping[str, object]
    label_accuracy: float | None = None

    @property
    def key(self) -> str:
        """Name of its answer file."""
        return f"{slug(self.config.name)}-seed{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """All runs over one held-out set.

    Attributes:
        settings: as given.
        generate: see `load_task`.
    """

    settings: EvalConfig
    generate: Generate | None = None

    @cached_property
    def data(self) -> TaskData:
        """The held-out items that have gold, asked as the label files say. Raises DataError if none has."""
        return load_held_out(self.source, self._results, self.generate)

    @cached_property
    def source(self) -> DataSource:
        """Where the held-out items come from, and how they are asked. Errors are those of `asked_source`."""
        return asked_source(self.settings.data, self._results)

    @cached_property
    def _results(self) -> dict[str, ICMResult]:
        return {path: read_result(path, self.settings.data.own_task) for path in self.settings.label_files}

    @property
    def examples(self) -> tuple[ICMExample, ...]:
        """The held-out items."""
        return tuple(self.data.dataset)

    @property
    def label_space(self) -> LabelSpace:
        """Labels of the label files, or without any of the held-out data; its verbalisers stand in every prompt."""
        return self.data.dataset.label_space

    @cached_property
    def label_files(self) -> dict[str, LabelFile]:
        """Every label file of the settings by path, each checked against the held-out set."""
        files = {path: with_gold(path, result, self.source) for path, result in self._results.items()}
        for file in files.values():
            refuse_overlap(file.result.dataset, self.examples, file.path)
        return files

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """One run a condition and seed, those that share a model next to each other."""
        _ = self.label_files  # the report reads all of them: what is wrong with one is told before a model loads
        found = [run for condition in self.settings.conditions for run in self._runs_of(condition)]
        keys = [_engine_keys(run.condition) for run in found]
        models, engines = (list(dict.fromkeys(column)) for column in zip(*keys, strict=True))
        places = {(model, engine): (models.index(model), engines.index(engine)) for model, engine in keys}
        return tuple(sorted(found, key=lambda run: places[_engine_keys(run.condition)]))

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """What the runs ask for, in running order."""
        return tuple(dict.fromkeys(filter(None, (engine_of(run.condition) for run in self.runs))))

    def reference(self, place: int) -> LabelFile:
        """The label file that golden, random and perturbed labels are made for, for the seed at `place`."""
        paths = self.settings.labels or self.settings.label_files[:1]
        if not paths:
            raise ConfigError("labels: no label file is given, so there is no training part; give labels: [FILE]")
        return self.label_files[paths[place if len(paths) > 1 else 0]]

    def _runs_of(self, config: ConditionConfig) -> list[Run]:
        seeds = self.settings.seeds
        if config.kind == "many-shot":
            return [self._many_shot(config, place) for place in range(len(seeds))]
        if config.kind == "fine-tuned":
            adapters = self.settings.adapters_of(config)
            return [self._fine_tuned(config, place, adapter) for place, adapter in enumerate(adapters)]
        return [self._run(config, seeds[0], self._single(config))]

    def _single(self, config: ConditionConfig) -> Condition:
        """A condition that no seed changes."""
        if config.kind == "zero-shot":
            preamble = PREAMBLE if config.preamble else ""
            return InContext(self._engine(config.model), self.label_space, self.examples, preamble)
        if config.kind == "chat":
            return LocalChat(self._engine(config.model or self._chat_model()), self.label_space, self.examples)
        if config.kind == "chat-server":
            return self._server_chat(config)
        file = self.reference(0)
        # A label file without a holdout may come from data that holds held-out questions too.
        held_out = {example.group for example in self.examples}
        training = tuple(example for example in file.training if example.group not in held_out)
        need_gold(file.result, file.gold, file.path)
        gold = tuple(file.gold[example.id] for example in training)
        if config.kind == "majority":
            return Majority(gold, self.label_space)
        return SurfaceCues(training, gold, self.label_space)

    def _server_chat(self, config: ConditionConfig) -> Condition:
        assert config.server is not None  # ConditionConfig refuses chat-server without it
        check_key(config.server)
        return ServerChat(config.server, config.model or self._chat_model(), self.label_space)

    def _chat_model(self) -> str:
        return chat_counterpart(self.settings.engine.model)

    def _many_shot(self, config: ConditionConfig, place: int) -> Run:
        seed = self.settings.seeds[place]
        file = self._file(config, place)
        named = config.labels_from
        source = "labels" if named is None or named == "file" else named
        demonstrations = labels_for(source, self.demonstrations(place), file, self.label_space, seed)
        condition = InContext(
            self._engine(config.model),
            self.label_space,
            self.examples,
            demonstrations=demonstrations,
            orders=self.settings.orders,
            seed=seed,
        )
        known = measure_accuracy({example.id: label for example, label in demonstrations}, file.gold)
        return self._run(config, seed, condition, None if known is None else known.value)

    def demonstrations(self, place: int) -> tuple[ICMExample, ...]:
        """The examples that all many-shot conditions of a seed show."""
        many_shot = [condition for condition in self.settings.conditions if condition.kind == "many-shot"]
        return choose([self._file(c, place) for c in many_shot], self.settings.shots, self.settings.seeds[place])

    def given(self, config: ConditionConfig) -> int:
        """How many labels that a condition shows, or is trained on, are trusted, given rather than found; the most of a
        seed."""
        return max(self._given(config, place) for place in range(len(self.settings.seeds)))

    def _given(self, config: ConditionConfig, place: int) -> int:
        items = self._file(config, place).result.labeled_examples
        trusted = {item.example.id for item in items if item.trusted}
        if config.kind == "many-shot":
            trusted &= {example.id for example in self.demonstrations(place)}
        return len(trusted)

    def _file(self, config: ConditionConfig, place: int) -> LabelFile:
        paths = self.settings.files_of(config)
        return self.label_files[paths[place if len(paths) > 1 else 0]]

    def _fine_tuned(self, config: ConditionConfig, place: int, adapter: str) -> Run:
        # Asking for the label file checks that training and held-out set share no question.
        engine = replace(self._engine(config.model), adapter=adapter)
        file = self._file(config, place)
        try:
            _check_adapter(read_adapter(adapter), config, engine.model, file)
            if self.settings.ray_address is None:  # the machines of a cluster may have what is not here
                check_engine(engine)
        except ICMError as error:
            raise ConfigError(f"condition {config.name!r}: {error}") from None
        return self._run(config, self.settings.seeds[place], InContext(engine, self.label_space, self.examples))

    def _engine(self, model: str | None) -> EngineConfig:
        settings = self.settings.engine
        if model is None or model == settings.model:
            return settings
        return replace(settings, model=model, revision=None, adapter=None)

    def _run(self, config: ConditionConfig, seed: int, condition: Condition, accuracy: float | None = None) -> Run:
        identity = {
            "kind": config.kind,
            "held_out": self.data.dataset.fingerprint,
            "condition": _content(condition),
        }
        return Run(config, seed, condition, identity, accuracy)


def engine_of(condition: Condition) -> EngineConfig | None:
    """The engine that answers; None for conditions without one."""
    engine = getattr(condition, "engine", None)
    return engine if isinstance(engine, EngineConfig) else None


def base_of(run: Run) -> EngineConfig | None:
    """The model behind a run without its adapter; what is tuned is held against that one asked plainly."""
    engine = engine_of(run.condition)
    return None if engine is None else replace(engine, adapter=None)


def _engine_keys(condition: Condition) -> tuple[str, str]:
    """The model, and the model with its adapter: what runs next to what."""
    engine = engine_of(condition)
    return ("", "") if engine is None else (str(replace(engine, adapter=None)), str(engine))


def _content(condition: Condition) -> dict[str, object]:
    """A condition's fields by content: example ids for examples, hashes for models and adapters."""
    found: dict[str, object] = {}
    for name in (entry.name for entry in fields(condition) if entry.compare):
        value = getattr(condition, name)
        if isinstance(value, EngineConfig):
            found[name] = engine_identity(value)
        elif name in ("demonstrations", "training", "held_out"):
            found[name] = fingerprint([_id(entry) for entry in value])
        else:
            found[name] = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return found


def _id(entry: ICMExample | tuple[ICMExample, str]) -> object:
    return entry.id if isinstance(entry, ICMExample) else [entry[0].id, entry[1]]


def engine_identity(config: EngineConfig) -> dict[str, object]:
    """What decides an engine's scores: weights by content where they are local, by name and revision on the hub."""
    folder = model_folder(config)
    given = {"tokenizer": config.tokenizer, "deterministic": config.deterministic or None}
    return {
        "model": [config.model, config.revision] if folder is None else weights_hash(folder),
        "adapter": weights_hash(read_adapter(config.adapter).folder) if config.adapter else None,
        **{name: value for name, value in given.items() if value is not None},
        "engine": [config.engine, config.device, config.dtype, config.max_model_len, config.base_url],
    }


def _check_adapter(adapter: Adapter, config: ConditionConfig, model: str, file: LabelFile) -> None:
    """The adapter was trained from the model and on the labels that the condition claims, as far as it says."""
    folder, record = adapter.name, adapter.folder / "train_results.json"
    if not record.is_file():
        return
    trained = read_object(record)
    for name in ("model", "label_source", "labels_sha256", "labels"):
        if not isinstance(trained.get(name), str):
            raise DataError(f"{record}: field {name!r}: expected text; train the adapter again, or remove the file")
    if model_label(trained["model"]) != model_label(model):
        raise ConfigError(f"{folder} adapts {trained['model']}, but the model is {model}")
    if trained["label_source"] != config.labels_from:
        raise ConfigError(
            f"{folder} was trained on label_source {trained['label_source']}, but labels_from is {config.labels_from}"
        )
    same = trained.get("labels_content") == content_hash(file.result)
    if not same and trained["labels_sha256"] != file_sha256(file.path):
        raise ConfigError(
            f"{folder} was trained on another label file ({trained['labels']}) than "
            f"{file.path}; name that file in the condition's `files`"
        )
