"""From a `DataSource` to examples without gold, and gold apart."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from icm.errors import ConfigError, DataError, ICMError
from icm.examples import GoldLabels, ICMDataset, ICMExample, Relations, TaskData, example_id, garbage_collection
from icm.tasks.advice import signatures_of
from icm.tasks.base import HubData, Item, Record, Task
from icm.tasks.columns import columns_of, find_column
from icm.tasks.drawing import Claim, draw, group_id, of_part, of_slice, slice_place, unique
from icm.tasks.fields import account, account_of_questions, field_use, refuse_left_out
from icm.tasks.formats import SUFFIXES
from icm.tasks.labels import check_labels, gold_names
from icm.tasks.lookup import find_task, recognised, task_names
from icm.tasks.reading import is_local, read_records, split_of
from icm.tasks.rendering import Template, label_space, own_template
from icm.tasks.soundness import drained, first_few, sound
from icm.tasks.source import DataSource
from icm.tasks.trusted import read_trusted, with_given
from icm.tasks.written import Generate, stand_ins, with_claims

_log = logging.getLogger(__name__)


@garbage_collection(on=False)
def load_task(source: DataSource, generate: Generate | None = None) -> TaskData:
    """Load a data set as a task.

    Nothing of the result but `gold` depends on the gold labels: with gold removed, shuffled or inverted in the file
    the examples, their order, relations and metadata are the same bytes: gold is unreachable.

    Args:
        source: what to load.
        generate: prompts → one sampled continuation each, for data sets whose claims the model has to write and that
            name no file of written ones.

    Raises:
        DataError: names the file, line and field, what was found and what is expected.
        ConfigError: a setting of `source` that does not fit the data.
        PrerequisiteError: data that is not on this machine and cannot be fetched.
    """
    _check(source)
    task, records = _task_and_records(source)
    use = field_use(task, records, source)
    if use.writing is not None and generate not in (None, stand_ins):
        _log.info("what a model writes claims for:\n%s", account_of_questions(task, use, source))
    answered, written = with_claims(task, records, source, generate)
    sound_records, survey = _surveyed(task, answered, source)
    names = gold_names(survey.golds, task, source)
    space = label_space(task, source, survey.declared, {name for name in names.values() if name})
    template = Template(source.template or own_template(task, space), task, records[0].called)
    group_field = source.group_field and _group_field(source.group_field, records)
    del records, answered  # a million examples are held once, not as records too
    claimed = (_claims(task, record, names, template, group_field) for record in drained(sound_records))
    rendered = sound(claimed, source.bad_records)
    claims = unique(claim for claims in drained(rendered) for claim in claims)
    forecast = written and generate is stand_ins
    if not forecast:
        check_labels(claims, space, task, source)

    as_data = partial(_trusted_claims, task=task, source=source, template=template, group_field=group_field)
    trusted = {} if forecast else read_trusted(source, claims, space, task.rules, as_data)
    chosen = of_slice(draw(of_part(claims, source), source, trusted), source)
    del claims
    task_type = source.task_type if "." in source.task_type else task.name  # by which `rules_for` finds it again
    said = account_of_questions(task, use, source) if forecast else account(task, use, chosen, space, source)
    examples, gold = list[ICMExample](), dict[str, str]()
    for claim in drained(chosen):
        examples.append(claim.example)
        if claim.gold is not None:
            gold[claim.example.id] = claim.gold
    dataset = with_given(ICMDataset(examples, space, _data_name(source), task_type), source, trusted)
    return TaskData(dataset, GoldLabels(gold), template.text, said, written)


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
    for name in ("max_examples", "size", "candidates"):
        value = getattr(source, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: found {value}, expected at least 1")
    slice_place(source)


def _task_and_records(source: DataSource) -> tuple[Task, Sequence[Record]]:
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


@dataclass
class _Survey:
    """What all records say together, before any of them is rendered.

    Attributes:
        golds: gold label → claims.
        declared: label spaces that records declare.
        problems: for each record, what is wrong with its gold.
        empty: places of the records that hold no claim, such as two equal responses.
    """

    golds: Counter[str] = field(default_factory=Counter)
    declared: set[tuple[str, ...]] = field(default_factory=set)
    problems: list[DataError | None] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def read(self, task: Task, record: Record) -> Record | DataError | None:
        """The record, None if it holds no claim; what is wrong with it."""
        try:
            items, problem = _items(task, record)
        except DataError as error:
            return error
        self.problems.append(problem)
        self.golds.update(item.gold for item in items if item.gold is not None)
        self.declared.update(item.labels for item in items if item.labels)
        if not items:
            self.empty.append(record.where)
        return record if items else None


def _surveyed(task: Task, records: Sequence[Record], source: DataSource) -> tuple[list[Record], _Survey]:
    """The sound records that hold claims, and what they say together. A warning counts the others."""
    survey = _Survey()
    tried = [survey.read(task, record) for record in records]
    if source.task_type == "auto" and task.records is None and all(isinstance(one, DataError) for one in tried):
        raise DataError(f"{tried[0]} (taken for task {task.name} by the fields; --task-type names another)")
    found = sound(tried, source.bad_records)
    sound(survey.problems, source.bad_records, fate="counted as unlabelled")
    empty = survey.empty
    if len(empty) == len(found):
        expected = f"records of task {task.name}: {signatures_of(task)}"
        raise DataError(f"{source.dataset}: found no claim in {len(found)} records; expected {expected}")
    if empty:
        _log.warning("left out: %d of %d records that hold no claim (%s)", len(empty), len(found), first_few(empty))
    return [record for record in found if record is not None], survey


def _items(task: Task, record: Record) -> tuple[list[Item], DataError | None]:
    """The claims of a record, and what is wrong with its gold, without which it is then read: gold does not decide
    whether a record is there."""
    try:
        return task.claims(record), None
    except DataError as error:
        bare = {name: value for name, value in record.fields.items() if name not in task.gold_fields}
        try:
            return task.claims(replace(record, fields=bare)), error
        except DataError:
            raise error from None


def _claims(
    task: Task, record: Record, names: Mapping[str, str | None], template: Template, group_field: str | None
) -> tuple[Claim, ...] | ICMError:
    try:
        return tuple(_claim(item, record, names, template, group_field) for item in _items(task, record)[0])
    except ICMError as error:  # a column of the template that is empty here, or that no record has
        return error


def _trusted_claims(
    rows: Sequence[Record], task: Task, source: DataSource, template: Template, group_field: str | None
) -> list[Claim]:
    """The claims of records with trusted labels, read as the data's own. Raises DataError for one that is none."""
    if not rows:
        return []
    _, records = recognised(rows, source, task)
    found = [(record, task.claims(record)) for record in records]
    golds = Counter(item.gold for _, items in found for item in items if item.gold is not None)
    names = gold_names(golds, task, source)
    return [_claim(item, record, names, template, group_field) for record, items in found for item in items]


