"""From a `DataSource` to examples without gold, and gold apart."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from icm.errors import ConfigError, DataError
from icm.examples import GoldLabels, ICMDataset, ICMExample, Relations, TaskData, example_id, rank
from icm.tasks.account import account, account_of_questions
from icm.tasks.base import HubData, Item, Record, Task
from icm.tasks.columns import columns_of, find_column
from icm.tasks.drawing import Claim, draw, group_id, in_part, of_part, of_slice, slice_place, unique
from icm.tasks.fields import field_use, refuse_left_out
from icm.tasks.labels import check_labels, with_gold_named
from icm.tasks.lookup import find_task, recognised, signatures_of, task_names
from icm.tasks.reading import SUFFIXES, is_local, read_records, split_of
from icm.tasks.rendering import Template, label_space, own_template
from icm.tasks.source import DataSource

GENERATED_CLAIMS = 4
"""Candidate solutions a question, where the model writes them: as many as GSM8K-verification has."""

Generate = Callable[[list[str]], list[str]]

_log = logging.getLogger(__name__)


def load_task(source: DataSource, generate: Generate | None = None) -> TaskData:
    """Load a data set as a task.

    Nothing of the result but `gold` depends on the gold labels: with gold removed, shuffled or inverted in the file
    the examples, their order, relations and metadata are the same bytes: gold is unreachable.

    Args:
        source: what to load.
        generate: prompts → one sampled continuation each, for data sets whose claims the model has to write.

    Raises:
        DataError: names the file, line and field, what was found and what is expected.
        ConfigError: a setting of `source` that does not fit the data.
        PrerequisiteError: data that is not on this machine and cannot be fetched.
    """
    _check(source)
    task, records = _task_and_records(source)
    use = field_use(task, records, source)
    if use.written and generate is not None:
        _log.info("what a model writes claims for:\n%s", account_of_questions(task, use, records, source))
    with_claims = _with_claims(task, records, source, generate)
    items = with_gold_named(_items(task, with_claims, source), task, source)
    space = label_space(task, source, items)
    template = Template(source.template or own_template(task, space), task, records[0].called)
    group_field = source.group_field and _group_field(source.group_field, records)
    claims = unique(_claim(item, record, template, group_field) for item, record in items)
    check_labels(claims, space, task, source)
    chosen = of_slice(draw(of_part(claims, source), source), source)
    gold = {claim.example.id: claim.gold for claim in chosen if claim.gold is not None}
    task_type = source.task_type if "." in source.task_type else task.name  # by which `rules_for` finds it again
    dataset = ICMDataset(tuple(c.example for c in chosen), space, _data_name(source), task_type)
    return TaskData(dataset, GoldLabels(gold), template.text, account(task, use, chosen, space, source))


def load_icm_dataset(
    name: str,
    task_type: str = "auto",
    config: str | None = None,
    split: str | None = None,
    max_examples: int | None = None,
    seed: int = 42,
) -> ICMDataset:
    """The examples of a data set, without gold. Arguments are those of `DataSource`; errors those of `load_task`."""
    return load_task(DataSource(name, task_type, config, split, max_examples=max_examples, seed=seed)).dataset


def _check(source: DataSource) -> None:
    if not 0 <= source.holdout < 1:
        raise ConfigError(f"holdout: found {source.holdout}, expected a share from 0 to below 1")
    for name in ("max_examples", "size"):
        value = getattr(source, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: found {value}, expected at least 1")
    slice_place(source)


def _task_and_records(source: DataSource) -> tuple[Task, list[Record]]:
    name = source.dataset.partition(":")[0]
    if name in task_names() and (built_in := find_task(name)).records is not None:
        if source.task_type not in ("auto", name):
            raise ConfigError(f"task_type: found {source.task_type!r}, expected {name!r} for the built-in {name!r}")
        return built_in, list(built_in.records(source))
    known = None if is_local(source.dataset) else _known_hub(source.dataset)
    named = find_task(source.task_type) if source.task_type != "auto" else known and known[0]
    task, records = recognised(read_records(source, _hub_data(source, known)), source, named)
    if named is None:
        refuse_left_out(task, field_use(task, records, source), source)
    return task, records


def _known_hub(dataset: str) -> tuple[Task, HubData] | None:
    """The task that names this hub data set; the owner may be left out, as in `truthful_qa`."""
    for task in map(find_task, task_names()):
        for data in task.hub:
            if dataset.lower() in (data.path.lower(), data.path.lower().partition("/")[2]):
                return task, data
    return None


def _hub_data(source: DataSource, known: tuple[Task, HubData] | None) -> HubData:
    data = known[1] if known else HubData(source.dataset)
    split = split_of(source, data.split, data.test_split)
    if source.part == "test" and not source.holdout and source.split is None and data.split == data.test_split:
        raise ConfigError(f"holdout: found 0, but {data.path} has the one split {data.split!r}; set a share, e.g. 0.5")
    return replace(data, config=source.config or data.config, split=split)


def _with_claims(task: Task, records: list[Record], source: DataSource, generate: Generate | None) -> list[Record]:
    """The records, with claims written by the model where the task asks for them (`Task.question`)."""
    asked = [(record, task.question(record)) for record in records] if task.question else []
    open_questions = [(record, question) for record, question in asked if question is not None]
    if not open_questions:
        return records
    if generate is None:
        raise DataError(
            f"{open_questions[0][0].where}: the record has no claims to judge (task {task.name} reads "
            f"{signatures_of(task)}); give a file with claims, or let a model write them"
        )
    if source.slice is not None:  # another model, and each slice has its own, would write other claims to divide
        raise ConfigError(f"slice: found {source.slice!r}, but a model writes the claims; give a file with claims")
    wanted = _questions_to_ask(open_questions, source)
    prompts = [prompt for _, (_, prompt) in wanted for _ in range(GENERATED_CLAIMS)]
    texts = generate(prompts)
    answered = [record for record, question in asked if question is None]
    for start, (record, _) in zip(range(0, len(texts), GENERATED_CLAIMS), wanted, strict=True):
        answered.append(Record(record.where, {**record.fields, "generated": texts[start : start + GENERATED_CLAIMS]}))
    return answered


def _questions_to_ask(
    questions: list[tuple[Record, tuple[str, str]]], source: DataSource
) -> list[tuple[Record, tuple[str, str]]]:
    """The questions of this part, as many as the draw will need: writing claims costs more than all else here."""
    placed = {group_id(question[0]): (record, question) for record, question in questions}
    groups = sorted((g for g in placed if in_part(g, source)), key=lambda g: rank(g, source.seed))
    most = None if source.max_examples is None else max(1, source.max_examples // GENERATED_CLAIMS)
    return [placed[group] for group in groups[:most]]


def _items(task: Task, records: Sequence[Record], source: DataSource) -> list[tuple[Item, Record]]:
    """All claims of all records. A warning counts the records that hold none, such as two equal responses."""
    found = [(record, list(task.items(record))) for record in records]
    empty = [record.where for record, items in found if not items]
    if len(empty) == len(found):
        expected = f"records of task {task.name}: {signatures_of(task)}"
        raise DataError(f"{source.dataset}: found no claim in {len(found)} records; expected {expected}")
    if empty:
        _log.warning("%d of %d records hold no claim and are left out; the first: %s", len(empty), len(found), empty[0])
    return [(item, record) for record, items in found for item in items]


def _group_field(given: str, records: Sequence[Record]) -> str:
    """The record field that the source calls `given`."""
    called = records[0].called
    columns = {called.get(name, name): name for name in columns_of(records)}
    return columns[find_column(given, list(columns), "group_field")]


def _claim(item: Item, record: Record, template: Template, group_field: str | None) -> Claim:
    values = template.values(item.fields, record)
    pair = {"prompt": item.prompt, "completion": item.completion} if item.prompt and item.completion else {}
    inverse = None
    if item.inverse is not None:
        inverse = example_id(template.render(template.values(item.inverse, record)))
    prompt = template.render(values)
    group = record.text(group_field) if group_field else item.group or prompt
    relations = Relations(group_id(group), item.answer, inverse)
    example = ICMExample(prompt, {**item.fields, **values, **pair}, relations)
    return Claim(example, item.gold, record.where)


def _data_name(source: DataSource) -> str:
    """A name fit for files: `amazon_reviews`, `truthful_qa`, `synthetic_math`."""
    name = Path(source.dataset.rstrip("/")).name
    for suffix in (".gz", *SUFFIXES):
        name = name.removesuffix(suffix)
    return name.replace(":", "_")
