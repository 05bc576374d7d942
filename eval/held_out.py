"""What the label files decide about an evaluation: the prompt always; data, model and conditions where nothing is said.

Demonstrations and adapters are made with the template and the verbalisers of a label file, so the held-out items are
asked in the same words.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from eval.labels import with_gold
from eval.settings import ConditionConfig, EvalConfig, checked_settings, given_settings
from icm.config import EngineConfig
from icm.engines.common import loading, model_files
from icm.errors import ConfigError, DataError, ICMError, PrerequisiteError
from icm.examples import ICMExample, LabelSpace, TaskData
from icm.http import check_address, is_loopback
from icm.labelling.options import build
from icm.results.format import ICMResult, read_result
from icm.results.origin import held_out_source, located, other_source
from icm.tasks import load_task
from icm.tasks.reading import has_column
from icm.tasks.source import DataSource, with_options_of
from icm.tasks.written import Generate, stand_ins
from icm.text import say

Results = Mapping[str, ICMResult]


def read_settings(arguments: Sequence[str]) -> EvalConfig:
    """Settings from the command line. What they leave open is as the first label file has it: the held-out data is the
    other part of the labelled data, and the model the one that labelled.

    Raises:
        ICMError: a wrong setting, or a label file that cannot be read.
    """
    content, where = given_settings(arguments)
    settings = checked_settings(content, where)
    names = {part: set(_section(content, part)) for part in ("data", "engine")}
    result, data, engine = None, settings.data, settings.engine
    if settings.label_files:
        result = read_result(settings.label_files[0], settings.data.own_task)
        data, engine = _data(data, names["data"], result), _engine(engine, names["engine"], result)
    elif "conditions" not in content:
        data = other_source(data, names["data"])
    conditions = settings.conditions if "conditions" in content else _askable(settings.conditions, result, data, engine)
    return replace(settings, conditions=conditions, data=data, engine=engine)


def _askable(
    conditions: Sequence[ConditionConfig], result: ICMResult | None, data: DataSource, engine: EngineConfig
) -> list[ConditionConfig]:
    """Those of the default conditions that the labelled examples have gold for, and the model a chat template."""
    reasons: dict[str | None, object] = {
        "gold": result is not None and _without_gold(result, data),
        "chat": not _has_chat_template(engine) and f"no chat template of {engine.model} is here",
    }
    for condition in conditions:
        if reason := reasons.get(_needs(condition)):
            say(f"left out {condition.name}: {reason}", error=True)
    found = [condition for condition in conditions if not reasons.get(_needs(condition))]
    return [replace(each, model=engine.model) if each.kind == "chat" else each for each in found]


def _without_gold(result: ICMResult, data: DataSource) -> str | None:
    """How many labelled examples have no gold, if any."""
    gold = with_gold(str(result.file), result, data).gold
    without = sum(item.example.id not in gold for item in result.labeled_examples)
    return f"{without} of {len(result.labeled_examples)} labelled examples have no gold" if without else None


def _needs(condition: ConditionConfig) -> str | None:
    return "chat" if condition.kind == "chat" else condition.labels_from


def _has_chat_template(engine: EngineConfig) -> bool:
    """Of a model whose tokenizer is here; what a server does with chats is for the settings to say."""
    if engine.engine == "server":
        return False
    from transformers import AutoTokenizer

    try:
        folder, revision = model_files(engine)
        with loading(engine.model):
            return bool(getattr(AutoTokenizer.from_pretrained(folder, revision=revision), "chat_template", None))
    except PrerequisiteError:  # who answers may have it all the same: workers of a cluster, or an earlier command
        return False


def _section(content: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _data(settings: DataSource, names: Collection[str], result: ICMResult) -> DataSource:
    """See `held_out_source`. Raises ConfigError if nobody names the data."""
    if result.record.data.source is None and "dataset" not in names:
        raise ConfigError(
            f"data.dataset: not given, and {result.file} does not say where its examples come from; name the held-out "
            "data, for example --data.dataset test.jsonl"
        )
    return held_out_source(result, settings, names)


def _engine(settings: EngineConfig, names: Collection[str], result: ICMResult) -> EngineConfig:
    """The settings' engine, or if they name no model the one that labelled, with what they do name."""
    model = result.record.model
    if "model" in names or model.name is None:
        return settings
    known = {entry.name for entry in fields(EngineConfig)}
    recorded = {name: value for name, value in _section(result.record.settings, "engine").items() if name in known}
    recorded |= {"model": model.name, "revision": model.revision, "adapter": None}
    labeler = build(EngineConfig, recorded, f"{result.file}: settings.engine")
    address = labeler.base_url if labeler.engine == "server" and "base_url" not in names else None
    if address is not None and not is_loopback(check_address(address)):
        raise ConfigError(
            f"{result.file}: labelled by the server {address}, and a file does not decide where prompts are "
            f"sent; if you trust it, give --engine.base_url {address}"
        )
    return replace(labeler, **{name: getattr(settings, name) for name in names})


