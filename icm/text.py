"""Texts compared (the final answer of a worked solution, text without what does not matter), and texts shown: whatever
stands in a foreign file, name or reply, a terminal gets no commands from it."""

import logging
import re
import sys
import traceback
import unicodedata
from fractions import Fraction

import rich.console
from rich.text import Text

_NUMBER = re.compile(r"(?<![\w.,])[-+]?\s?[$€£]?\s?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?")
_MARKER = re.compile(r"(?:^|\n)\s*(?:A|Answer)\s*:|####|\\boxed\s*\{|\banswer is\b", re.IGNORECASE)
_MAX_DIGITS = 100  # longer "numbers" are noise of a model, and int() refuses more than 4,300 digits

# Control characters but tab and line feed, marks that reorder text, line ends of Unicode, halves of characters, tags.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Text whose characters that a terminal obeys rather than shows are written out: `\\x1b[2J`, `\\u202e`."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`visible` text for a cell or a line: it begins no line of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: object, *, error: bool = False) -> None:
    """Print text of any origin to standard output, or to standard error; what prints, prints with this or `Console`."""
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(visible(str(text)).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


class Console(rich.console.Console):
    """A console for tables and styled text of any origin."""

    def render_str(self, text: str, *arguments: object, **options: object) -> Text:
        """See `rich.console.Console.render_str`, through which all strings go, those in tables included."""
        shown: Text = super().render_str(visible(text), *arguments, **options)  # type: ignore[arg-type]
        return shown


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        if self.exc_info and self.exc_info[0] and not self.exc_text:  # formatters take it as it stands here
            self.exc_text = visible("".join(traceback.format_exception(*self.exc_info)).rstrip())
        return visible(super().getMessage())


def log_visibly() -> None:
    """From now on messages to any logger of this process, libraries' included, are `visible`."""
    logging.setLogRecordFactory(_Record)


def final_answer(solution: str) -> str | None:
    """The final answer a worked solution states, normalised, or None if it states no number.

    The text behind the last `A:`, `Answer:`, `####`, `\\boxed{` or "answer is" counts, else the whole text: the first
    number behind a marker (the last one if an equation follows it), the last number of an unmarked text. Currency
    signs, thousands commas, percent signs and trailing zeros do not matter: `$1,200.00` → `1200`; `0.5` → `1/2`.
    """
    text = unicodedata.normalize("NFKC", solution).replace("\u2212", "-")
    markers = list(_MARKER.finditer(text))
    tail = text[markers[-1].end() :] if markers else text
    line = tail.strip().partition("\n")[0] if markers else tail
    numbers = _NUMBER.findall(line.rpartition("=")[2]) or _NUMBER.findall(line)
    if not numbers:
        return None
    return _normal_number(numbers[0] if markers else numbers[-1])


def same_answer(solution: str, right: str) -> bool:
    """Whether a worked solution states the right answer: the same number, or the same words where that is no number."""
    expected = final_answer(right)
    if expected is not None:
        return final_answer(solution) == expected
    return _stated(solution) == _stated(right)


def _stated(solution: str) -> str:
    """The words behind the last marker, else the whole text."""
    markers = list(_MARKER.finditer(solution))
    return normalised_text(solution[markers[-1].end() :].strip().partition("\n")[0] if markers else solution)


def _normal_number(text: str) -> str:
    digits = re.sub(r"[\s,$€£+]", "", text)
    if len(digits) > _MAX_DIGITS:
        return digits
    try:
        return str(Fraction(digits))
    except (ValueError, ZeroDivisionError):
        return digits


_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s\x00-\x7f]")


def words(text: str) -> set[str]:
    """What a text is made of, in lower case: words, characters of scripts that put no spaces between words (Thai, Lao,
    Burmese, Khmer, Kana, Han), and signs such as emoji."""
    return set(_WORD.findall(text.lower()))


def normalised_text(text: str) -> str:
    """Unicode form NFKC, case-folded, white space collapsed, lines without full stops or quotes at their ends."""
    lines = unicodedata.normalize("NFKC", text).casefold().splitlines()
    return " ".join(" ".join(line.strip(" .,;\"'") for line in lines).split())
