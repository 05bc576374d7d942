"""The plan of a run: what it counts, and what it assumes where something cannot be reached."""

from pathlib import Path
from typing import Any

import pytest

from icm.engines.accounting import AccountingEngine
from icm.labelling.forecast import RunPlan, plan_run
from icm.labelling.session import run_labeling
from icm.labelling.settings import resolve_settings
from icm.tasks import load_task


def plan(**given: Any) -> RunPlan:
    return plan_run(resolve_settings(given, environ={}))


@pytest.mark.slow
def test_plan_counts_what_the_search_asks() -> None:
    given = {"dataset": "reviews", "max_examples": 24, "max_iterations": 40, "engine": "transformers"}
    settings, found = resolve_settings(given, environ={}), plan(**given)
    engine = AccountingEngine(found_tokenizer())
    usage = run_labeling(load_task(settings.data).dataset, engine, settings.search).metadata["usage"]
    assert (found.batches, found.prompts) == ([24], usage["prompts"])
    assert (found.computed_tokens, found.prompt_tokens) == (usage["computed_tokens"], usage["plain_tokens"])
    assert found.seconds is not None and 1 < found.seconds < 3600
    assert found.shape is not None and found.shape.kv_bytes_per_token == 23040
    assert 0 < found.prefix_tokens < found.longest_prompt * 24
    assert not found.needs and "H100" not in str(found)  # a model that is timed here needs no other machine
    assert "tokens computed" in str(found) and "about" in str(found)


def found_tokenizer() -> Any:
    from transformers import AutoTokenizer

    from icm.models import resolve_model

    return AutoTokenizer.from_pretrained(resolve_model("embedded"))


def test_a_server_that_is_down_costs_only_the_time_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.server._FIRST_WAIT", 0.0)
    found = plan(dataset="reviews", max_examples=8, max_iterations=4, engine="server", base_url="http://127.0.0.1:9/v1")
    assert found.seconds is None and found.computed_tokens > 0
    assert any("Connection refused" in line for line in found.assumptions)


def test_questions_whose_solutions_are_to_be_written(tmp_path: Path) -> None:
    data = tmp_path / "math.jsonl"
    data.write_text("".join(f'{{"question": "What is {n} + 1?", "answer": "#### {n + 1}"}}\n' for n in range(6)))
    found = plan(dataset=str(data), task_type="gsm8k", max_iterations=4, model="meta-llama/Llama-3.1-8B")
    assert sum(found.batches) >= 6 and found.seconds is None
    assert any("solutions of" in line for line in found.assumptions)
    first = str(found).splitlines()[0]
    assert first.startswith("to be written ") and "24 claims, 4 for each of 6 questions" in first
    assert "at most 512 tokens each, 12,288 in all" in first
    assert plan(dataset="reviews", max_examples=8, max_iterations=4, model="meta-llama/Llama-3.1-8B").writing is None
