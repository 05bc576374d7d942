"""The rows that are trained on, as token ids."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icm.errors import ConfigError, DataError
from icm.examples import TRUSTED, ICMExample, LabelSpace
from icm.models import resolve_model
from icm.prompts import PromptEncoder
from icm.results.format import read_result
from train.arguments import (
    Method,
)
from train.rows import LengthStatistics, TokenRow, check_lengths, row_order, show_row, text_rows, token_rows

MakeLabels = Callable[..., Path]


@pytest.fixture(scope="module")
def labels(make_labels: MakeLabels) -> Path:
    return make_labels(24, "embedded")


def test_sft_rows_are_the_ids_that_evaluation_scores(labels: Path, tokenizer: object) -> None:
    found = read_result(labels)
    rows = token_rows(text_rows(found, "sft").rows, tokenizer, found, "sft")
    encoder = PromptEncoder(tokenizer, found.label_space)
    for row, item in zip(rows, found.labeled_examples, strict=True):
        label = encoder.labels.sequences[found.label_space.index(item.label)]
        columns = row.columns()
        assert columns["input_ids"] == [*encoder.prefix, *encoder.query(item.example), *label]
        assert columns["labels"] == [-100] * (row.length - len(label)) + [*label]


def test_label_pairs_prefer_the_found_label(labels: Path, tokenizer: object) -> None:
    found = read_result(labels)
    rows = token_rows(text_rows(found, "dpo_labels").rows, tokenizer, found, "dpo_labels")
    labels = PromptEncoder(tokenizer, found.label_space).labels.sequences
    for row, item in zip(rows, found.labeled_examples, strict=True):
        place = found.label_space.index(item.label)
        assert (row.chosen, row.rejected) == (labels[place], labels[1 - place])


@pytest.mark.parametrize("method", ["sft", "dpo_labels"])
@pytest.mark.parametrize("texts", [(" very good", " very bad"), ("1", "10"), (" 0", " 1")])
def test_rows_of_labels_of_several_tokens(
    texts: tuple[str, str], method: Method, labels: Path, tokenizer: object
) -> None:
    """All tokens of a label have loss, the ending among them where one label goes on where another ends."""
    found = read_result(labels)
    found = replace(found, label_space=LabelSpace(found.label_space.labels, texts))
    scored = PromptEncoder(tokenizer, found.label_space).labels.sequences
    for row, item in zip(
        token_rows(text_rows(found, method).rows, tokenizer, found, method), found.labeled_examples, strict=True
    ):
        place = found.label_space.index(item.label)
        assert row.chosen == scored[place] and len(row.chosen) > 1
        assert row.rejected == (None if method == "sft" else scored[1 - place])
        if method == "sft":
            assert [*row.chosen] == [label for label in row.columns()["labels"] if label != -100]


def test_answer_pairs_end_with_the_end_token(answers_file: Path, tokenizer: object) -> None:
    found = read_result(answers_file)
    rows = token_rows(text_rows(found, "dpo_answers").rows, tokenizer, found, "dpo_answers")
    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert rows and all(row.chosen[-1] == end and (row.rejected or ())[-1] == end for row in rows)
    assert all(row.chosen != row.rejected for row in rows)


def test_pairs_and_answers_have_a_margin_that_twins_share(answers_file: Path) -> None:
    """Which pairs stay depends on the labeler's log-odds alone: the same for found and other labels."""
    found = read_result(answers_file)
    odds = [0.2, 1.0, 3.0, 0.5]
    items = [replace(item, log_odds=odds[place % 4]) for place, item in enumerate(found.labeled_examples)]
    found = replace(found, labeled_examples=items)
    other = replace(found, labeled_examples=[replace(i, label=str(i.label == "False")) for i in items])
    odds_of = {(i.example.metadata["prompt"], i.example.metadata["completion"]): i.log_odds or 0.0 for i in items}
    kept = set[tuple[str, frozenset[str]]]()
    for result in (found, other):
        rows, every = text_rows(result, "dpo_answers", 2.0), text_rows(result, "dpo_answers").rows
        pairs = {(row["prompt"], frozenset([row["chosen"], row["rejected"]])) for row in rows.rows}
        assert all(sum(odds_of[prompt, text] for text in texts) >= 2 for prompt, texts in pairs)
        assert 0 < len(pairs) < len(every) and rows.dropped["pairs with a margin below 2"] == len(every) - len(pairs)
        kept = kept or pairs
        assert pairs == kept
    rows = text_rows(found, "sft_answers", 0.9)
    right = {(i.example.metadata["prompt"], i.example.metadata["completion"]) for i in items if i.label == "True"}
    assert {(row["prompt"], row["completion"]) for row in rows.rows} == {key for key in right if odds_of[key] >= 0.9}
    assert rows.dropped["answers labelled False, or repeated"]
    unscored = replace(found, labeled_examples=[replace(item, log_odds=None) for item in items])
    assert text_rows(unscored, "dpo_answers").rows and text_rows(unscored, "sft_answers").rows
    with pytest.raises(DataError, match="give no training row"):
        text_rows(unscored, "dpo_answers", 0.1)
    marked = [replace(i, example=replace(i.example, metadata={**i.example.metadata, TRUSTED: True})) for i in items]
    trusted = replace(found, labeled_examples=[replace(item, log_odds=-1.0) for item in marked])
    assert text_rows(trusted, "dpo_answers", 9.0).rows == text_rows(trusted, "dpo_answers").rows


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}<|/header|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)


