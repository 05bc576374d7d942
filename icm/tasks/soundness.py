"""One bad record does not refuse a file: a few are left out, counted and named; many are a mistake in the file."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from icm.errors import ICMError

T = TypeVar("T")

SMALL_FILE = 4
"""Records of which one may be bad: one of three is more likely the file's mistake than the record's."""
NAMED = 3

_log = logging.getLogger(__name__)


def sound(tried: Iterable[T | ICMError], policy: str, what: str = "records", fate: str = "left out") -> list[T]:
    """What could be used, with one warning that counts and names the rest.

    Args:
        tried: in order, each as read, or the error that says what is wrong with it.
        policy: `DataSource.bad_records`.
        what: name of what is counted.
        fate: what becomes of the bad ones.

    Raises:
        ICMError: the first one found, if the policy leaves out no more or not as many.
    """
    found = list(tried)
    problems = [one for one in found if isinstance(one, ICMError)]
    if len(problems) > _allowed(len(found), policy):
        raise _too_many(problems, len(found), policy, what, fate)
    if problems:
        _log.warning("%s: %d of %d %s (%s)", fate, len(problems), len(found), what, first_few(map(str, problems)))
    return [one for one in found if not isinstance(one, ICMError)]


def drained(items: list[T]) -> Iterator[T]:
    """The items in order, each forgotten by the list as it is given: of a million, one stage at a time is kept."""
    items.reverse()
    while items:
        yield items.pop()


def first_few(names: Iterable[str]) -> str:
    """The first names of a list for a message."""
    distinct = list(dict.fromkeys(names))
    return "; ".join([*distinct[:NAMED], *(["…"] if len(distinct) > NAMED else [])])


def _allowed(count: int, policy: str) -> int:
    if policy == "auto":
        return max(count // 100, 1 if count >= SMALL_FILE else 0)
    return count - 1 if policy == "skip" else 0


def _too_many(problems: Sequence[ICMError], count: int, policy: str, what: str, fate: str) -> ICMError:
    first = problems[0]
    if policy == "refuse" or len(problems) == count:
        return first
    return type(first)(
        f"{first} ({len(problems)} of {count} {what} are bad, too many to pass over; give "
        f"--bad-records skip to have them {fate})"
    )
