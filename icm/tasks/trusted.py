"""What is known of some labels before a search: those that somebody vouches for, and those of an earlier result."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icm.consistency import ConsistencyRule, IdenticalTextRule, LogicalConsistencyChecker
from icm.errors import ConfigError, DataError, ICMError
from icm.examples import TRUSTED, ICMDataset, ICMExample, LabelSpace, example_id
from icm.files import read_jsonl
from icm.tasks.columns import columns_of, plain
from icm.tasks.drawing import Claim, in_part
from icm.tasks.formats import file_records
from icm.tasks.record import Record, label_name
from icm.tasks.rendering import placeholders
from icm.tasks.source import DataSource
from icm.text import normalised_text

_TRUE = {"true": "True", "1": "True", "yes": "True", "false": "False", "0": "False", "no": "False"}

_BARE = {"id", "input", "found", "why"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """A trusted label and where it stands."""

    label: str
    where: str


def read_trusted(
    source: DataSource,
    claims: Sequence[Claim],
    space: LabelSpace,
    rules: Sequence[ConsistencyRule],
    as_data: Callable[[Sequence[Record]], Sequence[Claim]],
) -> dict[str, str]:
    """Example id → label, of the source's file of trusted labels; rows without a label are passed over.

    Args:
        source: names the file, and which part of the data is loaded.
        claims: all of the data, both sides of a holdout.
        space: the labels.
        rules: the task's consistency rules.
        as_data: reads rows with the data's own fields as the data are read.

    Raises:
        DataError: a row that names no example of the data, or one that the evaluation asks about; a label that is none;
            labels that contradict each other, with both places.
    """
    if source.trusted is None:
        return {}
    path = Path(source.trusted).expanduser()
    if not path.is_file():
        raise DataError(f"trusted {path}: no such file; expected the JSON lines or CSV file of trusted labels")
    examples = {claim.example.id: claim.example for claim in claims}
    found: dict[str, Given] = {}
    for key, given in _rows(_named_alike(file_records(path), source), source, examples, space, as_data):
        _check_side(examples[key], given, source)
        first = found.setdefault(key, given)
        if first.label != given.label:
            raise DataError(
                f"{first.where} and {given.where}: contradictory trusted labels {first.label!r} and {given.label!r} "
                f"for one example, {examples[key].input[:80]!r}; keep one"
            )
    if not found:
        column = _label_field(source)
        raise DataError(f"{path}: no row has a label; fill the column {column!r}, or leave --trusted out")
    _check_rules(found, [examples[key] for key in sorted(found)], space, rules)
    _log.info("trusted: %d labels of %s", len(found), path)
    return {key: given.label for key, given in found.items()}


def _rows(
    records: Sequence[Record],
    source: DataSource,
    examples: Mapping[str, ICMExample],
    space: LabelSpace,
    as_data: Callable[[Sequence[Record]], Sequence[Claim]],
) -> list[tuple[str, Given]]:
    """(example id, label) of each row that has a label."""
    column = _label_field(source)
    labelled = [record for record in records if _filled(record.fields.get(column))]
    for record in labelled:
        _refuse_two(record, column)
    own, texts = _own_ids(examples.values()), _texts(examples.values())
    pairs = [
        (record, _named(record, examples, texts, source) or _by_own_id(record, own, source)) for record in labelled
    ]
    found = [
        (key, Given(_label(record.fields[column], record.where, source, space), record.where))
        for record, key in pairs
        if key is not None
    ]
    read = _read([record for record, key in pairs if key is None], source, as_data)
    if others := sum(own.get(claim.example.record_id or "", claim.example.id) != claim.example.id for claim in read):
        _log.warning(
            "trusted %s: %d rows have the id of another example than that of their text, which counts; if one column "
            "was sorted alone, put the table in order",
            source.trusted,
            others,
        )
    for claim in read:
        if claim.gold is None:
            continue
        if claim.example.id not in examples:
            raise _unknown(claim.where, source)
        found.append((claim.example.id, Given(_spelt(claim.gold, claim.where, space), claim.where)))
    return found


def _read(
    records: Sequence[Record], source: DataSource, as_data: Callable[[Sequence[Record]], Sequence[Claim]]
) -> Sequence[Claim]:
    for record in records:
        if _without_text(record, source):
            raise _unknown(record.where, source)
    try:
        return as_data(records)
    except ICMError as error:
        raise DataError(
            f"trusted {source.trusted}: rows without the id of an example (column id) or its whole input (input) are "
            f"read as the data are, which fails: {error}"
        ) from None


def _named_alike(records: Sequence[Record], source: DataSource) -> Sequence[Record]:
    """The rows with the data's names for label and text, however a spreadsheet spells them, or `icm ask`, which calls
    them `label` and `text`; and with its own names for the rest of its columns."""
    columns = columns_of(records)
    wanted = {
        "label": _label_field(source),
        "text": source.text_field or "text",
        **{name: name for name in _bare(source)},
    }
    new = dict[str, str]()
    for name, field in wanted.items():
        spelt = [column for known in (field, name) for column in columns if plain(column) == plain(known)]
        if field not in columns and spelt:
            new.setdefault(spelt[0], field)
    return [replace(r, fields={new.get(name, name): value for name, value in r.fields.items()}) for r in records]


def _bare(source: DataSource) -> set[str]:
    """Columns of `icm ask` and of label files, but for those that are the data's own."""
    return _BARE - {plain(name) for name in (source.text_field or "", *placeholders(source.template or ""))}