@dataclass(frozen=True)
class Prompt:
    """How the label files ask.

    Attributes:
        file: the file that says so.
        template: with `{field}` placeholders; None where no file tells, as those of codelion/icm.
        label_space: labels and their texts.
    """

    file: str
    template: str | None
    label_space: LabelSpace

    @property
    def verbalisers(self) -> dict[str, str]:
        """Label → text."""
        return dict(zip(self.label_space.labels, self.label_space.verbalisers, strict=True))


def prompt_of(results: Results) -> Prompt | None:
    """What all label files agree on; None without any. Raises DataError if two contradict each other."""
    asked = [Prompt(file, result.record.template, result.label_space) for file, result in results.items()]
    if not asked:
        return None
    first = next((prompt for prompt in asked if prompt.template is not None), asked[0])
    for prompt in asked:
        for name, one, other in _differences(first, prompt.template, prompt.verbalisers):
            raise DataError(
                f"{prompt.file}: made with the {name} {other}, but {first.file} with {one}; evaluate label files of "
                "one prompt together"
            )
        if prompt.label_space.definitions != first.label_space.definitions:
            raise DataError(
                f"{prompt.file}: made with other definitions than {first.file}; evaluate label files of one prompt "
                "together"
            )
    return replace(first, label_space=asked[0].label_space)


def _differences(
    prompt: Prompt, template: str | None, verbalisers: Mapping[str, str] | None
) -> Iterator[tuple[str, str, str]]:
    """What differs from the prompt, its value there, and the other one. None is no difference."""
    if None not in (template, prompt.template) and str(template).rstrip() != str(prompt.template).rstrip():
        yield "template", repr(prompt.template), repr(template)
    if verbalisers is not None and dict(verbalisers) != prompt.verbalisers:
        yield "verbalisers", repr(prompt.verbalisers), repr(dict(verbalisers))


def asked_source(data: DataSource, results: Results) -> DataSource:
    """The held-out data, wherever it lies now, with the prompt of the label files; of another file also the text in the
    column they have it in, where there is one.

    Raises:
        ConfigError: the settings ask for another prompt.
        DataError: label files contradict each other.
    """
    prompt = prompt_of(results)
    if prompt is None:
        return data
    for name, one, other in _differences(prompt, data.template, data.verbalisers):
        raise ConfigError(
            f"data.{name}: found {other}, but {prompt.file} was made with {one}; leave data.{name} out (the label "
            "file decides the prompt), or label anew with it"
        )
    recorded = results[prompt.file].record.data.source
    if recorded is not None and recorded.dataset == data.dataset:
        data = located(data, results[prompt.file])
    data = replace(data, template=prompt.template or data.template, verbalisers=prompt.verbalisers)
    column = None if recorded is None or data.text_field is not None else recorded.text_field  # the template's {text}
    return replace(data, text_field=column) if column and has_column(data, column) else data


def load_held_out(source: DataSource, results: Results, generate: Generate | None = None) -> TaskData:
    """The held-out items that have gold; `generate` writes claims where the data holds none (see `load_task`).

    Raises:
        ICMError: the data cannot be loaded, does not fit the prompt of the label files, or has no gold.
    """
    prompt = prompt_of(results)
    try:
        loaded = load_task(source, generate)
    except (ConfigError, DataError) as found:
        error = type(found)(with_options_of("--data.", str(found)))
        raise (_explained(source, prompt, error) if prompt else error) from None
    kept: tuple[ICMExample, ...] = tuple(example for example in loaded.dataset if example.id in loaded.gold)
    if not kept:
        raise DataError(
            f"data.dataset {source.dataset}: no item has a gold label; nothing to evaluate (data.label_field names "
            "their column)"
        )
    space = prompt.label_space if prompt else loaded.dataset.label_space
    return replace(loaded, dataset=replace(loaded.dataset, examples=kept, label_space=space))


def _explained(source: DataSource, prompt: Prompt, error: ICMError) -> ICMError:
    """The error itself if the data cannot be loaded at all, else one that names the label file."""
    if _loads(replace(source, template=None, verbalisers=None)):
        return DataError(
            f"data.dataset {source.dataset}: the prompt of {prompt.file} does not fit it: {error}; evaluate on data of "
            "the same task"
        )
    if not source.holdout and source.split is None and _loads(replace(source, part="train")):
        return DataError(
            f"data.dataset {source.dataset}: has no test split, so nothing is held out; label with --holdout 0.3 and "
            "evaluate on the other part (data.holdout), or give other data (data.dataset)"
        )
    return error


def _loads(source: DataSource) -> bool:
    try:
        load_task(source, stand_ins)
    except ICMError:
        return False
    return True
