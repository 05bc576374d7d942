"""Markdown that no text breaks, and names without folders of this machine."""

from pathlib import Path

from icm.markdown import facts_table, is_local_name, literal, local_path, public_name, table


def test_no_cell_breaks_its_table() -> None:
    rows = table(("a|b", "c"), [("one\ntwo", 3), ("`x | y`", None)]).splitlines()
    assert rows == ["| a\\|b | c |", "| --- | --- |", "| one<br>two | 3 |", "| `x \\| y` | None |"]
    assert facts_table({"<b>": "a & <i>"}).splitlines()[-1] == "| &lt;b&gt; | a &amp; &lt;i&gt; |"
    assert facts_table({"steps": 4}).splitlines() == ["|  |  |", "| --- | --- |", "| steps | 4 |"]


def test_literal_text_is_shown_as_it_is() -> None:
    assert literal("<b> & *x* [y](z)\n`_`") == r"&lt;b&gt; &amp; \*x\* \[y\](z)<br>\`\_\`"
    assert table(("",), [(literal("a|b"),)]).splitlines()[-1] == r"| a\|b |"


def test_local_paths_are_not_published(tmp_path: Path) -> None:
    assert public_name("org/model") == "org/model" and public_name("embedded") == "embedded"
    assert public_name(str(tmp_path / "a" / "model")) == "model" == public_name("~/x/model/") == public_name("./model")
    assert public_name("C:\\models\\model") == "model"
    for name in ("meta-llama/Llama-3.1-8B", "gpt2", "embedded:gemma-3-270m", "synthetic:math", "llama3.2:latest"):
        assert public_name(name) == name and not is_local_name(name)
    for name in ("/", "..", "~", "C:"):
        assert public_name(name) and "/" not in public_name(name)
    assert local_path("x" * 5000) is None is local_path("~nobody-of-that-name/x") and local_path("a\0b") is None