def _group_field(given: str, records: Sequence[Record]) -> str:
    """The record field that the source calls `given`."""
    called = records[0].called
    columns = {called.get(name, name): name for name in columns_of(records)}
    return columns[find_column(given, list(columns), "group_field")]


def _claim(
    item: Item, record: Record, names: Mapping[str, str | None], template: Template, group_field: str | None
) -> Claim:
    values = template.values(item.fields, record)
    pair = {"prompt": item.prompt, "completion": item.completion} if item.prompt and item.completion else {}
    inverse = None
    if item.inverse is not None:
        inverse = example_id(template.render(template.values(item.inverse, record)))
    prompt = template.render(values)
    group = record.text(group_field) if group_field else item.group or prompt
    relations = Relations(group_id(group), item.answer, inverse)
    metadata = {**item.fields, **values, **pair}
    own = record.own_id if record.own_id != example_id(prompt) else None  # a label file's, read as data
    example = ICMExample(prompt, metadata, relations, record.where, own)
    return Claim(example, None if item.gold is None else names[item.gold], record.where)


def _data_name(source: DataSource) -> str:
    """A name fit for files: `amazon_reviews`, `truthful_qa`, `synthetic_math`."""
    name = Path(source.dataset.rstrip("/")).name
    for suffix in (".gz", *SUFFIXES):
        name = name.removesuffix(suffix)
    return name.replace(":", "_")