def chat_tokenizer(template: str | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded"))
    if template == LLAMA3:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|header|>", "<|/header|>", "<|eot|>"]})
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "asked", "end"),
    [
        (None, "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        (
            LLAMA3,
            "<|im_start|><|header|>user<|/header|>\n\n{question}<|eot|><|header|>assistant<|/header|>\n\n",
            "<|eot|>",
        ),
        (INST, "[INST] {question} [/INST]", "<|im_end|>"),
    ],
    ids=["chatml", "llama3", "inst"],
)
@pytest.mark.parametrize("method", ["sft_answers", "dpo_answers"])
def test_chat_rows_are_turns_of_the_template(
    template: str | None, asked: str, end: str, method: Method, answers_file: Path
) -> None:
    """Decoded: the question in the user's turn, the answer in the assistant's, its end token once and last, loss on
    the answer and that token alone."""
    found, tokenizer = read_result(answers_file), chat_tokenizer(template)
    texts = text_rows(found, method, chat=True).rows
    for row, text in zip(token_rows(texts, tokenizer, found, method, chat=True), texts, strict=True):
        question = text["messages"][-1]["content"]
        assert question.startswith("What is ") and tokenizer.decode(row.prompt).endswith(
            asked.format(question=question)
        )
        chosen = text["completion" if method == "sft_answers" else "chosen"].strip()
        space = " " if template == INST else ""
        assert tokenizer.decode(row.chosen) == space + chosen + end and row.chosen.count(row.chosen[-1]) == 1
        if method == "sft_answers":
            said = [*text["messages"], {"role": "assistant", "content": chosen}]
            whole = tokenizer.apply_chat_template(said, tokenize=False)
            spoken = tokenizer.decode([*row.prompt, *row.chosen])
            assert whole.strip() == spoken
            columns = row.columns()
            assert [token for token in columns["labels"] if token != -100] == [*row.chosen]
            assert columns["input_ids"] == [*row.prompt, *row.chosen]
        else:
            assert tokenizer.decode(row.rejected or ()) == space + text["rejected"].strip() + end


def test_a_dialogue_keeps_its_system_turn_and_is_refused_where_the_template_has_none(answers_file: Path) -> None:
    found = read_result(answers_file)
    said = "System: Be brief.\nHuman: Hi\nAssistant: Hello <|im_end|>\nHuman: What is 3?"
    items = [replace(i, example=replace(i.example, metadata={**i.example.metadata, "question": said}))
             for i in found.labeled_examples]  # fmt: skip
    found = replace(found, labeled_examples=items)
    texts = text_rows(found, "sft_answers", chat=True).rows
    tokenizer = chat_tokenizer(None)
    row = token_rows(texts, tokenizer, found, "sft_answers", chat=True)[0]
    assert tokenizer.decode(row.prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello <|im_end|><|im_end|>\n<|im_start|>user\nWhat is 3?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row.prompt.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 4  # what the text spells is text
    with pytest.raises(ConfigError, match="refuses a dialogue of system, user, assistant, user"):
        token_rows(texts, chat_tokenizer(INST), found, "sft_answers", chat=True)
    plain = chat_tokenizer(None)
    plain.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        token_rows(texts, plain, found, "sft_answers", chat=True)


def test_labels_without_rows_are_refused(labels: Path, answers_file: Path) -> None:
    found = read_result(answers_file)
    same = [replace(item, label="True") for item in found.labeled_examples]
    with pytest.raises(DataError, match="4 questions whose answers all have the same label"):
        text_rows(replace(found, labeled_examples=same), "dpo_answers")
    with pytest.raises(DataError, match="True and False"):
        text_rows(read_result(labels), "dpo_answers")


def test_truncation_is_refused(tokenizer: object) -> None:
    rows = [TokenRow((1, 2, 3), (4,)), TokenRow(tuple(range(30)), (4, 5), (6,))]
    texts = [{"prompt": "short"}, {"prompt": "the long question"}]
    check_lengths(rows, texts, 32, "max_length")
    with pytest.raises(ConfigError, match=r"row 2 \('the long question'…\) has 32 tokens"):
        check_lengths(rows, texts, 31, "max_length")
    assert LengthStatistics.of(rows) == LengthStatistics(4, 18, 18, 32)


def test_shown_row_marks_the_loss(tokenizer: object) -> None:
    space = LabelSpace(("negative", "positive"))
    encoder = PromptEncoder(tokenizer, space)
    prompt = encoder.query(ICMExample("Review: fine\nSentiment:"))
    text = show_row(TokenRow(prompt, *reversed(encoder.labels.sequences)), tokenizer)
    styled = {text.plain[span.start : span.end].strip(): str(span.style) for span in text.spans}
    assert (styled["positive"], styled["negative"]) == ("bold green", "bold red")
    assert "loss on 2 of" in text.plain


@pytest.mark.parametrize(("rows", "epochs", "batch"), [(40, 3, 8), (37, 5, 8), (5, 1, 32), (33, 0.5, 4)])
def test_row_order_uses_every_row_evenly(rows: int, epochs: float, batch: int) -> None:
    order = row_order(rows, epochs, batch, seed=3)
    counts = Counter(order)
    assert len(order) % batch == 0 and 0 <= len(order) - round(rows * epochs) < batch
    assert max(counts.values()) - min(counts.get(row, 0) for row in range(rows)) <= 1
    assert order == row_order(rows, epochs, batch, seed=3) != row_order(rows, epochs, batch, seed=4)
