"""Claims that a model wrote: kept without gold, read again with the same questions, written for one part alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from icm.errors import ConfigError, DataError
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.training_rows import answer_pairs
from icm.tasks import DataSource, load_task
from icm.tasks.written import WritingCounts, keep_claims, stand_ins
from icm.text import same_answer


def answers(prompts: list[str]) -> list[str]:
    """A model that is right every other time, and now and then says nothing."""
    return [["", f"{i}. A: 4", "A: 5", f"{i} A: 6"][i % 4] for i, _ in enumerate(prompts)]


def questions(folder: Path, count: int = 24, **fields: object) -> DataSource:
    path = folder / "questions.jsonl"
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}", **fields} for i in range(count)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return DataSource(str(path), "gsm8k", holdout=0.4, max_examples=20, seed=7)


def test_kept_claims_give_the_same_data_without_a_model(tmp_path: Path) -> None:
    source = questions(tmp_path)
    first = load_task(source, answers)
    assert len(first.written) == 5 and all(len(texts) == 3 for texts in first.written.values())
    kept = replace(source, claims=keep_claims(tmp_path / "generated", first.written))
    again = load_task(kept)
    assert again.dataset == first.dataset and dict(again.gold) == dict(first.gold) and not again.written
    assert load_task(kept.whole).dataset.fingerprint == first.dataset.fingerprint
    parts = [load_task(replace(kept, max_examples=None, slice=f"{number}/2")).dataset for number in (1, 2)]
    assert sorted(example.id for part in parts for example in part) == [example.id for example in first.dataset]


def test_claims_are_distinct_by_their_final_answers_and_counted(tmp_path: Path) -> None:
    """Of claims with one answer the first is kept, of those without every text; questions left empty are counted."""
    source = replace(questions(tmp_path, count=3), holdout=0.0, max_examples=None, candidates=5)
    said = ["2 + 2 = 4", "It is 4.", "A: 5\nQuestion: Next? A: 9", "No idea.", "None.", *[" "] * 5, *["A: 7"] * 5]
    data = load_task(source, lambda prompts: said[: len(prompts)])
    assert list(data.written.values()) == [["2 + 2 = 4", "A: 5", "No idea.", "None."], [], ["A: 7"]]
    counts = WritingCounts.of(data.written, 5)
    assert (counts.questions, counts.distinct, counts.without, counts.share) == (3, 5, 1, 5 / 15)
    assert str(counts) == "5 claims for each of 3 questions, 33% of them distinct; 1 questions without a usable one"
    again = load_task(replace(source, claims=keep_claims(tmp_path, data.written)))
    assert again.dataset == data.dataset and len(again.dataset) == 5


def test_a_file_of_an_earlier_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    source = replace(questions(tmp_path, count=1), holdout=0.0)
    kept = keep_claims(tmp_path, {"What is 0 + 1?": ["A: 1", "It is 1", "It is 1", "A: 2"]})
    assert len(load_task(replace(source, claims=kept)).dataset) == 3


def test_instructions_become_comparisons_of_written_responses(tmp_path: Path) -> None:
    for name in ("prompt", "instruction"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({name: f"Say {n}."}) + "\n" for n in range(3)))
        source = DataSource(str(path), "comparison")
        data = load_task(source, lambda prompts: [f"reply {n}" for n in range(len(prompts))])
        assert len(data.dataset) == 12 and not data.gold and {len(texts) for texts in data.written.values()} == {4}
        by_id = {example.id: example for example in data.dataset}
        for example in data.dataset:
            other = by_id[str(example.relations.inverse)]
            assert other.metadata["response_a"] == example.metadata["response_b"] != example.metadata["response_a"]
        first = {key: str(e.metadata["response_a"]) < str(e.metadata["response_b"]) for key, e in by_id.items()}
        items = [LabeledExample(example, str(first[example.id]), 1.0) for example in data.dataset]
        pairs = answer_pairs(ICMResult(items, None, data.dataset.label_space, "comparison", RunRecord())).rows
        assert len(pairs) == 6 and all(row["chosen"] < row["rejected"] for row in pairs)


def test_gold_is_not_in_the_file_and_has_no_say_in_it(tmp_path: Path) -> None:
    written = {}
    for name, answer in (("right", None), ("wrong", "#### 77"), ("absent", "")):
        (tmp_path / name).mkdir()
        source = questions(tmp_path / name, **({} if answer is None else {"answer": answer}))
        data = load_task(source, answers)
        written[name] = Path(keep_claims(tmp_path / name, data.written)).read_bytes()
        assert bool(data.gold) == (name != "absent")
    assert len(set(written.values())) == 1 and b"####" not in written["right"]


def test_the_other_part_is_written_anew(tmp_path: Path) -> None:
    source = questions(tmp_path)
    train = load_task(source, answers)
    test = replace(source, part="test", claims=keep_claims(tmp_path, train.written))
    with pytest.raises(DataError, match="no claims to judge"):
        load_task(test)
    held_out = load_task(test, answers)
    assert held_out.written and not held_out.written.keys() & train.written.keys()
    assert len(load_task(replace(test, max_examples=None), stand_ins).written) > len(held_out.written)


def test_a_bad_question_does_not_refuse_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = replace(questions(tmp_path), max_examples=None)
    path = Path(source.dataset)
    whole = load_task(source, answers)
    path.write_text(json.dumps({"question": "", "answer": "#### 3"}) + "\n" + path.read_text())
    assert load_task(source, answers).dataset == whole.dataset
    assert (
        "left out: 1 of 25 records (" in caplog.text and "questions.jsonl:1: field 'question': found ''" in caplog.text
    )


def test_a_forecast_says_what_is_asked_and_nothing_of_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_task(questions(tmp_path), stand_ins)
    assert "a prompt for claims  Question: What is 0 + 1?" in data.account and "labels  " not in data.account
    assert not caplog.text


def test_answers_with_a_verdict_are_not_written_anew(tmp_path: Path) -> None:
    source = replace(questions(tmp_path), task_type="auto", holdout=0.0)
    rows = [{"question": f"What is {i} + 1?", "answer": "3", "is_correct": i == 2} for i in range(8)]
    Path(source.dataset).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=r"does not read 'is_correct', which may judge the one that is given"):
        load_task(source, answers)
    judged = load_task(replace(source, template="{question} {answer} Right:", label_field="is_correct"))
    assert judged.dataset.task == "classification" and set(judged.gold.values()) == {"True", "False"}
    assert load_task(replace(source, ignore_fields=["is_correct"]), answers).written


def test_a_file_of_other_claims_is_refused(tmp_path: Path) -> None:
    source = questions(tmp_path)
    other = keep_claims(tmp_path, {"Who is it?": ["A: 3"]})
    with pytest.raises(DataError, match="holds none of the 24 questions"):
        load_task(replace(source, claims=other), answers)
    with pytest.raises(DataError, match=r"claims no\.jsonl: no such file"):
        load_task(replace(source, claims="no.jsonl"))
    own = questions(tmp_path, solution="5", is_correct=True)
    with pytest.raises(ConfigError, match="the records hold their own claims"):
        load_task(replace(own, claims=other))


@pytest.mark.parametrize(
    ("solution", "right", "same"),
    [
        ("2 + 5 = 7", "#### 7", True),
        ("It is seven.", "7", False),
        ("Let me think. The answer is Paris.\nQuestion", "Paris", True),
        ("Paris", "Answer: paris", True),
        ("Paris is a city, so the answer is Lyon", "Paris", False),
        ("Founded in 1200, the answer is New York", "new york", True),
    ],
)
def test_the_right_answer_is_a_number_or_words(solution: str, right: str, same: bool) -> None:
    assert same_answer(solution, right) == same


@pytest.mark.parametrize(
    ("rows", "gold"),
    [
        ([{"key": n, "prompt": f"Say {n}.", "instruction_id_list": ["x"], "kwargs": [{}]} for n in range(4)], False),
        (
            [
                {"input": "Sort the words: b a", "target": "a b"},
                {"input": "Is ice cold?", "target": "Yes"},  # has its choices: no claim is written
                {"input": "Sort the words: d c", "target": "c d"},
            ],
            True,
        ),
    ],
    ids=["ifeval", "bigbench_hard"],
)
def test_every_task_whose_claims_are_written(rows: list[dict[str, object]], gold: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    first = load_task(
        DataSource(str(path)), lambda prompts: [["a b", "c", "d", "c d"][i % 4] for i in range(len(prompts))]
    )
    again = load_task(DataSource(str(path), claims=keep_claims(tmp_path, first.written)))
    assert again.dataset == first.dataset and dict(again.gold) == dict(first.gold) and bool(first.gold) == gold
    assert len(first.written) == (4 if not gold else 2)
