"""Labels → token rows for the trainers, with the very ids that labelling and evaluation score.

TRL would tokenise prompt + completion as one text and append an end token. Evaluation scores p(label | query) on
separately tokenised segments without one, so the rows are tokenised here, by the same encoder.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from rich.text import Text

from icm.errors import ConfigError, DataError
from icm.prompts import PromptEncoder, Segment, chat_ids, token_ids
from icm.results.format import ICMResult
from icm.results.training_rows import Rows, answer_pairs, label_pairs, left_out, right_answers, sft_rows
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


def text_rows(result: ICMResult, method: Method, margin: float = 0.0, chat: bool = False) -> Rows:
    """Rows of text by the exporters' own builders; margin and chat are those of answers.

    Raises:
        DataError: the labels give none.
    """
    if method == "sft_answers":
        rows = right_answers(result, margin=margin, chat=chat)
    elif method == "dpo_answers":
        rows = answer_pairs(result, margin=margin, chat=chat)
    else:
        rows = {"sft": sft_rows, "dpo_labels": label_pairs}[method](result)
    if not rows.rows:
        raise DataError(f"method {method}: the labels give no training row (left out: {left_out(rows.dropped)})")
    return rows


def token_rows(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    result: ICMResult,
    method: Method,
    chat: bool = False,
) -> list[TokenRow]:
    """Tokenise segment by segment.

    An answer ends with the end token, so that the model learns where to stop; of a chat, with the token by which the
    template ends a turn. A label ends as it is scored (`PromptEncoder.ending`): in most label spaces nothing is asked
    behind it.
    """
    encoder = PromptEncoder(tokenizer, result.label_space)
    answers = method in ("sft_answers", "dpo_answers")
    names = ("chosen", "rejected") if method.startswith("dpo") else ("completion",)
    if chat:
        return [_chat_row(row["messages"], [row[name] for name in names], tokenizer) for row in rows]
    ending = (tokenizer.eos_token_id,) if answers else encoder.ending
    return [
        TokenRow(
            encoder.prefix + encoder.encode(row["prompt"]), *(encoder.encode(row[name]) + ending for name in names)
        )
        for row in rows
    ]


def _chat_row(
    messages: Sequence[Mapping[str, str]], answers: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> TokenRow:
    """The dialogue up to where the model speaks, without loss, and each answer with the end of its turn."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"apply_chat_template: the tokenizer of {tokenizer.name_or_path} has no chat template; leave it out, or "
            "train a chat model"
        )
    asked = _rendered(tokenizer, messages, add_generation_prompt=True)
    prompt = chat_ids(tokenizer, asked, *(message["content"] for message in messages))
    return TokenRow(prompt, *(_turn_ids(tokenizer, messages, asked, answer.strip()) for answer in answers))


def _turn_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]], asked: str, answer: str
) -> Segment:
    """The answer as the template has it behind `asked`, with what stands behind it up to its first control token;
    without one, the end token."""
    said = _rendered(tokenizer, [*messages, {"role": "assistant", "content": answer}])
    before, found, rest = said.rpartition(answer)
    if not found:
        raise ConfigError(f"apply_chat_template: the template changes the answer {answer[:60]!r}; train without it")
    behind = tuple(tokenizer(rest, add_special_tokens=False).input_ids)
    control = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    ends = next((place + 1 for place, token in enumerate(behind) if token in control), None)
    space = before[len(asked) :] if before.startswith(asked) and before[len(asked) :].isspace() else ""
    return token_ids(tokenizer, space + answer) + ((tokenizer.eos_token_id,) if ends is None else behind[:ends])


def _rendered(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
) -> str:
    from jinja2 import TemplateError

    try:
        # Models that can think first are taught to answer at once.
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            enable_thinking=False,
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"apply_chat_template: the template of {tokenizer.name_or_path} refuses a dialogue of {roles} ({error}); "
            "train without it, or leave such records out"
        ) from None
    return str(text)


def check_lengths(rows: Sequence[TokenRow], texts: Sequence[Mapping[str, Any]], limit: int, name: str) -> None:
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