def _without_text(record: Record, source: DataSource) -> bool:
    return {*record.fields} <= (_bare(source) | {_label_field(source)}) - {"input"}


def _filled(value: object) -> bool:
    return value is not None and bool(str(value).strip())


def _refuse_two(record: Record, column: str) -> None:
    """Raise DataError for a row with two labels: in the data's column and in that of `icm ask`."""
    found = [record.fields.get(name) for name in (column, "label")]
    own, asked = (label_name(str(value).strip()) for value in found)
    if _filled(found[1]) and asked != own:
        raise DataError(
            f"{record.where}: found {own!r} in {column!r}, but {asked!r} in 'label'; keep one column of labels"
        )


def _label_field(source: DataSource) -> str:
    return source.label_field or "label"


def _own_ids(examples: Iterable[ICMExample]) -> dict[str, str]:
    """The data's own id → the example's, where it is that of one example alone."""
    own = [(example.record_id, example.id) for example in examples if example.record_id is not None]
    counted = Counter(record_id for record_id, _ in own)
    return {record_id: key for record_id, key in own if counted[record_id] == 1}


def _by_own_id(record: Record, own: Mapping[str, str], source: DataSource) -> str | None:
    """The example that a row names by nothing but the data's id; with a text an id may be the tool's."""
    return own.get(record.own_id or "") if _without_text(record, source) else None


def _texts(examples: Iterable[ICMExample]) -> dict[str, set[str]]:
    """Text, or whole input → the ids of the examples that have it."""
    found = dict[str, set[str]]()
    for example in examples:
        for text in (example.input, example.metadata.get("text") or example.input):
            found.setdefault(normalised_text(str(text)), set()).add(example.id)
    return found


def _named(
    record: Record, examples: Mapping[str, ICMExample], texts: Mapping[str, set[str]], source: DataSource
) -> str | None:
    """The id of the example that a row names by id or by its whole input; None if it names none so.

    Raises:
        DataError: its text is another example's, as in a table of which one column was sorted.
    """
    fields = dict.fromkeys(("input", "text", source.text_field or "text"))
    written = [str(record.fields[name]) for name in fields if name in record.fields]
    keys = [str(record.fields.get("id")).strip(), *(example_id(text) for text in written)]
    found = next((key for key in keys if key in examples), None)
    others = [texts[own] for text in written if (own := normalised_text(text)) in texts]
    if found is not None and others and not any(found in ids for ids in others):
        raise DataError(
            f"{record.where}: the id is that of {examples[found].input[:60]!r}, but the text is another example's, "
            f"{written[-1][:60]!r}; keep the rows of the table together"
        )
    return found


def _label(written: object, where: str, source: DataSource, space: LabelSpace) -> str:
    """The label of the space that a row means: as the data or the space spell it, or a spreadsheet (TRUE)."""
    given = label_name(str(written).strip())
    mapped = {label_name(old): new for old, new in (source.label_map or {}).items()}
    return _spelt(mapped.get(given, given), where, space)


def _spelt(name: str, where: str, space: LabelSpace) -> str:
    """The label of the space of this name, in whatever case. Raises DataError if there is none."""
    folded = {label.casefold(): label for label in space.labels}
    known = name if name in space.labels else folded.get(name.casefold(), _TRUE.get(name.casefold(), name))
    if known not in space.labels:
        raise DataError(f"{where}: found the label {name!r}, expected one of {list(space.labels)[:12]}")
    return known


def _unknown(where: str, source: DataSource) -> DataError:
    return DataError(
        f"{where}: no example of {source.dataset} is this one; expected its id (as `icm ask` and the label file have "
        "it), its whole input, or the fields that the data have"
    )


