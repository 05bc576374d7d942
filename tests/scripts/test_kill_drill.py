"""The drill of scripts/kill_drill.py, short: real runs, stopped at drawn moments."""

from pathlib import Path

import pytest

from scripts.kill_drill import _INCIDENTAL, main


@pytest.mark.slow  # it is about whole processes
def test_stopped_runs_end_as_if_nothing_had_been_and_two_at_once_have_two_results(
    tiny_model: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", "pairs", "--signals", "KILL", "--times", "1", "--seed", "5"]
    assert main([*words, "--model", str(tiny_model), "--data", str(reviews), "--work", str(tmp_path)]) == 0
    assert "2 results, 2 of 2 seeds" in capsys.readouterr().out


def test_only_times_and_costs_are_masked() -> None:
    line = '{"id": "a", "created": "2026-01-01", "usage": {"seconds": 1.5}, "label": "b", "log_odds": 0.5}'
    assert _INCIDENTAL.sub("", line) == '{"id": "a", , , "label": "b", "log_odds": 0.5}'
