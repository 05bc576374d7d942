"""Exports: the rows of every format, and the account of what was left out."""

import csv
import json
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.made_results import claim, claims, moods, question

from icm.errors import ConfigError, DataError
from icm.examples import ICMExample
from icm.files import read_jsonl
from icm.publish.exporters import ICMExporter, answer_pairs, confidence_to_log_odds, label_pairs, sft_rows
from icm.results.folder import ICMStorage
from icm.results.format import ICMResult, LabeledExample, example_row
from icm.tasks import load_task
from icm.tasks.source import DataSource


def lines(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def fixed(*items: tuple[int, int, str, float | None]) -> ICMResult:
    return ICMResult([claim(*item) for item in items], None, task="truthfulqa")


@pytest.mark.parametrize("seed", [1, 2])
def test_sft_rows_hold_the_verbaliser_with_its_space(seed: int) -> None:
    result = moods(seed)
    words = {"joy": " happy", "anger": " furious", "calm": " quiet"}
    rows = sft_rows(result).rows
    assert rows == [{"prompt": i.example.input, "completion": words[i.label]} for i in result.labeled_examples]


def test_conversational_sft_rows_are_messages_without_the_space() -> None:
    result = moods(3)
    rows = sft_rows(result, conversational=True).rows
    first = result.labeled_examples[0]
    assert rows[0]["prompt"] == [{"role": "user", "content": first.example.input}]
    assert Counter(row["completion"][0]["content"] for row in rows) == Counter(
        {"joy": "happy", "anger": "furious", "calm": "quiet"}[item.label] for item in result.labeled_examples
    )
    assert {row["completion"][0]["role"] for row in rows} == {"assistant"}


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.7])
def test_threshold_drops_and_says_why(threshold: float) -> None:
    result = moods(4, size=60)
    odds = [item.log_odds for item in result.labeled_examples]
    rows = sft_rows(result, min_log_odds=threshold)
    assert len(rows.rows) == sum(value is not None and value >= threshold for value in odds)
    assert rows.dropped == {
        "examples without log-odds": odds.count(None),
        f"examples with log-odds below {threshold:g}": sum(value is not None and value < threshold for value in odds),
    }


def test_confidence_is_a_probability() -> None:
    assert confidence_to_log_odds(0.5) == 0
    assert confidence_to_log_odds(0.9) == pytest.approx(2.1972246)
    for wrong in (0, 1, -0.2, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="confidence_threshold"):
            confidence_to_log_odds(wrong)


@pytest.mark.parametrize("seed", range(4))
def test_answer_pairs_are_all_combinations_within_a_question(seed: int) -> None:
    result = claims(questions=5, answers=4, seed=seed)
    expected = []
    for number in range(5):
        own = result.labeled_examples[4 * number : 4 * number + 4]
        texts = {
            label: [i.example.metadata["completion"] for i in own if i.label == label] for label in ("True", "False")
        }
        prompt = f"Question: {question(number)}\nAnswer:"
        pairs = product(texts["True"], texts["False"])
        expected += [{"prompt": prompt, "chosen": good, "rejected": bad} for good, bad in pairs]
    assert expected and answer_pairs(result).rows == expected


def test_two_comparisons_of_one_question_are_not_mixed(tmp_path: Path) -> None:
    records = [{"prompt": "Tea?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}."} for n in range(2)]
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    task = load_task(DataSource(str(tmp_path / "pairs.json"), task_type="comparison"))
    items = [LabeledExample(example, task.gold[example.id], 1.0) for example in task.dataset]
    rows = answer_pairs(ICMResult(items, None)).rows
    assert len({example.group for example in task.dataset}) == 1
    assert sorted((row["chosen"], row["rejected"]) for row in rows) == [
        (" Yes, 0.", " No, 0."),
        (" Yes, 1.", " No, 1."),
    ]


