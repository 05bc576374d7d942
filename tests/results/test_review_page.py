"""The page for looking at labels, in a real browser: by keyboard alone, at two widths, whatever the texts are."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.browser import Page, browser, needs_chromium

from icm.cli import main
from icm.examples import TRUSTED, ICMExample
from icm.results.asking import questions
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.review import review_items
from icm.tasks import load_task
from icm.tasks.source import DataSource

HOSTILE = (
    '</script><script>window.hit = 1; fetch("http://127.0.0.1:9/x")</script>',
    '<img src="http://127.0.0.1:9/i.png" onerror="window.hit = 2">',
    "<!--<script>\u2028window.hit = 3",
    '"><svg onload=window.hit=4><style>@import "http://127.0.0.1:9/s.css"</style>',
    "{{ 7 * 7 }} ${window.hit = 5} \\u003c/script\\u003e",
    "javascript:window.hit=6 <a href=javascript:window.hit=6>x</a><iframe srcdoc='<script>top.hit=7</script>'>",
    "x" * 4000,
    "سلام \u202e abc 雨 👩‍👩‍👧",
)


def texts(count: int) -> list[str]:
    """`count` reviews, hostile ones among them."""
    plain = (f"film {n} was {('good', 'bad')[n % 2]}, {n * 7919 % 101} long, by {n * n}" for n in range(count))
    return [*HOSTILE, *plain][:count]


def data(folder: Path, count: int) -> Path:
    """A data file of such texts, with gold."""
    path = folder / "d.jsonl"
    rows = [{"text": text, "label": ("good", "bad")[n % 2]} for n, text in enumerate(texts(count))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def result(folder: Path, count: int = 60, trusted: int = 0) -> Path:
    """A label file for the data, every fourth label wrong."""
    loaded = load_task(DataSource(str(data(folder, count))))
    items = []
    for number, example in enumerate(loaded.dataset):
        right = loaded.gold[example.id]
        label = {"good": "bad", "bad": "good"}[right] if number % 4 == 0 and number >= trusted else right
        marked = ICMExample(example.input, {TRUSTED: True} if number < trusted else {}, example.relations)
        items.append(LabeledExample(marked, label, 0.1 * (number - count / 3)))
    path = folder / "labels.jsonl"
    write_result(path, ICMResult(items, -1.0, loaded.dataset.label_space))
    return path


@needs_chromium
@pytest.mark.parametrize("width", [500, 1280])
def test_thirty_labels_are_looked_at_by_keyboard_and_read_back(width: int, tmp_path: Path) -> None:
    labels, page_file = result(tmp_path), tmp_path / "page.html"
    assert main(["review", str(labels), "--count", "30", "--output", str(page_file)]) == 0
    downloads = tmp_path / "down"
    downloads.mkdir()
    with browser(tmp_path / "profile") as page:
        page.open(page_file.as_uri(), width, downloads)
        _press_through(page, 30)
        assert page.run("document.getElementById('confirmed').textContent") == "24"
        assert page.run("document.getElementById('changed').textContent") == "4"
        assert page.run("document.getElementById('skipped').textContent") == "2"
        assert "drawn at random" in page.run("document.getElementById('estimate').textContent")
        page.press("d")
        page.wait("Browser.downloadProgress", state="completed")
        _harmless(page, page_file)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.activeElement.id") == "place"
    given = downloads / "labels.trusted.jsonl"
    rows = [json.loads(line) for line in given.read_text().splitlines()]
    assert len(rows) == 28 and Counter(row["label"] != row["found"] for row in rows) == {False: 24, True: 4}
    found = load_task(DataSource(str(tmp_path / "d.jsonl"), trusted=str(given))).dataset.trusted
    assert found == {row["id"]: row["label"] for row in rows}


def _press_through(page: Page, count: int) -> None:
    """Confirm, but change every tenth label two ways, skip two, and take one back."""
    for number in range(count):
        place = page.run("document.getElementById('place').textContent")
        assert place == f"{number + 1} of {count}"
        shown = page.run("document.getElementById('text').textContent")
        assert shown == page.run(f"data.items[{number}].text")
        key = {3: "f", 13: "f", 5: "s", 15: "s"}.get(number, "Enter")
        if number in (7, 17):
            key = page.run(f"String(2 - data.labels.indexOf(data.items[{number}].found))")
        if number:  # what has the focus is what a screen reader says: the place, the text and the label found
            words = " ".join(_said(page).split())
            assert words.startswith(" ".join(f"{place} {shown[:200]}".split())), words
            assert f"Found: {page.run(f'data.items[{number}].found')}" in words
        page.press(key)
        if number == 9:
            page.press("u")
            assert page.run("document.getElementById('status').textContent") == "Taken back."
            page.press("1")
            page.press("u")
            page.press("Enter")
    assert page.run("document.getElementById('place').textContent") == "All looked at"


def _said(page: Page) -> str:
    """Accessible name and description of what has the focus."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    (focus,) = (
        node
        for node in nodes
        if node["role"]["value"] != "RootWebArea"
        and any(entry["name"] == "focused" and entry["value"]["value"] for entry in node.get("properties", ()))
    )
    return f"{focus['name']['value']} {focus['description']['value']}"


def _harmless(page: Page, file: Path) -> None:
    """Nothing of the texts ran, nothing was fetched but the page and what it made itself."""
    assert page.run("window.hit") is None
    asked = {event["request"]["url"] for event in page.said("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("blob:")} == {file.as_uri()}
    assert page.said("Runtime.exceptionThrown") == []
    assert [e["entry"]["text"] for e in page.said("Log.entryAdded") if "Content Security" in e["entry"]["text"]] == []
    assert page.run("document.querySelectorAll('img, iframe, svg, a').length") == 0


@needs_chromium
def test_the_policy_runs_nothing_that_gets_into_the_page(tmp_path: Path) -> None:
    page_file = tmp_path / "page.html"
    assert main(["review", str(result(tmp_path)), "--count", "4", "--output", str(page_file)]) == 0
    broken = page_file.read_text().replace("<main>", "<main><script>window.hit = 1</script><b onclick='hit = 2'>x</b>")
    page_file.write_text(broken)
    with browser(tmp_path / "profile") as page:
        page.open(page_file.as_uri(), 800, tmp_path)
        page.run("document.querySelector('b').click()")
        page.run("fetch('http://127.0.0.1:9/').catch(() => { window.refused = true })")
        assert page.run("window.hit") is None
        assert page.run("document.getElementById('place').textContent") == "1 of 4"


def test_half_of_the_labels_are_drawn_and_trusted_ones_are_not_asked_again(tmp_path: Path) -> None:
    from icm.results.format import read_result

    labelled = read_result(result(tmp_path, trusted=10))
    items = review_items(labelled, 20)
    assert [item.random for item in items] == [True, False] * 10
    trusted = {item.example.id for item in labelled.labeled_examples if item.trusted}
    assert len(trusted) == 10 and not trusted & {item.id for item in items}
    least = {q.item.example.id for q in questions(labelled, 20, "uncertainty")}
    assert {item.id for item in items if not item.random} <= least
    for item in items:
        assert all(label != item.found for label, _ in item.disagree)


def test_only_a_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(result(tmp_path)), "--output", str(tmp_path / "p.txt")]) == 2
    assert "ends in .html" in capsys.readouterr().err
