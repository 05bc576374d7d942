"""Labels in any script: drawn where a font of the machine has them, left to the reader's fonts where none has."""

import warnings
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from icm.results import fonts
from icm.results.pages import png, style, svg


def save_font(path: Path, family: str, characters: str) -> Path:
    """A real font whose characters are squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"g{n}" for n in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def bars(labels: list[str], title: str = "") -> Figure:
    with style():
        figure = Figure(figsize=(4, 2), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(labels, list(range(len(labels))))
        axes.set_title(title)
    return figure


@pytest.fixture(autouse=True)
def own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [e for e in fontManager.ttflist if e.name.startswith("DejaVu")])
    monkeypatch.setattr(fonts, "findSystemFonts", list)
    fonts._families.cache_clear()
    fonts._add_new_fonts.cache_clear()


@pytest.mark.parametrize("label", ["正面", "ポジティブ", "긍정", "सकारात्मक"])
def test_without_a_font_the_page_holds_text_and_nothing_is_warned_about(label: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert label in svg(bars([label, "plain"], label)) and png(bars([label]))
        assert "<text" not in svg(bars(["plain", "قيم"])), "our own font has these"


def test_fonts_of_the_machine_are_found_even_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    han = save_font(tmp_path / "han.ttf", "Some Han", "正面负")
    hangul = save_font(tmp_path / "hangul.ttf", "Some Hangul", "긍정")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fontManager.addfont(han)
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(hangul), str(tmp_path / "broken.ttf")])
    figure = bars(["正面 긍정", "负面", "plain"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<text" not in svg(figure)
    families = {text.get_text(): text.get_fontfamily() for text in figure.findobj(Text)}
    assert families["负面"] == ["DejaVu Sans", "Some Han"] and families["plain"] == ["DejaVu Sans"]
    assert set(families["正面 긍정"]) == {"DejaVu Sans", "Some Han", "Some Hangul"}