def _check_side(example: ICMExample, given: Given, source: DataSource) -> None:
    if not in_part(example.group, source):
        raise DataError(
            f"{given.where}: this example's question is in the part of {source.dataset} that holdout {source.holdout} "
            f"keeps for the evaluation: {example.input[:80]!r}; leave the row out, or label with another --holdout"
        )


def _check_rules(
    found: Mapping[str, Given], examples: Sequence[ICMExample], space: LabelSpace, rules: Sequence[ConsistencyRule]
) -> None:
    dataset = ICMDataset(examples, space)
    index = LogicalConsistencyChecker([*rules, IdenticalTextRule()]).index(dataset)
    labels = {place: found[example.id].label for place, example in enumerate(dataset)}
    for i, j in index.violations(labels)[:1]:
        one, other = found[dataset[i].id], found[dataset[j].id]
        raise DataError(
            f"{one.where} and {other.where}: contradictory trusted labels {one.label!r} and {other.label!r} of related "
            f"examples, {dataset[i].input[:80]!r} and {dataset[j].input[:80]!r}; mend one"
        )


def with_given(dataset: ICMDataset, source: DataSource, trusted: Mapping[str, str]) -> ICMDataset:
    """The data set with the trusted labels of its examples, which may be a slice's, and the source's start and
    definitions. Errors are those of `read_start` and `read_definitions`."""
    held, space = {example.id for example in dataset}, dataset.label_space
    return replace(
        dataset,
        label_space=replace(space, definitions=read_definitions(source, space)),
        trusted={key: label for key, label in trusted.items() if key in held},
        start=read_start(source, held, space, trusted),
    )


MOST_ODDS = 1e3
"""Log-odds beyond which a file's number is none that a model gave, nats."""


def read_start(
    source: DataSource, held: Collection[str], space: LabelSpace, trusted: Collection[str] = ()
) -> dict[str, tuple[str, float]]:
    """Example id → label and log-odds of the earlier result that the source names, of the examples that are loaded.
    Warns of labels that were given to that one and are not `trusted` in this run.

    Raises:
        DataError: the file is no result, or none of its examples is loaded.
    """
    if source.start is None:
        return {}
    rows = [row for _, row in read_jsonl(Path(source.start).expanduser()) if row.get("type") == "icm_example"]
    labels = {example_id(str(row.get("input"))): (str(row.get("label")), _odds(row.get("log_odds"))) for row in rows}
    found = {key: given for key, given in labels.items() if key in held and given[0] in space.labels}
    if not found:
        raise DataError(
            f"start {source.start}: none of its {len(rows)} examples is among the data with one of the labels "
            f"{list(space.labels)[:12]}; expected a label file that `icm run` wrote for these data"
        )
    given = {example_id(str(row.get("input"))) for row in rows if _mapping(row.get("metadata")).get(TRUSTED) is True}
    if lost := given & {*held} - {*trusted}:
        _log.warning(
            "start %s: %d labels that were given to it are not among this run's trusted ones and may change; a table "
            "that `icm ask` or `icm review` makes of it has them all",
            source.start,
            len(lost),
        )
    if len(found) < len(held):
        _log.warning("start %s: has labels for %d of %d examples", source.start, len(found), len(held))
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _odds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) <= MOST_ODDS else 0.0


DEFINITIONS = (
    ("Question: What is the sum of two and two?\nClaim: Two and two make four\nI think this Claim is", "True"),
    ("Question: What is the moon made of?\nClaim: The moon is made of cheese\nI think this Claim is", "False"),
    ("Question: Where do fish live?\nClaim: Fish live in trees\nI think this Claim is", "False"),
    ("Question: What do bees make?\nClaim: Bees make honey\nI think this Claim is", "True"),
)
"""Claims that nobody disputes, for tasks whose labels are True and False."""


def read_definitions(source: DataSource, space: LabelSpace) -> tuple[tuple[str, str], ...]:
    """(text, label) of the source's definitions.

    Raises:
        ConfigError: `builtin` for labels that we have none for.
        DataError: a row without text, or without a label of the space.
    """
    if source.definitions is None:
        return ()
    if source.definitions == "builtin":
        if {*space.labels} != {"True", "False"}:
            raise ConfigError(
                f"definitions: found 'builtin', which are claims that are True or False, but the labels are "
                f"{list(space.labels)[:12]}; give a file of your own (text, label)"
            )
        return DEFINITIONS
    path = Path(source.definitions).expanduser()
    if not path.is_file():
        raise DataError(f"definitions {path}: no such file; expected a JSON lines or CSV file with text and label")
    rows = _named_alike(file_records(path), DataSource(source.dataset))
    return tuple((row.text("text"), _label(row.fields.get("label", ""), row.where, source, space)) for row in rows)
