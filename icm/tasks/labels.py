"""Gold labels as the user names them, and a look at them before anything is searched.

What is said of gold here is said to the user alone: which examples are loaded does not depend on it.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from icm.errors import DataError
from icm.examples import LabelSpace
from icm.tasks.base import Task
from icm.tasks.drawing import Claim
from icm.tasks.record import UNLABELLED, label_name
from icm.tasks.rendering import all_verbalised
from icm.tasks.source import DataSource

MISSING = {"na", "n/a", "nan", "none", "null", "nil", "-", "--", "?", ".", "unknown", "#n/a", "unlabeled", "unlabelled"}
STARS = ("terrible", "bad", "okay", "good", "great")
MOST_NUMBERS = 12
"""Numbers that are plausible as names of classes."""
FEW, OFTEN = 2, 5
"""A label that stands at most `FEW` times is rare where another stands `OFTEN` times."""

_log = logging.getLogger(__name__)


def gold_names(found: Mapping[str, int], task: Task, source: DataSource) -> dict[str, str | None]:
    """Gold label (of those found, with their counts) → as the source's `label_map` and verbalisers spell it, None for
    no label; -1 is none unless they name it."""
    names = {label_name(old): new for old, new in (source.label_map or {}).items()} if task.label_space is None else {}
    spelt = {label_name(label): label for label in source.verbalisers or ()}
    if UNLABELLED in found and UNLABELLED not in names.keys() | spelt.keys():
        _log.warning(
            "label -1 counts as unlabelled (%d records); --verbalisers '-1= NAME' … keeps it", found[UNLABELLED]
        )
        names = {**names, UNLABELLED: ""}
    if absent := sorted(names.keys() - found.keys() - {UNLABELLED}):
        _log.warning(
            "label_map: no record has the label %s; there are %s", ", ".join(map(repr, absent)), _counts(found)
        )
    mapped = {gold: names.get(gold, gold) for gold in found}
    return {gold: spelt.get(name, name) or None for gold, name in mapped.items()}


def check_labels(claims: Sequence[Claim], space: LabelSpace, task: Task, source: DataSource) -> None:
    """Refuse labels outside the space; warn of those that look like mistakes, with the option that mends each.

    Raises:
        DataError: with the option that maps the label, or drops it.
    """
    found = Counter(claim.gold for claim in claims if claim.gold is not None)
    if source.verbalisers and len(found) > 1 and not found.keys() & set(space.labels):
        texts, names = (" ".join(_to(label, name) for label in sorted(found)[:6]) for name in (" TEXT", "NAME"))
        raise DataError(
            f"{source.dataset}: unknown labels {_counts(found)}, expected {list(space.labels)[:12]}; name them as the "
            f"data do (--verbalisers {texts}), or say which is which (--label-map {names})"
        )
    for claim in claims:
        if claim.gold is not None and claim.gold not in space.labels:
            like = _alike(claim.gold, space.labels)
            more = "" if like or not source.verbalisers else f"{all_verbalised(found, source.verbalisers)}, else "
            raise DataError(
                f"{claim.where}: unknown label {claim.gold!r}, expected one of {list(space.labels)[:12]}; {more}"
                f"--label-map {_to(claim.gold, like)} {_meaning(claim.gold, space.labels)}"
            )
    if task.label_space is None and source.verbalisers is None:
        for line in [*_spellings(found), *_missing(found), *_rare(found), *_numbers(found)]:
            _warn_once(source.dataset, line)
    labelled = found.total()
    if len(found) == 1 and labelled > 1:
        line = f"all {labelled} labels are {next(iter(found))!r} (one class only): accuracy on them says little"
        _warn_once(source.dataset, line)
    if 0 < 2 * labelled < len(claims):
        line = f"{labelled} of {len(claims)} examples have a label: accuracy is that of these alone"
        _warn_once(source.dataset, line)


@lru_cache(maxsize=256)
def _warn_once(dataset: str, line: str) -> None:
    """An evaluation loads the data once for the test and once for the labelled part."""
    _log.warning("%s", line)


def _alike(label: str, labels: Sequence[str]) -> str:
    return next((other for other in labels if _folded(other) == _folded(label)), "")


def _meaning(label: str, labels: Sequence[str]) -> str:
    return "makes it that label" if _alike(label, labels) else "counts it as unlabelled"


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())


def _to(label: str, name: str) -> str:
    return "'" + f"{label}={name}".replace("'", "'\\''") + "'"


def _spellings(counts: Counter[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for label, _ in counts.most_common():
        groups.setdefault(_folded(label), []).append(label)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return []
    found = "; ".join(", ".join(f"{label!r} ({counts[label]})" for label in group) for group in several[:6])
    options = " ".join(_to(label, group[0]) for group in several for label in group[1:])
    return [f"labels differ in case or white space only: {found}; --label-map {options} makes them one"]


def _missing(counts: Counter[str]) -> list[str]:
    found = {label: count for label, count in counts.items() if label.lower() in MISSING}
    if not found:
        return []
    shown = ", ".join(f"{label!r} ({count} of {counts.total()})" for label, count in found.items())
    options = " ".join(_to(label, "") for label in found)
    one = len(found) == 1
    what = f"label {shown} looks like a missing value" if one else f"labels {shown} look like missing values"
    return [f"{what}; --label-map {options} counts {'it' if one else 'them'} as unlabelled"]


def _rare(counts: Counter[str]) -> list[str]:
    if 2 * len(counts) > max(counts.total(), 2 * OFTEN):
        return [f"{len(counts)} labels for {counts.total()} texts: are they classes? --label-field names another field"]
    if max(counts.values(), default=0) < OFTEN:
        return []
    known = {_folded(label) for label, count in counts.items() if count > FEW}
    rare = [label for label, count in counts.items() if count <= FEW]
    rare = [label for label in rare if label.lower() not in MISSING and _folded(label) not in known]
    if not rare:
        return []
    found = ", ".join(f"{label[:60]!r} ({counts[label]})" for label in rare[:6]) + (", …" if len(rare) > 6 else "")
    options = " ".join(_to(label, "") for label in rare[:6])
    return [f"labels that stand once or twice: {found}; --label-map {options} counts them as unlabelled"]


def _numbers(counts: Counter[str]) -> list[str]:
    if not counts or not all(label.isdecimal() for label in counts):
        return []
    labels = sorted(counts, key=int)
    if len(labels) > MOST_NUMBERS:
        asked = (
            f"{len(labels)} numbers from {labels[0]} to {labels[-1]} are taken as labels, each a class of its own; "
            "is this field the label? --label-field names another one"
        )
        return [asked] if 2 * len(labels) <= counts.total() else []  # else they were asked about as rare ones
    return [
        f"labels {', '.join(labels)} are numbers, which tell a model little; say what they mean, for example "
        f"--verbalisers {' '.join(_to(label, f' {name}') for label, name in _names(labels))}"
    ]


def _names(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Names to paste for numbers: those of the commonest scales, else ones to fill in."""
    known = {
        ("0", "1"): ("negative", "positive"),
        ("1", "2"): ("negative", "positive"),
        tuple("01234"): STARS,
        tuple("12345"): STARS,
    }
    names = known.get(tuple(labels), tuple(f"NAME-{label}" for label in labels))
    return list(zip(labels, names, strict=True))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} ({count})" for label, count in sorted(counts.items())[:12])
