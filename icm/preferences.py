"""What the model prefers for each example, averaged over the demonstration orders a search has been through."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icm.calibration import Array

Rows = Mapping[int, Array]
"""Position → leave-one-out label log-probabilities, [labels]."""


class Preferences:
    """Running means of leave-one-out log-probabilities, the present order apart.

    A single order says little, so proposals are averaged; and what is judged under an order should not come from it:
    see `Search`.

    Attributes:
        earlier: of the orders before the present one; each counts half as much as the next.
        present: when the present order was entered.
    """

    def __init__(self) -> None:
        self.earlier: dict[int, Array] = {}
        self.present: dict[int, Array] = {}

    def enter(self, rows: Rows) -> None:
        """Note the first sweep under a new order."""
        self.present = dict(rows)

    def leave(self, rows: Rows) -> None:
        """The present order becomes an earlier one; `rows` is what is known of it by now."""
        for position, row in {**self.present, **rows}.items():
            self.earlier[position] = self.averaged(position, row)

    def averaged(self, position: int, row: Array) -> Array:
        """The mean of a row and the earlier orders."""
        known = self.earlier.get(position)
        return row if known is None else (known + row) / 2

    def to_row(self, ids: Sequence[str]) -> dict[str, Any]:
        """For the trace, by example id."""
        parts = {"preferences": self.earlier, "log_probs": self.present}
        return {name: {ids[p]: rows[p].tolist() for p in sorted(rows)} for name, rows in parts.items()}

    def from_row(self, row: Mapping[str, Any], positions: Mapping[str, int]) -> None:
        """The inverse of `to_row`."""
        self.earlier, self.present = (
            {positions[key]: np.array(values) for key, values in row[name].items()}
            for name in ("preferences", "log_probs")
        )
