"""Texts compared: the final answer of a worked solution, and text without what does not matter."""

import re
import unicodedata
from fractions import Fraction

_NUMBER = re.compile(r"(?<![\w.,])[-+]?\s?[$€£]?\s?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?")
_MARKER = re.compile(r"(?:^|\n)\s*(?:A|Answer)\s*:|####|\\boxed\s*\{|\banswer is\b", re.IGNORECASE)
_MAX_DIGITS = 100  # longer "numbers" are noise of a model, and int() refuses more than 4,300 digits


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


def normalised_text(text: str) -> str:
    """Unicode form NFKC, case-folded, white space collapsed, lines without full stops or quotes at their ends."""
    lines = unicodedata.normalize("NFKC", text).casefold().splitlines()
    return " ".join(" ".join(line.strip(" .,;\"'") for line in lines).split())
