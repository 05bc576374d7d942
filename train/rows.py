"""Labels → token rows for the trainers, with the very ids that labelling and evaluation score.

TRL would tokenise prompt + completion as one text and append an end token. Evaluation scores p(label | query) on
separately tokenised segments without one, so the rows are tokenised here, by the same encoder.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

from rich.text import Text

from icm.errors import ConfigError, DataError
from icm.prompts import PromptEncoder
from icm.results.format import ICMResult
from icm.results.training_rows import Rows, answer_pairs, label_pairs, left_out, sft_rows
from icm.text import visible
from train.arguments import Method

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # in place of a token id: no loss there, as torch and TRL have it


@dataclass(frozen=True)
class TokenRow:
    """One training row.

    Attributes:
        prompt: ids without loss.
        chosen: ids that are made more likely.
        rejected: ids that are made less likely (DPO); None for SFT.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Tokens of the longest sequence of this row."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected or ()))

    def columns(self) -> dict[str, list[int]]:
        """The columns that TRL's trainers read."""
        if self.rejected is not None:
            ids = {"chosen_ids": self.chosen, "rejected_ids": self.rejected}
            return {"prompt_ids": list(self.prompt), **{name: list(tokens) for name, tokens in ids.items()}}
        labels = [IGNORED] * len(self.prompt) + list(self.chosen)
        return {"input_ids": [*self.prompt, *self.chosen], "labels": labels}


def text_rows(result: ICMResult, method: Method) -> Rows:
    """Rows of text by the exporters' own builders. Raises DataError if the labels give none."""
    rows = {"sft": sft_rows, "dpo_labels": label_pairs, "dpo_answers": answer_pairs}[method](result)
    if not rows.rows:
        raise DataError(f"method {method}: the labels give no training row (left out: {left_out(rows.dropped)})")
    return rows


def token_rows(
    rows: Sequence[Mapping[str, str]], tokenizer: "PreTrainedTokenizerBase", result: ICMResult, method: Method
) -> list[TokenRow]:
    """Tokenise segment by segment.

    An answer ends with the end token, so that the model learns where to stop. A label ends as it is scored
    (`PromptEncoder.ending`): in most label spaces nothing is asked behind it.
    """
    encoder = PromptEncoder(tokenizer, result.label_space)
    ending = (tokenizer.eos_token_id,) if method == "dpo_answers" else encoder.ending
    chosen, rejected = ("completion", None) if method == "sft" else ("chosen", "rejected")
    return [
        TokenRow(
            encoder.prefix + encoder.encode(row["prompt"]),
            encoder.encode(row[chosen]) + ending,
            None if rejected is None else encoder.encode(row[rejected]) + ending,
        )
        for row in rows
    ]


def check_lengths(rows: Sequence[TokenRow], texts: Sequence[Mapping[str, str]], limit: int, name: str) -> None:
    """Refuse rows that a trainer would cut.

    Args:
        rows: token rows.
        texts: their texts, for the message.
        limit: longest sequence in tokens.
        name: what sets the limit.
    """
    longest = max(range(len(rows)), key=lambda place: rows[place].length)
    if rows[longest].length > limit:
        raise ConfigError(
            f"{name}: found {limit}, but row {longest + 1} ({texts[longest]['prompt'][:60]!r}…) has "
            f"{rows[longest].length} tokens and would be cut; set max_length to at least {rows[longest].length}"
        )


@dataclass(frozen=True)
class LengthStatistics:
    """Lengths of the rows in tokens."""

    shortest: int
    median: float
    mean: float
    longest: int

    @classmethod
    def of(cls, rows: Sequence[TokenRow]) -> "LengthStatistics":
        """The statistics of at least one row."""
        lengths = [row.length for row in rows]
        return cls(min(lengths), median(lengths), round(mean(lengths), 1), max(lengths))


def row_order(rows: int, epochs: float, total_batch: int, seed: int) -> list[int]:
    """Places of the rows in training order: shuffled epochs one after another, cut into whole batches.

    Drawn here rather than by the trainer, whose last batch of an epoch depends on the number of ranks. Every row
    comes `epochs` times, a few once more to fill the last batch.
    """
    # `-(-a // b)` is a / b rounded up.
    wanted = max(1, -(-round(rows * epochs) // total_batch)) * total_batch
    order: list[int] = []
    while len(order) < wanted:
        epoch = list(range(rows))
        random.Random(f"row order {seed} {len(order) // rows}").shuffle(epoch)
        order += epoch
    return order[:wanted]


def show_row(row: TokenRow, tokenizer: "PreTrainedTokenizerBase") -> Text:
    """The row as the model sees it: dim without loss, green made likelier, red made less likely."""

    def decoded(ids: Sequence[int]) -> str:
        return visible(str(tokenizer.decode(list(ids))))

    text = Text(decoded(row.prompt), style="dim")
    text.append(decoded(row.chosen), style="bold green")
    if row.rejected is not None:
        text.append(" | ").append(decoded(row.rejected), style="bold red")
    loss = len(row.chosen) + len(row.rejected or ())
    return text.append(f"\n[loss on {loss} of {len(row.prompt) + loss} tokens]", style="italic")
