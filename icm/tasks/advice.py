"""What to do about records that no task reads: columns to rename, a template to paste, or the nearest task."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from icm.tasks.base import Record, Task
from icm.tasks.builtin import arc_challenge, classification, comparison
from icm.tasks.columns import (
    holds_labels,
    holds_text,
    holds_verdict,
    looks_like_question,
    plain,
    quoted,
    shown,
    values_of,
    words_of,
)
from icm.tasks.source import DataSource

Rows = Sequence[Record]
Pair = tuple[str, str]

_SIDES = (("left", "right"), ("first", "second"), ("one", "two"), ("a", "b"), ("1", "2"), ("0", "1"), ("x", "y"))
_BEST = (("better", "worse"), ("good", "bad"), ("winner", "loser"), ("win", "lose"), ("preferred", "other"))
_REPLIES = frozenset(words_of("answer response reply output completion candidate generation left right first second"))
_JUDGES = frozenset(words_of("winner better best preferred preference prefer choice vote pick verdict judgement"))
_TIES = frozenset(words_of("tie tied both equal neither none same draw"))
_LISTS = frozenset(words_of("alternatives options choices answers candidates endings distractors"))
_CHOICES = frozenset(words_of("opt option choice answer alt alternative candidate ending distractor response"))
_MARKS = ("abcdefgh", "12345678", "01234567")
MOST_VERDICTS = 6


def advice(records: Rows, columns: Sequence[str], tasks: Sequence[Task], source: DataSource) -> str:
    """What makes a task of the records: other names for a comparison's or a choice's columns, or a template."""
    known = _comparison(columns, records) or _choice(columns, records)
    if known:
        return known
    texts = _texts(columns, records)
    if not texts and source.ignore_fields:
        return f"leave the text's field out of --ignore-fields, which takes {shown(source.ignore_fields)} away"
    if not texts:
        near = max(tasks, key=lambda task: max((len(s & {*columns}) for s in task.signatures), default=0))
        return f"put a text into each record; the nearest task is {near.name}: {signatures_of(near)}"
    shows = f"--text-field {quoted(texts[0])}" if len(texts) == 1 else f"--template {quoted(suggested_template(texts))}"
    return f"{shows}{_labels(columns, texts, records, source)}"


def signatures_of(task: Task) -> str:
    """The sets of fields that a task reads, for messages: at most three."""
    sets = ["{" + ", ".join(sorted(names)) + "}" for names in task.signatures]
    return " or ".join([*sets[:3], *(["…"] if len(sets) > 3 else [])])


def suggested_template(columns: Iterable[str], rest: str = "Label:") -> str:
    """A template that shows the columns before the rest."""
    return "".join(f"{name.strip().capitalize()}: {{{name}}}\n" for name in columns) + rest


def _texts(columns: Sequence[str], records: Rows) -> list[str]:
    """The columns that ask, else the longest text; none that looks like gold, which no prompt may show."""
    free = [name for name in columns if holds_text(name, records) and not holds_verdict(name)]
    asked = [name for name in free if looks_like_question(name)]
    return (
        asked
        or sorted((name for name in free if _characters(name, records)), key=lambda name: -_characters(name, records))[
            :1
        ]
    )


def _characters(column: str, records: Rows) -> int:
    return sum(len(value) for record in records if isinstance(value := record.fields.get(column), str))


def _labels(columns: Sequence[str], texts: Sequence[str], records: Rows, source: DataSource) -> str:
    """What makes a classification of the records beside their texts: the labels' column, where it is not known."""
    makes = " makes a classification of them"
    if any(plain(name) in classification.LABEL_FIELDS for name in columns):
        return makes
    held = [name for name in columns if name not in texts and holds_labels(name, records, source)]
    if held:
        return f" --label-field {' or '.join(map(quoted, held[:3]))}{makes}"
    return f"{makes} (--label-field says where its labels stand, or --verbalisers which there are)"


# ------------------------------------------------------------------------------------- comparisons under other names
def _comparison(columns: Sequence[str], records: Rows) -> str | None:
    """What to rename where two replies to a question stand side by side, and perhaps which is better."""
    texts = [name for name in columns if holds_text(name, records)]
    found = [(sides, pair) for sides in (*_SIDES, *_BEST) for pair in _pairs(texts, sides)]
    for sides, pair in sorted(found, key=lambda one: -sum(_characters(name, records) for name in one[1])):
        rest = [name for name in columns if name not in pair]
        judge = None if sides in _BEST else _judge(rest, records, pair, sides)
        query = _asked([name for name in rest if name != judge], records, judge is not None)
        if query is not None and (judge or sides in _BEST or _REPLIES & {*words_of(" ".join(pair))}):
            names = dict(zip(pair, ("chosen", "rejected") if sides in _BEST else comparison.PAIRS[0], strict=True))
            names[query] = query if query in comparison.QUERIES else "prompt"
            verdicts = "" if judge is None else _verdicts(judge, records, pair, sides)
            return _rename("comparison", names | ({judge: "winner"} if judge else {})) + verdicts
    return None


