"""Twins: the same examples with other labels; and the guard against labels of held-out questions."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_results import claims, moods

from icm.config import LabelSource
from icm.errors import DataError
from icm.examples import ICMExample, Relations
from icm.files import write_jsonl
from icm.results.analysis import find_gold
from icm.results.format import ICMResult, LabeledExample, read_result, write_result
from icm.results.origin import labelled_source
from icm.results.record import DataRecord, PromptRecord, RunRecord
from icm.results.twins import load_gold, refuse_overlap, surest, twin
from icm.tasks import DataSource, load_task

NOTES = moods(1, size=30)
GOLD = {item.example.id: NOTES.label_space.labels[place % 3] for place, item in enumerate(NOTES.labeled_examples)}


def errors(result: ICMResult) -> int:
    return sum(GOLD[key] != label for key, label in result.labels.items())


@pytest.mark.parametrize("source", ["labels", "gold", "random", "perturbed"])
def test_twins_differ_in_the_labels_alone(source: LabelSource) -> None:
    made = twin(NOTES, source, 7, GOLD)
    back = [replace(b, label=a.label) for a, b in zip(NOTES.labeled_examples, made.labeled_examples, strict=True)]
    assert replace(made, labeled_examples=back) == NOTES
    assert made == twin(NOTES, source, 7, GOLD)
    expected = {"labels": errors(NOTES), "gold": 0, "random": errors(made), "perturbed": errors(NOTES)}
    assert errors(made) == expected[source]


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_the_surest_of_each_label_stay_whosever_labels_they_then_bear(share: float) -> None:
    odds = [place * 7 % 30 / 10 for place in range(30)]
    items = [replace(item, log_odds=value) for item, value in zip(NOTES.labeled_examples, odds, strict=True)]
    kept = surest(replace(NOTES, labeled_examples=items), share)
    for label, count in NOTES.label_counts.items():
        of_label = sorted((item for item in items if item.label == label), key=lambda item: -(item.log_odds or 0))
        expected = {item.example.id for item in of_label[: max(1, round(share * count))]}
        assert {item.example.id for item in kept.labeled_examples if item.label == label} == expected
    for source in ("gold", "random"):
        assert list(twin(kept, source, 7, GOLD).labels) == list(kept.labels)
    none = replace(NOTES, labeled_examples=[replace(item, log_odds=None) for item in items])
    assert surest(none, share) is none
    if share == 1:
        return
    with pytest.raises(DataError, match="log-odds of every label"):
        surest(replace(NOTES, labeled_examples=[replace(items[0], log_odds=None), *items[1:]]), 0.5)


def test_random_and_perturbed_labels_depend_on_the_seed() -> None:
    random, other = twin(NOTES, "random", 1), twin(NOTES, "random", 2)
    assert random != other and set(Counter(random.labels.values()).values()) == {10}
    assert twin(NOTES, "perturbed", 1, GOLD) not in (twin(NOTES, "perturbed", 2, GOLD), NOTES)


@pytest.mark.parametrize("wrong", [0, 1, 13, 30])
def test_perturbed_labels_have_exactly_the_errors(wrong: int) -> None:
    golden = twin(NOTES, "gold", 0, GOLD).labeled_examples
    labels = NOTES.label_space.labels
    other = [replace(item, label=labels[(labels.index(item.label) + 1) % 3]) for item in golden]
    found = replace(NOTES, labeled_examples=[*other[:wrong], *golden[wrong:]])
    assert errors(twin(found, "perturbed", 2, GOLD)) == errors(found) == wrong


def test_gold_comes_from_the_source_that_the_result_names(tmp_path: Path) -> None:
    result = claims(2, 2, seed=3)
    with pytest.raises(DataError, match=r"l\.jsonl: does not say where its examples come from"):
        twin(result, "gold", 0, file="l.jsonl")
    path = tmp_path / "other.jsonl"
    path.write_text(
        '{"input": "2 + 2 = 4 [True/False]", "metadata": {"gold_label": "True"}}\n'
        '{"input": "2 + 2 = 5 [True/False]", "metadata": {"gold_label": "False"}}\n'
    )
    named = RunRecord(data=DataRecord(DataSource(str(path))))
    with pytest.raises(DataError, match=r"l\.jsonl: none of its 4 examples is in its data as they are read now"):
        twin(replace(result, record=named, task="prepared"), "perturbed", 0, file="l.jsonl")
    known = replace(result.labeled_examples[0], example=ICMExample("2 + 2 = 5"), label="True")
    some = replace(result, labeled_examples=[known, *result.labeled_examples], record=named, task="prepared")
    with pytest.raises(DataError, match=r"l\.jsonl: no gold label for 4 of 5 examples"):
        twin(some, "perturbed", 0, file="l.jsonl")
    assert list(twin(replace(some, labeled_examples=[known]), "gold", 0).labels.values()) == ["False"]


def labelled_notes(folder: Path, dataset: str, template: str) -> ICMResult:
    """What `icm run` in `folder` writes about the notes there, with the text alone as the prompt it was asked."""
    rows = [{"text": f"note {n}", "label": ("glad", "sad")[n % 2]} for n in range(6)]
    (folder / dataset).parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / dataset, rows)
    data = load_task(DataSource(str(folder / dataset), template=template))
    items = [LabeledExample(example, "glad") for example in data.dataset]
    record = RunRecord(data=DataRecord(DataSource(dataset)), prompt=PromptRecord(data.template))
    write_result(folder / "results" / "l.jsonl", ICMResult(items, None, data.dataset.label_space, record=record))
    return read_result(folder / "results" / "l.jsonl")


@pytest.mark.parametrize("source", ["gold", "random", "perturbed"])
def test_no_twin_loses_gold_to_another_template_or_folder(
    source: LabelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = labelled_notes(tmp_path, "l.jsonl", "An older default. {text}:")
    monkeypatch.chdir(tmp_path / "results")  # where l.jsonl is the label file
    made = twin(result, source, 3)
    gold = {item.example.id: ("glad", "sad")[int(item.example.input[-2]) % 2] for item in result.labeled_examples}
    wrong = sum(made.labels[key] != label for key, label in gold.items())
    assert source == "random" or wrong == {"gold": 0, "perturbed": 3}[source]


def test_relative_data_that_is_nowhere_is_named_with_the_label_file(tmp_path: Path) -> None:
    result = labelled_notes(tmp_path, "notes.jsonl", "{text}")
    (tmp_path / "notes.jsonl").rename(tmp_path / "renamed.jsonl")
    with pytest.raises(DataError, match=r"l\.jsonl: names its data as 'notes\.jsonl', relative to where `icm run` ran"):
        twin(result, "gold", 0)
    assert "put the data beside" in find_gold(result)[1]  # what `icm analyze` and cards say


def test_data_in_a_folder_is_found_from_the_one_above_results(tmp_path: Path) -> None:
    result = labelled_notes(tmp_path, "data/notes.jsonl", "{text}")
    expected = DataSource(str(tmp_path / "data" / "notes.jsonl"), "classification", template="{text}")
    assert labelled_source(result) == expected, "the task that the file names, whatever `auto` would find today"


def test_built_in_and_hub_data_are_no_paths(tmp_path: Path) -> None:
    for name in ("reviews", "synthetic:math", "gsm8k", "owner/name"):
        (tmp_path / name).mkdir(parents=True)  # outputs that bear the name of a data set
        (tmp_path / name / "results.json").write_text("{}")
        named = RunRecord(data=DataRecord(DataSource(name)))
        result = replace(NOTES, record=named, file=str(tmp_path / "l.jsonl"))
        assert labelled_source(result) == DataSource(name, "classification" if "/" in name else "auto")


def test_a_datasets_folder_is_found_beside_the_label_file(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "a", "label": "x"}]).save_to_disk(str(tmp_path / "mine"))
    result = replace(NOTES, record=RunRecord(data=DataRecord(DataSource("mine"))), file=str(tmp_path / "r" / "l.jsonl"))
    assert labelled_source(result) == DataSource(str(tmp_path / "mine"), "classification")


def test_data_that_auto_takes_for_another_task_today_are_read_as_they_were(tmp_path: Path) -> None:
    rows = [{"question": f"what is {n}?", "text": f"note {n}", "label": ("glad", "sad")[n % 2]} for n in range(6)]
    write_jsonl(tmp_path / "notes.jsonl", rows)
    with pytest.raises(DataError, match="does not read 'question'"):
        load_task(DataSource(str(tmp_path / "notes.jsonl")))
    result = labelled_notes(tmp_path, "notes.jsonl", "{text}")
    write_jsonl(tmp_path / "notes.jsonl", rows)  # with a field that earlier versions left out without a word
    assert sorted(twin(result, "gold", 0).labels.values()) == ["glad"] * 3 + ["sad"] * 3
    write_jsonl(tmp_path / "notes.jsonl", [{**row, "text": row["question"]} for row in rows])
    with pytest.raises(DataError, match="none of its 6 examples is in its data as they are read now, the first is "):
        twin(result, "gold", 0)


def test_claims_are_found_beside_a_label_file_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "sums.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
    for recorded in ("out/generated/abc.jsonl", str(tmp_path / "gone" / "generated" / "abc.jsonl")):
        source = DataSource(str(tmp_path / "sums.jsonl"), claims=recorded)
        moved = tmp_path / "moved" / "generated" / "abc.jsonl"
        record = RunRecord(data=DataRecord(source))
        result = replace(NOTES, task="gsm8k", record=record, file=str(tmp_path / "moved" / "l.jsonl"))
        with pytest.raises(DataError, match=r"abc\.jsonl: no such file; label the data anew, or give the path of its"):
            load_gold(result)
        moved.parent.mkdir(parents=True)
        write_jsonl(moved, [{"question": "1 + 1?", "generated": ["It is 2.", "3"]}])
        found = labelled_source(result)
        assert found is not None and found.claims == str(moved)
        monkeypatch.chdir(tmp_path / "moved")
        assert sorted(load_task(found).gold.values()) == ["False", "True"]
        shutil.rmtree(tmp_path / "moved")


def test_shared_questions_are_refused() -> None:
    result = claims(3, 2, seed=4)
    held_out = [item.example for item in claims(6, 1, seed=5).labeled_examples[3:]]
    refuse_overlap(result.dataset, held_out, "l.jsonl")
    labelled = result.labeled_examples[2].example
    rephrased = ICMExample("Another text about it", relations=Relations(group=labelled.group))
    same_text = ICMExample(labelled.input)
    for shared, count in ((rephrased, 2), (same_text, 1)):
        with pytest.raises(DataError, match=rf"l\.jsonl: {count} of 6 labelled examples .* for example 'Question"):
            refuse_overlap(result.dataset, [*held_out, shared], "l.jsonl")
