"""Names that mean something to matplotlib, rich, HTML or Markdown are names and nothing else. No model is asked."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.run import main
from icm.results.pages import plain

NAMES = [
    r"A $\frac$ B",
    r"\$x_{",
    "[bold]x[/nope]",
    ":smile: [red",
    "<script>a</script>",
    "a|b*c_d`e",
    "{x} %s",
    "n" * 120,
]


class Scripts(HTMLParser):
    """Script elements, and the texts of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.texts = 0, set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.texts.add(data)


def test_names_cost_no_report(
    settings_file: Callable[..., Path],
    label_file: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = settings_file(
        [{"name": name, "kind": "majority"} for name in NAMES], labels=[label_file()], output_dir=str(tmp_path / "o")
    )
    assert main(["--config", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "[bold]x[/nope]" in said and ":smile: [red" in said
    found = json.loads((tmp_path / "o" / "results.json").read_text())["results"]
    assert {entry["alias"] for entry in found.values()} == {*NAMES}
    page = Scripts()
    page.feed((tmp_path / "o" / "report.html").read_text())
    assert page.scripts == 0 and {*NAMES} <= page.texts
    text = (tmp_path / "o" / "results.md").read_text()
    assert r"\[bold\]x\[/nope\]" in text and "&lt;script&gt;" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == len(NAMES) + 2


@pytest.mark.parametrize("text", ["n" * 300, "$" * 300, r"\frac$" * 60])
def test_a_text_in_a_drawing_is_short_and_no_formula(text: str) -> None:
    from matplotlib.cbook import is_math_text

    assert not is_math_text(plain(text)) and len(plain(text).replace(r"\$", "$")) == 80