def _asked(columns: Sequence[str], records: Rows, sure: bool) -> str | None:
    """The column that asks: by its name; by its length alone where it is sure that one does."""
    found = _texts(columns, records)
    return found[0] if found and (sure or looks_like_question(found[0])) else None


def _pairs(columns: Sequence[str], sides: Pair) -> list[Pair]:
    """Columns that differ in the sides alone, where no third one stands beside them."""
    found = []
    for a in columns:
        for place, word in enumerate(words_of(a)):
            stem = _without(a, place)
            marks = {words_of(b)[place]: b for b in columns if _without(b, place) == stem}
            if word == sides[0] and sides[1] in marks and (len(marks) == 2 or stem == ([], [])):
                found.append((a, marks[sides[1]]))
    return found


def _without(column: str, place: int) -> tuple[list[str], list[str]] | None:
    """The words before and behind one place; None where there is no such place."""
    words = words_of(column)
    return (words[:place], words[place + 1 :]) if place < len(words) else None


def _judge(columns: Sequence[str], records: Rows, pair: Pair, sides: Pair) -> str | None:
    """The column that says which side is better: by its name, or by values that name the sides."""
    for name in columns:
        values = values_of(name, records)
        named = bool(_JUDGES & {*words_of(name)}) and len(values) <= MOST_VERDICTS
        if named or (values and not values <= {"0", "1", "2"} and all(_side(one, pair, sides) for one in values)):
            return name
    return None


def _side(value: str, pair: Pair, sides: Pair) -> str | None:
    """`a`, `b` or `tie`, as the judge's column means it; None for what may mean any."""
    words = words_of(value)
    if words and words[0] in _TIES:
        return "tie"
    for side, column, mark in zip("ab", pair, sides, strict=True):
        if value == column or (words and words[-1] in (mark, side)):
            return side
    return {"1": "a", "2": "b"}.get(value) if "0" not in sides else None


def _verdicts(judge: str, records: Rows, pair: Pair, sides: Pair) -> str:
    """The option that makes a verdict of each value that is not known as one."""
    means = {value: _side(value, pair, sides) for value in sorted(values_of(judge, records))}
    if None in means.values() or means.keys() <= {"0", "1"}:
        guess = dict(zip(means, "ab", strict=False))
        return f"; say which of its values means which, for example{_mapped(guess)}" if guess else ""
    names = {old: "" if new == "tie" else str(new) for old, new in means.items()}
    names = {old: new for old, new in names.items() if old.lower() not in (new, f"model_{new}", "tie", "both")}
    return f"; then give{_mapped(names)}" if names else ""


# ------------------------------------------------------------------------------------------ choices under other names
def _choice(columns: Sequence[str], records: Rows) -> str | None:
    """What to rename where a question stands beside its choices, in a list or in columns of their own."""
    names = _lettered(columns) or {name: "choices" for name in columns if _LISTS & {*words_of(name)[-1:]}}
    rest = [name for name in columns if name not in names]
    key = next((name for name in rest if holds_verdict(name) or values_of(name, records) <= names.keys()), None)
    query = _asked(rest, records, key is not None)
    if not names or query is None:
        return None
    more, choices = "", list(names)
    if len(names) > 1 and key and (letters := _letters(values_of(key, records), choices)):
        more = f"; then give{_mapped(letters)}"
    elif len(names) == 1 and not any(isinstance(record.fields.get(choices[0]), list) for record in records):
        more = f', and make {choices[0]!r} a list of texts, as in JSON lines: "choices": ["…", "…"]'
    names[query] = query if query in arc_challenge.QUESTIONS else "question"
    return _rename("arc_challenge", names | ({key: "answer"} if key else {})) + more


def _lettered(columns: Sequence[str]) -> dict[str, str]:
    """Columns of three choices or more → names that the task knows: `opt1` → `A`."""
    ends = {tuple(words_of(name)): name for name in columns}
    for marks in _MARKS:
        for *stem, end in ends:
            run = [ends[*stem, mark] for mark in marks if (*stem, mark) in ends]
            if end == marks[0] and len(run) > 2 and (not stem or stem[-1] in _CHOICES):
                return dict(zip(run, arc_challenge.LETTERS, strict=False))
    return {}


def _letters(values: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """What the key's values mean, where they are numbers or the columns' own names."""
    letters = dict(zip(names, arc_challenge.LETTERS, strict=False))
    if {*values} <= letters.keys():
        return letters
    numbers = {str(place): letter for place, letter in enumerate(letters.values(), start="0" not in values)}
    return numbers if values and {*values} <= numbers.keys() else {}


# -------------------------------------------------------------------------------------------------------- what is said
def _rename(task: str, names: Mapping[str, str]) -> str:
    changed = ", ".join(f"{old!r} to {new!r}" for old, new in names.items() if old != new)
    return f"they look like task {task} under other names: in the file, rename {changed}"


def _mapped(names: Mapping[str, str]) -> str:
    return " --label-map " + " ".join(quoted(f"{old}={new}") for old, new in names.items())