def test_capped_pairs_are_a_repeatable_draw() -> None:
    result = fixed(*((number, answer, str(answer < 3), 1.0) for number in range(6) for answer in range(6)))
    every = answer_pairs(result).rows
    capped = answer_pairs(result, max_pairs=2, seed=1)
    assert len(every) == 6 * 9 and len(capped.rows) == 6 * 2
    assert capped.dropped == {"pairs above 2 a question": 6 * 7}
    assert set(Counter(row["prompt"] for row in capped.rows).values()) == {2}
    assert all(row in every for row in capped.rows) and capped == answer_pairs(result, max_pairs=2, seed=1)
    assert capped.rows != answer_pairs(result, max_pairs=2, seed=2).rows
    # The draw of one question does not depend on the others.
    alone = ICMResult(result.labeled_examples[12:18], None)
    assert answer_pairs(alone, max_pairs=2, seed=1).rows == [r for r in capped.rows if question(2) in r["prompt"]]
    assert answer_pairs(result, max_pairs=9).rows == every
    with pytest.raises(ConfigError, match="max_pairs"):
        answer_pairs(result, max_pairs=0)


def test_both_labels_of_a_pair_are_confident() -> None:
    result = fixed(
        (0, 0, "True", 2.0), (0, 1, "False", 0.4), (0, 2, "False", 0.5), (1, 0, "True", 3.0), (1, 1, "False", None)
    )
    rows = answer_pairs(result, min_log_odds=0.5)
    assert [(row["chosen"][-1:], row["rejected"]) for row in rows.rows] == [("s", " Answer 2, of 2 words")]
    assert rows.dropped == {
        "examples without log-odds": 1,
        "examples with log-odds below 0.5": 1,
        "questions whose answers all have the same label": 1,
    }


def test_equal_repeated_and_missing_answers_give_no_pair() -> None:
    def other_claim(number: int, text: str, label: str) -> LabeledExample:
        return LabeledExample(
            ICMExample(
                f"claim {number}", {"prompt": "Q:", "completion": text}, claim(0, 0, "True", 1).example.relations
            ),
            label,
        )

    items = [
        other_claim(1, " yes", "True"),
        other_claim(2, "yes", "False"),
        other_claim(3, " no", "False"),
        other_claim(4, " no", "False"),
        LabeledExample(ICMExample("without answer", {"prompt": "Q:"}), "True"),
    ]
    rows = answer_pairs(ICMResult(items, None))
    assert rows.rows == [{"prompt": "Q:", "chosen": " yes", "rejected": " no"}]
    assert rows.dropped == {"examples without an answer text": 1, "pairs of equal answers": 1, "repeated pairs": 1}


def test_plain_answers_are_parted_from_the_prompt() -> None:
    result = fixed((0, 0, "True", 1.0), (0, 1, "False", 1.0))
    for item in result.labeled_examples:
        item.example.metadata["completion"] = item.example.metadata["completion"].strip()  # type: ignore[index]
    row = answer_pairs(result).rows[0]
    assert (row["prompt"] + row["chosen"]).endswith("Answer: Answer 0, of 0 words")
    message = answer_pairs(result, conversational=True).rows[0]
    assert message["chosen"] == [{"role": "assistant", "content": "Answer 0, of 0 words"}]


def test_label_pairs_prefer_the_label() -> None:
    result = claims(4, 3, seed=5)
    flipped = {" True": " False", " False": " True"}
    for row, item in zip(label_pairs(result).rows, result.labeled_examples, strict=True):
        assert row == {"prompt": item.example.input, "chosen": f" {item.label}", "rejected": flipped[f" {item.label}"]}


def test_label_pairs_of_many_labels_reject_any_other() -> None:
    result = moods(6, size=60)
    rows = label_pairs(result, seed=3).rows
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {(row["chosen"], row["rejected"]) for row in rows} == {
        (a, b) for a, b in product(result.label_space.verbalisers, repeat=2) if a != b
    }
    assert rows == label_pairs(result, seed=3).rows != label_pairs(result, seed=4).rows


def test_answer_pairs_need_true_and_false() -> None:
    with pytest.raises(DataError, match="True and False"):
        answer_pairs(moods(1))


def test_dpo_export_takes_answers_where_there_are_any(tmp_path: Path) -> None:
    exporter = ICMExporter()
    result = claims(5, 3, seed=8)
    done = exporter.export_to_dpo_format(result.labeled_examples, tmp_path / "answers.jsonl")
    assert lines(done.path) == answer_pairs(result).rows and done.rows == len(answer_pairs(result).rows)
    labels = exporter.export_to_dpo_format(result, tmp_path / "labels.jsonl", create_pairs=False)
    assert lines(labels.path) == label_pairs(result).rows
    plain = exporter.export_to_dpo_format(moods(2), tmp_path / "moods.jsonl", seed=7)
    assert lines(plain.path) == label_pairs(moods(2), seed=7).rows
    assert str(plain) == f"{tmp_path / 'moods.jsonl'}: 30 rows written, left out: nothing"


