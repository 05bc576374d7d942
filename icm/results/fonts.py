"""Fonts for labels in any script: those of this machine that have the characters that ours lacks."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

FAMILY = "DejaVu Sans"
"""The font of all drawings; it comes with matplotlib."""
_PLACEHOLDERS = "Last Resort"  # a font of boxes for every character


@contextmanager
def readable(figure: Figure) -> Iterator[bool]:
    """Give the texts of a figure, while it is saved, fonts that have their characters, and say nothing of those that no
    font here has. Yields whether there were fonts for all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Glyph|Matplotlib currently does not support)")
        figure.draw_without_rendering()  # makes the texts of ticks
        lacking = {text: missing for text in figure.findobj(Text) if (missing := _missing(text))}
        covered = True
        for text, missing in lacking.items():
            families, left = _families(missing)
            text.set_fontfamily([FAMILY, *families])
            covered = covered and not left
        yield covered


def _missing(text: Text) -> frozenset[int]:
    """Characters that our font lacks."""
    own = _characters(findfont(FAMILY))
    return frozenset(ord(mark) for mark in text.get_text() if not mark.isspace() and ord(mark) not in own)


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a broken file, or a kind of font that is not read
        return frozenset()


@cache
def _families(missing: frozenset[int]) -> tuple[tuple[str, ...], frozenset[int]]:
    """Fonts that have these characters, the one that has most first, and the characters that none has."""
    _add_new_fonts()
    fonts = {entry.fname: entry.name for entry in fontManager.ttflist if not entry.name.startswith(_PLACEHOLDERS)}
    families: list[str] = []
    while missing and fonts:
        best = max(sorted(fonts), key=lambda path: len(_characters(path) & missing))
        if not _characters(best) & missing:
            break
        families.append(fonts[best])
        missing -= _characters(best)
    return tuple(families), missing


@cache
def _add_new_fonts() -> None:
    """Fonts that were installed after matplotlib made its list."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            with suppress(OSError, RuntimeError, ValueError):
                fontManager.addfont(path)
