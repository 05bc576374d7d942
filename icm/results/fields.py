"""Checks of single JSON fields from files that users can edit. `where` starts each message: file, line, field."""

import difflib
from collections.abc import Sequence

from icm.errors import DataError
from icm.files import dump_json

LARGEST = 1e15
"""Bound on every number that is read: exact as a float, and far above any token count or utility."""


def shown(value: object) -> str:
    """The value as it was found, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def text_field(value: object, where: str) -> str:
    """Text that is not blank and can be written as UTF-8 (JSON escapes can hold half a surrogate pair)."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: found {shown(value)}, expected text that is not empty")
    _check_encodable(value, where)
    return value


def texts_field(value: object, where: str) -> tuple[str, ...]:
    """A list of texts, not empty."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: found {shown(value)}, expected a list of texts")
    return tuple(text_field(text, where) for text in value)


def number_field(value: object, where: str) -> float | None:
    """A number of sane size (sums and plots of it stay finite), as it is, or null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise DataError(f"{where}: found {shown(value)}, expected a finite number (at most {LARGEST:g}) or null")
    return value


def count_field(value: object, where: str) -> int:
    """A whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise DataError(f"{where}: found {shown(value)}, expected a whole number, 0 or more")
    return value


def counts_field(value: object, where: str) -> list[int]:
    """A list of whole numbers, 0 or more."""
    if not isinstance(value, list):
        raise DataError(f"{where}: found {shown(value)}, expected a list of whole numbers")
    return [count_field(number, where) for number in value]


def numbers_field(value: object, where: str) -> dict[str, float]:
    """An object of numbers; nulls count as absent."""
    numbers = {key: number_field(entry, f"{where}, {key!r}") for key, entry in object_field(value, where).items()}
    return {key: number for key, number in numbers.items() if number is not None}


def flag_field(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise DataError(f"{where}: found {shown(value)}, expected true or false")
    return value


def object_field(value: object, where: str, known: Sequence[str] = ()) -> dict[str, object]:
    """An object; with `known`, one that has no other fields."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {shown(value)}, expected an object")
    for key in value if known else ():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1) or list(known)
            raise DataError(f"{where}: unknown field {shown(key)}; expected {' or '.join(map(repr, nearest))}")
    _check_encodable(value, where)
    return value


def _check_encodable(value: object, where: str) -> None:
    try:
        (value if isinstance(value, str) else dump_json(value)).encode()
    except (UnicodeEncodeError, RecursionError):
        raise DataError(f"{where}: {shown(value)} cannot be written as UTF-8 JSON; remove the broken part") from None