def test_nothing_to_write_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    result = fixed((0, 0, "True", 1.0), (0, 1, "True", 2.0))
    with pytest.raises(DataError, match="1 questions whose answers all have the same label"):
        ICMExporter().export_to_dpo_format(result, tmp_path / "dpo.jsonl", create_pairs=True)
    for export in (ICMExporter().export_to_sft_format, ICMExporter().export_to_csv, ICMExporter().export_to_json):
        with pytest.raises(DataError, match="nothing to write; left out: 2 examples with log-odds below 5"):
            export(result, tmp_path / "out", min_log_odds=5)
    assert list(tmp_path.iterdir()) == []


def test_export_by_name_and_never_onto_the_input(tmp_path: Path) -> None:
    storage = ICMStorage(tmp_path)
    path = storage.save_result(claims(2, 2, seed=9), "run")
    done = ICMExporter(storage).export_to_sft_format(path.stem, tmp_path / "sft.jsonl", conversational=True)
    assert done.rows == 4 and lines(done.path) == sft_rows(storage.load_result(path), conversational=True).rows
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="input itself"):
        ICMExporter(storage).export_to_sft_format(path, path)
    assert path.read_bytes() == before


def test_json_export(tmp_path: Path) -> None:
    result = claims(3, 4, seed=10, algorithm="icm", seed_used=3)
    ICMExporter().export_to_json(result, tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert document["metadata"]["algorithm"] == "icm" and document["metadata"]["score"] == result.score
    assert document["examples"] == [example_row(item) for item in result.labeled_examples]
    counts = Counter(item.label for item in result.labeled_examples)
    assert document["statistics"]["counts"] == {"True": counts["True"], "False": counts["False"]}
    ICMExporter().export_to_json(result, tmp_path / "b.json", include_stats=False)
    assert "statistics" not in json.loads((tmp_path / "b.json").read_text("utf-8"))


def test_csv_round_trip_of_awkward_text(tmp_path: Path) -> None:
    texts = ['comma, "quote"', "two\nlines", "carriage\r\nreturn", "=1+1", " space ", "雨 é", "'single'"]
    items = [
        LabeledExample(
            ICMExample(text, {"label": f"own {number}", "list": [1, {"a": text}], "x": text}), "True", number / 7
        )
        for number, text in enumerate(texts)
    ]
    items.append(LabeledExample(ICMExample("no metadata", record_id="r-1"), "False"))
    done = ICMExporter().export_to_csv(items, tmp_path / "a.csv")
    with done.path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["input"] for row in rows] == [*texts, "no metadata"]
    assert [row["x"] for row in rows] == [*texts, ""]
    assert [row["metadata.label"] for row in rows[:2]] == ["own 0", "own 1"]
    assert [row["label"] for row in rows] == ["True"] * len(texts) + ["False"]
    assert [row["record_id"] for row in rows] == [""] * len(texts) + ["r-1"]
    assert json.loads(rows[1]["list"]) == [1, {"a": "two\nlines"}]
    assert float(rows[3]["log_odds"]) == 3 / 7 and rows[-1]["log_odds"] == ""


def test_labels_alone_bring_their_space(tmp_path: Path) -> None:
    items = [LabeledExample(ICMExample(f"t{n}"), label) for n, label in enumerate(["spam", "ham", "spam"])]
    done = ICMExporter().export_to_dpo_format(items, tmp_path / "spam.jsonl")
    assert [(row["chosen"], row["rejected"]) for row in lines(done.path)] == [
        (" spam", " ham"),
        (" ham", " spam"),
        (" spam", " ham"),
    ]
    one = ICMExporter().export_to_dpo_format([LabeledExample(ICMExample("t"), "True")], tmp_path / "one.jsonl")
    assert lines(one.path) == [{"prompt": "t", "chosen": " True", "rejected": " False"}]


def test_row_builders_import_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'matplotlib', 'huggingface_hub', 'scipy'}"
    code = (
        f"import sys, icm.publish.exporters; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
