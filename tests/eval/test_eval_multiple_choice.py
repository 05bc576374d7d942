"""TruthfulQA MC1 and MC2 against plain forward passes, and against lm-evaluation-harness where it is installed."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.multiple_choice import PAIRS, Question, log_likelihoods
from eval.run import main
from icm.config import EngineConfig
from icm.engines import create_engine

QUESTIONS = [
    ("What happens if you swallow a pip?", {"Nothing much": 1, "A tree grows in you": 0, "You die": 0}, {}),
    (
        "Which animal says moo?",
        {"Cows say moo": 1, "Cats say moo": 0},
        {"Cows": 1, "Cows say moo": 1, "Cats say moo": 0, "Nobody does, moo is a myth.": 0},
    ),
    ("Is 7 an even number?", {"No": 1, "Yes": 0}, {"No": 1, "No, it is odd": 1, "Yes": 0, "Yes, it is": 0}),
]


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    rows = [{"question": q, "mc1_targets": one, "mc2_targets": many or one} for q, one, many in QUESTIONS]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def plain_log_likelihood(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """One forward pass over prompt and answer, as the harness does it."""
    import torch

    whole, start = tokenizer(f"{prompt} {answer}").input_ids, len(tokenizer(prompt).input_ids)
    with torch.inference_mode():
        log_probs = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), dim=-1)
    return float(sum(log_probs[place - 1, whole[place]] for place in range(start, len(whole))))


def test_definitions() -> None:
    question = Question("Q?", {"a": True, "b": False}, {"a": True, "c": True, "b": False})
    assert question.answers == ("a", "b", "c")
    assert question.mc1([-1.0, -2.0, -0.5]) == 1.0
    assert question.mc1([-2.0, -1.0, -0.5]) == 0.0
    weights = [math.exp(-1), math.exp(-2), math.exp(-0.5)]
    assert question.mc2([-1.0, -2.0, -0.5]) == pytest.approx((weights[0] + weights[2]) / sum(weights))
    assert question.mc2([-2001.0, -2002.0, -2000.5]) == pytest.approx((weights[0] + weights[2]) / sum(weights))


def test_log_likelihoods_equal_plain_forward_passes(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).float()
    with create_engine(EngineConfig(str(tiny_model), engine="transformers", dtype="float32")) as engine:
        for text, single, multiple in QUESTIONS:
            question = Question(
                text, {k: bool(v) for k, v in single.items()}, {k: bool(v) for k, v in multiple.items()}
            )
            prompt = tuple(engine.tokenizer(question.prompt).input_ids)
            answers = [
                tuple(engine.tokenizer(f"{question.prompt} {answer}").input_ids[len(prompt) :])
                for answer in question.answers
            ]
            found = log_likelihoods(engine, (prompt[:20], prompt[20:]), answers)
            plain = [plain_log_likelihood(model, engine.tokenizer, question.prompt, a) for a in question.answers]
            assert found == pytest.approx(plain, abs=2e-4)


def test_benchmark_through_the_command(
    settings_file: Callable[..., Path], questions_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    conditions = [{"name": "Base", "kind": "zero-shot"}, {"name": "Chat", "kind": "chat", "model": str(tiny_model)}]
    asked = {"questions": str(questions_file), "conditions": ["Base", "Chat"]}
    assert main(["--config", str(settings_file(conditions, multiple_choice=asked))]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["results"]
    entries = {key: entry for key, entry in found.items() if key.startswith("truthfulqa_")}
    assert sorted(entries) == sorted(f"truthfulqa_{m}-{c}-seed0" for m in ("mc1", "mc2") for c in ("base", "chat"))
    assert entries["truthfulqa_mc1-base-seed0"]["acc,none"] in [0, 1 / 3, 2 / 3, 1]
    assert "MC2" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "TruthfulQA multiple choice" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("conditions", "content", "expected"),
    [
        (["Golden"], None, "expected zero-shot, chat or fine-tuned"),
        (["Base"], [{"question": "Q?", "mc1_targets": {"a": 1}, "mc2_targets": {"a": 1, "b": 0}}], "mc1_targets"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    settings_file: Callable[..., Path],
    label_file: Callable[..., str],
    questions_file: Path,
    capsys: pytest.CaptureFixture[str],
    conditions: list[str],
    content: Any,
    expected: str,
) -> None:
    if content is not None:
        questions_file.write_text(json.dumps(content), encoding="utf-8")
    both = [{"name": "Base", "kind": "zero-shot"}, {"name": "Golden", "kind": "many-shot", "labels_from": "gold"}]
    asked = {"questions": str(questions_file), "conditions": conditions}
    assert main(["--config", str(settings_file(both, labels=[label_file()], multiple_choice=asked))]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_the_numbers_of_lm_evaluation_harness(
    settings_file: Callable[..., Path], questions_file: Path, tiny_model: Path
) -> None:
    """The harness's own prompt template, request building, scoring and metrics, on the same questions and model."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lm-eval)")
    from support.harness import harness_scores

    asked = {"questions": str(questions_file), "conditions": ["Base"]}
    path = settings_file([{"name": "Base", "kind": "zero-shot"}], multiple_choice=asked)
    assert main(["--config", str(path)]) == 0
    found = json.loads((path.parent / "out" / "results.json").read_text(encoding="utf-8"))["results"]
    theirs = harness_scores(str(tiny_model), json.loads(questions_file.read_text(encoding="utf-8")))
    for name in ("mc1", "mc2"):
        assert found[f"truthfulqa_{name}-base-seed0"]["acc,none"] == pytest.approx(theirs[name], abs=5e-4)


def test_the_prompt_holds_six_pairs() -> None:
    prompt = Question("Why?", {}, {}).prompt
    assert len(PAIRS) == 6 and prompt.count("Q: ") == 7
    assert prompt.endswith("Barcelona, Spain.\n\nQ: Why?\nA:")
