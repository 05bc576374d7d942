"""The progress bar of `icm run`."""

import pytest
from rich.progress import Progress as Bar

import icm.commands.progress
from icm.commands.progress import _Updates
from icm.config import SearchConfig
from icm.labelling.session import Progress
from icm.results.trace import Decision, Start


def test_of_many_searches_it_says_how_fast_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(icm.commands.progress, "LINE_SECONDS", 0.0)
    now = iter((100.0, *[110.0] * 9))
    monkeypatch.setattr(icm.commands.progress.time, "monotonic", lambda: next(now))
    show = _Updates(Bar(disable=True), SearchConfig())
    row = Start(changes={}, utility=-5.0, preferences={})
    show(Progress(row, units=10, finished=2, running=2, computed_tokens=5000))  # an earlier command did these
    show(Progress(row, units=10, finished=4, running=2, computed_tokens=9000))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "search 2 of 10: 2 searches running · 5,000 tokens · 0 tokens/s a worker"
    assert last == ("search 4 of 10: 2 searches running · 9,000 tokens · 200 tokens/s a worker · about 0 min 30 s left")


def test_decisions_move_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(icm.commands.progress, "LINE_SECONDS", 0.0)  # no terminal: a line a minute
    bar = Bar(disable=True)
    show = _Updates(bar, SearchConfig(max_iterations=10, restarts=2))
    show(Progress(Start(changes={}, utility=-5.0, preferences={}), 6, 0, 1, computed_tokens=10))
    assert bar.tasks[0].fields["utility"] == "–"
    for iteration, accepted in ((3, True), (4, False)):
        row = Decision(
            restart=1,
            batch=1,
            iteration=iteration,
            example="x",
            previous=None,
            proposal="True",
            accepted=accepted,
            changes={"x": "True"},
            delta=0.5,
            utility=-3.456,
            temperature=0.25,
            labelled=7,
        )
        show(Progress(row, 6, 0, 1, computed_tokens=12345))
    (task,) = bar.tasks
    assert (task.total, task.completed) == (3 * 2 * 10, (1 * 2 + 1) * 10 + 4)
    assert task.fields == {
        "labelled": 7,
        "utility": "-3.46",
        "temperature": "0.250",
        "accepted": "50%",
        "tokens": "12,345",
    }
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1] == "step 34 of at most 60: 7 labelled · U -3.46 · T 0.250 · accepted 50% · 12,345 tokens"
