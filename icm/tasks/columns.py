"""Columns as a task names them: headers forgiven, columns that the user names, label columns under other names."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from icm.errors import ConfigError, DataError
from icm.tasks.base import Record, Task
from icm.tasks.record import UNLABELLED, label_name
from icm.tasks.rendering import placeholders
from icm.tasks.source import DataSource

_WORDS = re.compile(r"[a-z]+")
LABEL_WORDS = frozenset(
    _WORDS.findall(
        "labels stars class category rating score target gold answer polarity emotion intent topic annotation verdict "
        "sentiment label grade"
    )
)
QUESTION_WORDS = frozenset(
    _WORDS.findall(
        "question title headline prompt premise hypothesis passage context choice choices option options sentence text "
        "query instruction input review content body description statement claim story situation scenario dialogue "
        "dialog conversation utterance message comment tweet post article document paragraph abstract summary response "
        "reply completion background fact evidence persona stem goal narrative history system opt alternative "
        "alternatives answers candidate candidates ending endings distractor distractors left right"
    )
)
_ENDINGS = {"stem", *"012345678abcdefgh"}
_REPLIES = {"answer", "output"}
"""What is asked about where several stand side by side: `answer_a`, `output_1`."""
_RIGHT = {"correct", "gold", "right", "best", "true", "key"}

_log = logging.getLogger(__name__)


def columns_of(records: Iterable[Record]) -> list[str]:
    """The fields of all records, in the order in which they come."""
    return list(dict.fromkeys(name for record in records for name in record.fields))


def plain(column: str) -> str:
    """A header without case and blanks: ` Class Index` and `class_index` are one."""
    return re.sub(r"[\s_-]+", "_", column.strip("\ufeff \t").lower())


def looks_like_question(column: str) -> bool:
    """Whether the name says that the field is part of what is asked, as `sentence2`, `product_title` and `C` do."""
    if re.fullmatch(r"[A-H]", column.strip()):
        return True
    words = words_of(column)
    marked = len(words) > 1 and words[-1] in _ENDINGS
    while len(words) > 1 and words[-1] in _ENDINGS:
        words.pop()
    asks = bool(words) and (words[-1] in QUESTION_WORDS or (marked and words[-1] in _REPLIES))
    return asks and (len(words) == 1 or words[0] not in LABEL_WORDS | _RIGHT)


def holds_verdict(column: str) -> bool:
    """Whether the name says that the field holds what is right, as `correct_option`, `key` and `label` do."""
    words = words_of(column)
    last = words[-1:] != [] and words[-1] in LABEL_WORDS | {"key", "correct", "gold", "winner", "solution", "idx"}
    return last or (len(words) > 1 and words[0] in _RIGHT | LABEL_WORDS and not looks_like_question(column))


def words_of(column: str) -> list[str]:
    """The words and numbers of a name: `productTitle`, `option_1` and `opt1` have two each."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())


def values_of(column: str, records: Iterable[Record]) -> set[str]:
    """The values of a field as labels are named."""
    found = (record.fields.get(column) for record in records)
    return {label_name(str(value).strip()) for value in found if value not in (None, "")}


def holds_text(column: str, records: Sequence[Record]) -> bool:
    """Whether the field holds text, or a list of texts, in most records."""
    filled = sum(isinstance(value := record.fields.get(column), str | list) and bool(value) for record in records)
    return filled * 2 > len(records)


def forgiven(columns: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Column → the known name that it differs from in case and blanks alone."""
    names: dict[str, str] = {}
    for column in columns:
        name = plain(column)
        if column not in known and name in known and name not in (*columns, *names.values()):
            names[column] = name
    return names


def named_columns(columns: Sequence[str], source: DataSource) -> dict[str, str]:
    """Column → what the source's `text_field` and `label_field` make of it. Raises ConfigError for one not there."""
    names: dict[str, str] = {}
    for option, target in (("text_field", "text"), ("label_field", "label")):
        if (given := getattr(source, option)) is not None:
            found = find_column(given, columns, option)
            if target in columns and target != found:
                names[target] = f"{target} (other)"
            names[found] = target
    return names


def find_column(given: str, columns: Sequence[str], option: str) -> str:
    """The column that an option means. Raises ConfigError if there is none."""
    found = [given] if given in columns else [column for column in columns if plain(column) == plain(given)]
    if len(found) != 1:
        raise ConfigError(f"{option}: found {given!r}, expected one of the fields {shown(columns)}")
    return found[0]


def label_column(columns: Sequence[str], records: Sequence[Record], source: DataSource) -> str | None:
    """The one column that holds labels under another name than the usual ones; None where there is none, or where
    several could and the source says what the labels are.

    Raises:
        DataError: several could be meant, and nothing else says what the labels are.
    """
    content = {plain(name) for name in placeholders(source.template or "")}
    named = [name for name in columns if _label_like(name) and plain(name) not in content]
    found = [name for name in named if holds_labels(name, records, source)]
    if len(found) > 1 and not source.verbalisers:
        options = " or ".join(f"--label-field {quoted(name)}" for name in found[:4])
        raise DataError(f"{source.dataset}: {' and '.join(map(repr, found[:4]))} may hold the labels; give {options}")
    if len(found) == 1:
        _log.info("field %r is taken as the label; --label-field names another one", found[0])
    return found[0] if len(found) == 1 else None


def _label_like(column: str) -> bool:
    words = plain(column).removesuffix("_index").split("_")
    return words[-1] in LABEL_WORDS or plain(column) == "choice"


def holds_labels(column: str, records: Sequence[Record], source: DataSource) -> bool:
    """Whether the values of a field are few and come again, as labels do; or are those that the source names."""
    values = [value for record in records if (value := record.fields.get(column)) not in (None, "")]
    names = values_of(column, records)
    if not values or not all(isinstance(value, str | int | float) for value in values):
        return False
    if source.verbalisers:
        return names <= {*map(label_name, source.verbalisers), *(source.label_map or {}), UNLABELLED}
    return 1 < len(names) <= max(2, len(values) // 2)


def renamed(records: Sequence[Record], names: Mapping[str, str]) -> Sequence[Record]:
    """The records under the names that the task reads."""
    if not names:
        return records
    called = {new: old for old, new in names.items()}
    return [
        replace(record, fields={names.get(name, name): value for name, value in record.fields.items()}, called=called)
        for record in records
    ]


def with_labels_mapped(records: Sequence[Record], task: Task, source: DataSource) -> Sequence[Record]:
    """The records of a task whose labels are fixed, with those of the source's `label_map` replaced or left out."""
    names = source.label_map
    if not names or task.label_space is None:
        return records

    def value(name: str, found: object) -> object:
        mapped = name in task.gold_fields and isinstance(found, str | int | float)
        return names.get(label_name(str(found).strip()), found) if mapped else found

    return [replace(r, fields={name: value(name, found) for name, found in r.fields.items()}) for r in records]


def shown(columns: Iterable[str], most: int = 12) -> str:
    """Columns for a message."""
    names = list(columns)
    return f"[{', '.join(f'{name!r:.60}' for name in names[:most])}{', …' if len(names) > most else ''}]"


def quoted(text: str) -> str:
    """A word of a command line that can be pasted into a shell, on one line."""
    if "\n" in text:
        return "$'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return text if re.fullmatch(r"[\w./:-]+", text) else "'" + text.replace("'", "'\\''") + "'"
