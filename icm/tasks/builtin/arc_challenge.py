"""ARC (Clark et al. 2018), and other questions with choices: MMLU, OpenBookQA, CommonsenseQA and their like.

The question is `question` or `question_stem`, or an object {stem, choices} as AI2 publishes it. Its choices stand in
`choices` or `options` (a list of texts or of {text, label}, {text: [...], label: [...]}, or {A: text, …}), or in fields
of their own (A–D, option_a, option1, choice1, …). The right one is named by its letter, index (from 0) or text.
"""

from collections.abc import Iterator, Mapping

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items

QUESTIONS = ("question", "question_stem")
LISTS = ("choices", "options")
LETTERED = ("{}", "option_{}", "option{}", "choice_{}", "choice{}", "answer{}", "op{}")
GOLD = ("answerKey", "answer_index", "answer_idx", "answer", "label", "correct", "cop", "target")
LETTERS = "ABCDEFGHIJ"
_EXPECTED = "two choices or more: a list of texts, or an object {text: [...], label: [...]}"


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    name = next((name for name in QUESTIONS if name in record.fields), QUESTIONS[0])
    inner = record.fields.get(name)
    asked = record.inner(name) if isinstance(inner, Mapping) else record
    question = asked.text("stem") if isinstance(inner, Mapping) else record.text(name)
    texts, names = _choices(asked)
    yield from choice_items(question, texts, _right(record, texts, names))


def _choices(record: Record) -> tuple[list[str], list[str]]:
    """Texts and names of the choices."""
    name = next((name for name in LISTS if name in record.fields), None)
    if name is None:
        fields = _lettered(record)
        return [record.text(field) for field in fields.values()], list(fields)
    value = record.fields[name]
    if isinstance(value, Mapping):
        choices = record.inner(name)
        if "text" not in value and len(value) > 1:
            return [choices.text(key) for key in value], list(value)
        texts, names = choices.texts("text"), choices.texts("label")
        if len(texts) != len(names):
            raise choices.error("label", f"{len(texts)} names, one a text")
        return texts, names
    if isinstance(value, list) and len(value) > 1 and all(isinstance(choice, Mapping) for choice in value):
        inner = [Record(f"{record.where}: field '{name}[{i}]'", choice) for i, choice in enumerate(value)]
        return [choice.text("text") for choice in inner], [choice.text("label") for choice in inner]
    if not isinstance(value, list) or not 1 < len(value) <= len(LETTERS):
        raise record.error(name, _EXPECTED)
    return record.texts(name), list(LETTERS[: len(value)])


def _lettered(record: Record) -> dict[str, str]:
    """Letter → field, for fields with a choice each; one that is empty is none."""
    for form in LETTERED:
        for marks in (LETTERS, LETTERS.lower(), "123456789", "012345678"):
            found = {letter: form.format(mark) for letter, mark in zip(LETTERS, marks, strict=False)}
            if all(found[letter] in record.fields for letter in "AB"):
                return {letter: name for letter, name in found.items() if record.fields.get(name) not in (None, "")}
    raise record.error(LISTS[0], _EXPECTED)


def _right(record: Record, texts: list[str], names: list[str]) -> int | None:
    """Place of the right choice; None where the record does not say."""
    field = next((name for name in GOLD if record.fields.get(name) is not None), GOLD[0])
    value = record.fields.get(field)
    if value is None or (found := record.label(field) if str(value).strip() else "") in ("", "-1"):
        return None
    indices = [str(number) for number in range(len(names))]
    letter = found.strip("().: ").upper()
    for known, wanted in ((names, found), (texts, found), (names, letter), (indices, found)):
        if (known is texts and not isinstance(value, str)) or known.count(wanted) != 1:
            continue
        return known.index(wanted)
    mapped = " ".join(f"'{number}={name}'" for number, name in enumerate(names, start=1))
    fix = (
        f"where it counts from 1: --label-map {mapped}" if found.isdecimal() else f"--label-map '{found}=' takes it out"
    )
    raise record.error(field, f"one of {names}, an index from 0 to {len(names) - 1}, or the text of a choice ({fix})")


TASK = Task(
    name="arc_challenge",
    items=items,
    signatures=(
        signature("question", "choices"),
        signature("question_stem", "choices"),
        *(signature("question", "choices", gold) for gold in ("answer", "answerKey")),
        *(signature("question", "options", *gold) for gold in ((), ("answer",))),
        signature("question", "answerKey"),
        *(
            signature("question", *(form.format(mark) for mark in marks), *gold)
            for form in LETTERED
            for marks in ("AB", "ab", "12", "01")
            for gold in ((), ("answer",))
        ),
    ),
    gold_fields=frozenset(GOLD),
    hub=(HubData("allenai/ai2_arc", "ARC-Challenge", "train", "test"),),
)
