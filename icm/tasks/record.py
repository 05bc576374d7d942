"""One raw record: its fields, read with checks that name the file, the line and the field."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from icm.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUTH = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), "True"),
    **dict.fromkeys(("false", "0", "0.0", "no"), "False"),
}

UNLABELLED = "-1"
"""What a class number is where there is no label, as in a `datasets` folder."""

_AS_READ: Mapping[str, str] = MappingProxyType({})
_LONGEST_LABEL = 200


def label_name(text: str) -> str:
    """A label without the decimals that whole numbers get on the way through a table."""
    number = re.fullmatch(r"(-?\d+)\.0+", text)
    return number[1] if number else text


@dataclass(frozen=True, slots=True)
class Record:
    """One raw record and where it stands.

    Attributes:
        where: file and line, or data set and row; starts every message about the record.
        fields: name → value, as read.
        called: name → what the data call it, where that is something else.
    """

    where: str
    fields: Mapping[str, object]
    called: Mapping[str, str] = field(default_factory=lambda: _AS_READ)

    def error(self, name: str, expected: str) -> DataError:
        """The error for a field whose value cannot be used."""
        shown = self.called.get(name, name)
        if name not in self.fields:
            found = sorted(self.called.get(other, other) for other in self.fields)
            return DataError(f"{self.where}: field {shown!r} is missing; expected {expected}; found {found}")
        value = repr(self.fields[name])
        return DataError(f"{self.where}: field {shown!r}: found {value[:80]}, expected {expected}")

    def text(self, *names: str) -> str:
        """The first of the named fields that is present, as non-empty text without white space at the ends."""
        name = next((name for name in names if name in self.fields), names[0])
        value = self.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "text that is not empty")
        if _SURROGATE.search(value):
            raise self.error(name, "valid Unicode (no lone surrogates)")
        return value.strip()

    @property
    def own_id(self) -> str | None:
        """The field `id` where it is a text or a number, whole ones alike in every format. None is refused."""
        found = self.fields.get("id")
        if isinstance(found, bool) or not isinstance(found, str | int | float) or found != found:
            return None
        own = label_name(str(found).strip())
        return None if _SURROGATE.search(own) else own or None

    def values(self, name: str) -> list[object]:
        """A list, whatever it holds."""
        values = self.fields.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.error(name, "a list of texts")
        return list(values)

    def texts(self, name: str) -> list[str]:
        """A list of non-empty texts."""
        values = self.values(name)
        if not values:
            raise self.error(name, "a list of texts")
        return [Record(self.where, {f"{name}[{i}]": value}).text(f"{name}[{i}]") for i, value in enumerate(values)]

    def optional_text(self, name: str) -> str | None:
        """The field as `text` reads it, or None where it is absent or empty."""
        return None if self.fields.get(name) in (None, "") else self.text(name)

    def label(self, name: str) -> str:
        """A label's name. Numbers and booleans are named as they are written (`0`, `True`), whole ones alike in every
        format: 1, 1.0, "1" and "1.0" are one label."""
        value = self.fields.get(name)
        if isinstance(value, bool | int):
            return str(value)
        if isinstance(value, list | dict):
            raise self.error(name, "one label")
        text = self.text(name)
        if len(text) > _LONGEST_LABEL:
            raise self.error(name, f"a label of at most {_LONGEST_LABEL} characters")
        return label_name(text)

    def truth(self, *names: str) -> str | None:
        """The first of the named fields that is present as "True" or "False" (yes and no, 1 and 0); None if empty."""
        name = next((name for name in names if self.fields.get(name) is not None), names[0])
        value = self.fields.get(name)
        if value is None or label_name(str(value).strip()) in ("", UNLABELLED):
            return None
        label = _TRUTH.get(str(value).strip().lower())
        if label is None:
            raise self.error(
                name,
                "a label True or False (1 or 0); --label-map maps others, as in 'bad=False', or to none, as in 'NA='",
            )
        return label

    def inner(self, name: str, expected: str = "an object") -> "Record":
        """An object in a field, as a record of its own."""
        fields = self.fields.get(name)
        if not isinstance(fields, Mapping):
            raise self.error(name, expected)
        return Record(f"{self.where}: field {name!r}", fields)
