"""The plan of a run over many engines: what is searched, what is scaled, who is done when."""

from typing import Any

import pytest

from icm.config import WorkersConfig
from icm.examples import ICMDataset, ICMExample
from icm.files import write_jsonl
from icm.labelling.forecast import plan_run
from icm.labelling.scale import MOST_PLANNED, SAMPLED, list_schedule, plan_fleet, sampled
from icm.labelling.settings import resolve_settings


def batch(size: int) -> ICMDataset:
    return ICMDataset([ICMExample("x" * size)])


def test_the_largest_job_goes_to_who_is_free() -> None:
    assert list_schedule([5, 4, 3, 3, 3], 2) == 10  # 5 and 3, 4 and 3 and 3; one more than the least there is
    assert list_schedule([1.0] * 64, 64) == 1 and list_schedule([1.0] * 65, 64) == 2
    assert list_schedule([7.0], 8) == 7


def test_few_batches_are_searched_and_of_many_some_of_all_sizes() -> None:
    few = [batch(1 + number) for number in range(MOST_PLANNED)]
    assert sampled(few) == few
    many = [batch(1 + number * 37 % 1000) for number in range(1000)]
    sizes = [len(found[0].input) for found in sampled(many)]
    assert len(sizes) == SAMPLED and {min(sizes), max(sizes)} == {1, 1000}


def test_a_fleet_is_as_fast_as_its_longest_engine_and_is_paid_in_whole() -> None:
    fleet = plan_fleet([batch(3600), batch(1800), batch(1800)], 1, 2, 4, seconds=7200, start=60, trace_bytes=2**20)
    assert (fleet.units, fleet.seconds, fleet.busy) == (3, 60 + 3600, 3600)
    assert "1.02 h, 8.1 GPU-hours, engines at work 98% of that; traces 1 MiB" in str(fleet)
    unknown = plan_fleet([batch(1)], 3, 2, 0, seconds=None, start=0, trace_bytes=0)
    assert str(unknown).startswith("3 searches; time unknown; traces 0 MiB, memory of the command ")


@pytest.mark.slow
def test_a_plan_of_many_batches_says_what_it_scaled(tmp_path: Any) -> None:
    rows = ({"text": f"Note {n}: the parcel came {n % 7} days late.", "label": "ab"[n % 2]} for n in range(2000))
    write_jsonl(tmp_path / "d.jsonl", rows)
    given = {"dataset": str(tmp_path / "d.jsonl"), "batch_size": 20, "max_iterations": 8}
    given |= {"model": "meta-llama/Llama-3.1-8B", "task_type": "classification"}
    settings = resolve_settings(given, environ={})
    found = plan_run(settings, workers=WorkersConfig(64))
    assert sum(found.batches) == 2000 and len(found.batches) == 100
    assert "the other batches cost what 8 of 100 do, by their size" in found.assumptions
    assert found.fleet is not None and found.fleet.units == 100 and found.fleet.seconds is not None
    assert "over 64 workers      100 searches; " in str(found) and "GPU-hours" in str(found)
    alone = plan_run(settings)
    assert alone.fleet is None and "over 64" not in str(alone)
    assert alone.computed_tokens == found.computed_tokens
