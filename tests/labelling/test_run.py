"""A labelling run whose claims the model writes first."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from icm.config import EngineConfig, GenerationConfig
from icm.errors import ICMError
from icm.labelling.claims import ClaimWriter
from icm.labelling.run import label
from icm.labelling.settings import resolve_settings
from icm.results.format import read_result


@pytest.fixture
def given(tmp_path: Path, tiny_model: Path) -> dict[str, Any]:
    data = tmp_path / "questions.jsonl"
    data.write_text('{"question": "Tom has 2 pens and buys 3. How many has he?", "answer": "#### 5"}')
    return {
        "dataset": str(data),
        "task_type": "gsm8k",
        "model": str(tiny_model),
        "engine": "transformers",
        "dtype": "float32",
        "generation_max_tokens": 8,
        "generation_temperature": 1.0,
        "max_iterations": 2,
        "output_dir": str(tmp_path / "results"),
    }


def test_written_claims_are_kept_for_the_next_run(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.labelling.claims.PROMPTS_PER_FILE", {"transformers": 1})
    first, again = (
        read_result(label(resolve_settings({**given, "output_name": name}, environ={}))) for name in ("first", "again")
    )
    assert first.metadata["usage"]["generated_tokens"] > again.metadata["usage"]["generated_tokens"] == 0
    kept = sorted(path.suffix for path in Path(given["output_dir"], "generated").iterdir())
    assert kept == [".json"] * 4 + [".jsonl"] and first.record.data == again.record.data
    counts = first.metadata["written"]
    assert (counts["questions"], counts["candidates"]) == (1, 4) and counts == again.metadata["written"]
    assert counts["distinct_share"] == counts["distinct"] / 4
    assert [i.example.id for i in first.labeled_examples] == [i.example.id for i in again.labeled_examples]


def test_candidates_grow_hotter_and_draw_other_seeds(tmp_path: Path) -> None:
    asked: list[tuple[float, float, int, list[str]]] = []

    class Engine:
        def generate(self, prompts: list[str], config: GenerationConfig, seed: int, stop: tuple[str, ...]) -> list[str]:
            asked.append((config.generation_temperature, config.generation_top_p, seed, prompts))
            assert "\nQuestion:" in stop
            time.sleep(0.02)
            return [f"{config.generation_temperature} {prompt}" for prompt in prompts]

    sampling = GenerationConfig(0.2, 0.8, 8, 1.0, 0.9)
    writer = ClaimWriter(str(tmp_path), EngineConfig(engine="transformers"), sampling, Engine)  # type: ignore[arg-type]
    texts = writer._texts([prompt for prompt in "ab" for _ in range(3)], 7, 3)
    assert texts == ["0.2 a", "0.6 a", "1.0 a", "0.2 b", "0.6 b", "1.0 b"]
    assert [entry[:3] for entry in asked] == [(0.2, 0.8, 7), (0.6, 0.85, 13), (1.0, 0.9, 19)]
    assert writer._texts([prompt for prompt in "ab" for _ in range(3)], 7, 3) == texts and len(asked) == 3
    with ThreadPoolExecutor(2) as runs:  # at once: what one writes the other waits for
        assert len({tuple(texts) for texts in runs.map(lambda _: writer._texts(list("aaabbb"), 8, 3), range(2))}) == 1
    assert len(asked) == 6 and not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": ["no.such:Rule"]}, "no.such:Rule"),
        ({"output_name": "taken"}, "taken"),
        ({"slice": "1/2"}, "slice: found '1/2', but a model writes the claims"),
        ({}, "expected the"),
    ],
)
def test_mistakes_are_found_before_the_model_writes(
    given: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    results = Path(given["output_dir"])
    results.mkdir()
    (results / "taken.jsonl").write_text("")
    resume = None if change else results / "no.trace.jsonl"
    with pytest.raises(ICMError, match=message):
        label(resolve_settings({**given, **change}, environ={}), resume)
    assert not (results / "generated").exists()
