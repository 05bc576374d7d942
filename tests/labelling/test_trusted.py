"""A trusted label is in the result as given, whatever labels the rest; what the files may say and may not."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_runs import FAST, labels, pairs, problem, reviews

from eval.held_out import load_held_out
from icm.config import SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.errors import DataError, ICMError, ResumeError
from icm.examples import ICMDataset, example_id
from icm.labelling.batches import split_batches
from icm.labelling.readings import contradicted, turned
from icm.labelling.session import run_labeling
from icm.labelling.settings import preset_values, resolve_settings
from icm.prompts import PromptEncoder
from icm.results.format import ICMResult, content_hash, read_result, write_result
from icm.results.origin import held_out_source
from icm.results.record import DataRecord, RunRecord
from icm.results.training_rows import confident_examples
from icm.results.twins import surest
from icm.search.bootstrap import earlier
from icm.search.checks import rule_checker
from icm.search.trees import Order
from icm.tasks import load_task
from icm.tasks.source import DataSource

ALGORITHMS = ("icm", "auto", "bootstrap", "random", "zero-shot")


def with_trusted(dataset: ICMDataset, every: int = 3) -> ICMDataset:
    """Labels for every third example that no model gives: of the pair rules' kind where there are pairs."""
    names = dataset.label_space.labels
    chosen: dict[str, str] = {}
    for number, example in enumerate(dataset):
        if number % every == 0 and example.relations.inverse not in chosen:
            chosen[example.id] = names[len(chosen) % 2]
    return replace(dataset, trusted=chosen)


def preset(name: str) -> SearchConfig:
    given = {**preset_values(name), "max_iterations": 30}
    return resolve_settings(given, environ={}).search


CONFIGS: dict[str, SearchConfig] = {
    "defaults": SearchConfig(max_iterations=30),
    "leave-one-out": replace(FAST, max_iterations=30),
    "from random labels": SearchConfig(init="random", max_iterations=30, joint_proposals=False),
    **{name: preset(name) for name in ("paper", "codelion", "fork")},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("make", [lambda: reviews(20), lambda: pairs(10)], ids=["reviews", "pairs"])
def test_trusted_labels_are_in_the_result_as_given(
    make: Callable[[], ICMDataset], algorithm: Any, config: SearchConfig, tokenizer: Any
) -> None:
    dataset = with_trusted(make())
    result = run_labeling(dataset, AccountingEngine(tokenizer), replace(config, algorithm=algorithm))
    assert len(result.labeled_examples) == 20
    marked = {item.example.id: item.label for item in result.labeled_examples if item.trusted}
    assert marked == dataset.trusted and len(marked) > 5


def test_rules_are_kept_around_trusted_labels(tokenizer: Any) -> None:
    dataset = with_trusted(pairs(12), every=2)
    for algorithm in ("icm", "bootstrap"):
        result = run_labeling(dataset, AccountingEngine(tokenizer), SearchConfig(algorithm=algorithm))  # type: ignore[arg-type]
        found = labels(result)
        for example in dataset:
            if example.id in dataset.trusted:
                assert found[str(example.relations.inverse)] != dataset.trusted[example.id]


@pytest.mark.parametrize("kind", ["defaults", "leave-one-out", "paper"])
def test_a_resumed_run_ends_as_a_whole_one_and_refuses_other_trusted_labels(
    kind: str, tokenizer: Any, tmp_path: Path
) -> None:
    dataset, path = with_trusted(pairs(8)), tmp_path / "t.jsonl"
    whole = run_labeling(dataset, AccountingEngine(tokenizer), CONFIGS[kind], trace_path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    for cut in (4, len(lines) // 2, len(lines) - 3):
        path.write_bytes(b"".join(lines[:cut]))
        again = run_labeling(dataset, AccountingEngine(tokenizer), CONFIGS[kind], trace_path=path, resume=True)
        assert labels(again) == labels(whole) and again.score == whole.score
    fewer = replace(dataset, trusted=dict(list(dataset.trusted.items())[1:]))
    with pytest.raises(ResumeError, match="the examples are others"):
        run_labeling(fewer, AccountingEngine(tokenizer), CONFIGS[kind], trace_path=path, resume=True)


def test_without_trusted_labels_a_data_set_is_what_it_was() -> None:
    plain = reviews(20)
    assert plain.fingerprint == "24eb56cd65ba9c08"
    assert replace(plain, trusted={plain[0].id: "positive"}).fingerprint != plain.fingerprint
    assert replace(plain, start={plain[0].id: ("positive", 1.0)}).fingerprint != plain.fingerprint


def test_batches_share_the_trusted_examples(tokenizer: Any) -> None:
    dataset, config = with_trusted(reviews(40), every=8), SearchConfig(batch_size=16, algorithm="bootstrap")
    batches = split_batches(dataset, AccountingEngine(tokenizer), config)
    assert len(batches) > 2 and all(batch.trusted == dataset.trusted for batch in batches)
    assert all(len(batch) <= 16 for batch in batches)
    result = run_labeling(dataset, AccountingEngine(tokenizer), config)
    assert sorted(labels(result)) == sorted(example.id for example in dataset)
    assert dataset.trusted.items() <= labels(result).items()
    with pytest.raises(ICMError, match="stand in every batch"):
        split_batches(with_trusted(reviews(40), every=2), AccountingEngine(tokenizer), config)


def test_trusted_labels_stand_in_each_context_and_each_label_is_outside_of_one() -> None:
    contexts = Order(tuple(range(24))).contexts(4, 4, {*range(6)})
    assert len(contexts) == 4
    assert all(len({*context} & {*range(6)}) in (4, 5) and len({*context} - {*range(6)}) == 4 for context in contexts)
    assert {place for context in contexts for place in context} == {*range(22)}
    many = Order(tuple(range(60))).contexts(4, 4, {*range(40)})
    assert all(len({*context} & {*range(40)}) == 12 for context in many)
    assert len({place for context in many for place in context} & {*range(40)}) >= 36  # in turn
    for places, trusted in ((2, 2), (1, 1), (9, 9), (6, 1), (6, 5), (30, 12)):
        contexts = Order(tuple(range(places))).contexts(4, 4, {*range(trusted)})
        assert all(any(place not in context for context in contexts) for place in range(places))
        assert trusted == 1 or all({*context} & {*range(trusted)} for context in contexts)


def test_training_keeps_trusted_labels(tokenizer: Any) -> None:
    dataset = with_trusted(reviews(30))
    result = run_labeling(dataset, AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap"))
    for kept in (surest(result, 0.2).labeled_examples, confident_examples(result.labeled_examples, 50.0)[0]):
        assert dataset.trusted.items() <= {item.example.id: item.label for item in kept}.items()
        assert len(kept) < 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"text": f"note {n} was {('good', 'bad')[n % 2]}", "label": ("good", "bad")[n % 2]} for n in range(30)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def loaded(folder: Path, text: str, name: str = "t.jsonl", **source: Any) -> ICMDataset:
    (folder / name).write_text(text)
    given = {"task_type": "classification", "trusted": str(folder / name), **source}
    return load_task(DataSource(str(folder / "d.jsonl"), **given)).dataset


def test_rows_name_examples_by_id_by_input_or_by_the_datas_own_fields(folder: Path) -> None:
    plain = load_task(DataSource(str(folder / "d.jsonl"))).dataset
    example = next(example for example in plain if example.metadata["text"] == "note 3 was bad")
    for row in ({"id": example.id}, {"input": example.input}, {"text": example.input}, {"text": "note 3 was bad"}):
        text = json.dumps({**row, "label": "good"}) + "\n" + json.dumps({"id": plain[0].id, "label": ""}) + "\n"
        assert loaded(folder, text).trusted == {example.id: "good"}
    table = f"id,text,found,why,label\n{example.id},x,bad,w,GOOD\n{plain[0].id},,bad,w,\n"
    assert loaded(folder, table, "t.csv").trusted == {example.id: "good"}
    studio = [{"id": 7, "data": {"id": 7, "text": "note 3 was bad"}, "annotations": [_chosen("good")]}]
    assert loaded(folder, json.dumps(studio), "t.json").trusted == {example.id: "good"}


def test_what_ask_writes_is_read_whatever_the_data_call_their_labels(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": r["text"], "gold": r["label"]}) + "\n" for r in rows))
    first = load_task(DataSource(str(folder / "d.jsonl"), label_field="gold")).dataset[0]
    for column in ("label", "gold"):
        text = f"id,text,found,why,{column}\n{first.id},x,bad,w,good\n"
        assert loaded(folder, text, "t.csv", label_field="gold").trusted == {first.id: "good"}
        text = json.dumps({"text": first.metadata["text"], column: "good"}) + "\n"
        assert loaded(folder, text, label_field="gold").trusted == {first.id: "good"}


def test_a_table_of_text_and_label_is_read_whatever_the_data_call_their_text(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    (folder / "d.jsonl").write_text(
        "".join(json.dumps({"Mail (EN)": r["text"], "label": r["label"]}) + "\n" for r in rows)
    )
    named = {"text_field": "Mail (EN)"}
    first = load_task(DataSource(str(folder / "d.jsonl"), **named)).dataset[0]
    for column, text in (("text", rows[0]["text"]), ("Mail (EN)", rows[0]["text"]), ("text", first.input)):
        key = first.id if text == first.input else example_id(first.input.replace(first.metadata["text"], text))
        assert loaded(folder, json.dumps({column: text, "label": "good"}) + "\n", **named).trusted == {key: "good"}
    with pytest.raises(
        DataError, match=r"t\.jsonl: rows without the id of an example \(column id\) or its whole input"
    ):
        loaded(folder, '{"Msg Nr.": 4, "label": "good"}\n', **named)


def test_rows_name_examples_by_the_datas_own_id_where_there_is_no_text(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    (folder / "d.jsonl").write_text("".join(json.dumps({"id": f"u{n}", **row}) + "\n" for n, row in enumerate(rows)))
    keys = {example.record_id: example.id for example in load_task(DataSource(str(folder / "d.jsonl"))).dataset}
    assert loaded(folder, '{"id": "u3", "label": "good"}\n').trusted == {keys["u3"]: "good"}
    tools = json.dumps({"id": "u3", "text": rows[5]["text"], "label": "good"}) + "\n"
    assert loaded(folder, tools).trusted == {keys["u5"]: "good"}
    for row in ('{"id": "u99", "label": "good"}\n', '{"id": "u3", "input": "no such text", "label": "good"}\n'):
        with pytest.raises(DataError, match=r"no example of|without the id of an example .* or its whole input"):
            loaded(folder, row)


def test_labels_are_mapped_once_however_a_row_names_its_example(folder: Path) -> None:
    swapped = {"good": "bad", "bad": "good"}
    example = load_task(DataSource(str(folder / "d.jsonl"), label_map=swapped)).dataset[0]
    for named in ({"id": example.id}, {"text": example.metadata["text"]}):
        found = loaded(folder, json.dumps({**named, "label": "good"}) + "\n", label_map=swapped)
        assert found.trusted == {example.id: "bad"}


def test_an_unknown_id_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"t.jsonl:1: no example of .* is this one"):
        loaded(folder, '{"id": "0123456789abcdef", "label": "good"}\n')


def _chosen(label: str) -> dict[str, Any]:
    value = {"choices": [label]}
    return {"result": [{"type": "choices", "from_name": "c", "to_name": "t", "value": value}], "was_cancelled": False}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("note 3 was bad", "good"), ("note 3 was bad", "bad")], r"t.jsonl:1 and .*t.jsonl:2: contradictory"),
        ([("no such note", "good")], r"t.jsonl:1: no example of .* is this one"),
        ([("note 3 was bad", "so-so")], r"t.jsonl:1: .*so-so"),
        ([("note 3 was bad", "")], "no row has a label"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused(rows: list[tuple[str, str]], message: str, folder: Path) -> None:
    text = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    with pytest.raises(DataError, match=message):
        loaded(folder, text)


def test_a_row_whose_id_and_text_are_of_two_examples_is_refused(folder: Path) -> None:
    plain = load_task(DataSource(str(folder / "d.jsonl"))).dataset
    first, other = plain[0], plain[1]
    for text in (other.input, f" {str(other.metadata['text']).upper()} "):
        table = f'id,text,found,why,label\n{first.id},"{text}",bad,w,good\n'
        with pytest.raises(DataError, match=r"t\.csv:\d: the id is that of .* but the text is another example's"):
            loaded(folder, table, "t.csv")
    edited = f"id,text,found,why,label\n{first.id},what somebody wrote over it,bad,w,good\n"
    assert loaded(folder, edited, "t.csv").trusted == {first.id: "good"}


def test_labels_in_two_columns_and_ids_of_other_texts_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [json.loads(line) for line in (folder / "d.jsonl").read_text().splitlines()]
    named = [{"ID": f"u{n}", "text": row["text"], "gold": row["label"]} for n, row in enumerate(rows)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    assert loaded(folder, "Id,label\nu3,bad\n", "t.csv", label_field="gold").trusted
    with pytest.raises(DataError, match=r"t.csv:2: found 'bad' in 'gold', but 'good' in 'label'"):
        loaded(folder, "Id,gold,label\nu3,bad,good\n", "t.csv", label_field="gold")
    for gold, label in ((False, True), (True, False)):
        row = json.dumps({"Id": "u3", "gold": gold, "label": label}) + "\n"
        with pytest.raises(DataError, match=rf"found '{gold}' in 'gold', but '{label}' in 'label'"):
            loaded(folder, row, label_field="gold")
    assert "sorted alone" not in caplog.text
    loaded(
        folder, f"ID,text,label\nu4,{named[3]['text']},bad\nu5,{named[5]['text']},bad\n", "t.csv", label_field="gold"
    )
    assert "1 rows have the id of another example than that of their text" in caplog.text


@pytest.mark.parametrize("head", ["ID,Text,Found,Why,Label", " id,text , found,why,label ", "Id;TEXT;found;Why;LABEL"])
def test_headers_are_known_however_a_spreadsheet_spells_them(head: str, folder: Path) -> None:
    first = load_task(DataSource(str(folder / "d.jsonl"))).dataset[0]
    mark = ";" if ";" in head else ","
    table = f"{head}\n{mark.join([first.id, str(first.metadata['text']), 'bad', 'w', 'good'])}\n"
    assert loaded(folder, table, "t.csv").trusted == {first.id: "good"}


@pytest.mark.parametrize(("text_field", "template"), [("input", None), (None, "{why}\nSo {found}:")])
def test_columns_of_the_data_are_theirs_even_if_icm_ask_has_such(
    text_field: str | None, template: str | None, tmp_path: Path
) -> None:
    rows = [{"input": f"note {n}", "why": f"as {n}", "found": "it", "label": n % 2 == 0} for n in range(8)]
    rows = [{key: row[key] for key in (["input"] if text_field else ["why", "found"]) + ["label"]} for row in rows]
    for name, some in (("d", rows), ("t", rows[:3])):  # labels are JSON's true and false
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    source = DataSource(str(tmp_path / "d.jsonl"), task_type="classification", text_field=text_field, template=template)
    found = load_task(replace(source, trusted=str(tmp_path / "t.jsonl")))
    assert [*found.dataset.trusted.values()].count("True") == 2 and len(found.dataset.trusted) == 3
    assert all(found.gold[key] == label for key, label in found.dataset.trusted.items())


def test_labels_that_break_a_rule_together_are_refused_with_both_places(tmp_path: Path) -> None:
    rows = [{"question": "2+2?", "choice": c, "label": 1, "consistency_id": 0} for c in ("four", "five")]
    rows += [{"question": "2+3?", "choice": c, "label": 1, "consistency_id": 0} for c in ("five", "six")]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"response_a": "x", "response_b": "y", "prompt": "p"}
    (tmp_path / "c.jsonl").write_text(json.dumps({**pair, "label": "A"}) + "\n")
    source = DataSource(str(tmp_path / "c.jsonl"), task_type="comparison")
    both = load_task(source).dataset
    assert len(rule_checker("comparison").index(both).neighbours[0]) == 1
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"id": e.id, "label": "True"}) + "\n" for e in both))
    with pytest.raises(DataError, match=r"t.jsonl:\d and .*t.jsonl:\d: contradictory trusted labels"):
        load_task(replace(source, trusted=str(tmp_path / "t.jsonl")))


def test_the_evaluations_part_is_refused_and_the_draw_takes_trusted_questions_first(folder: Path) -> None:
    source = DataSource(str(folder / "d.jsonl"), holdout=0.5)
    held_out, mine = load_task(replace(source, part="test")).dataset, load_task(source).dataset
    with pytest.raises(DataError, match=r"t.jsonl:1: this example's question is in the part"):
        loaded(folder, json.dumps({"id": held_out[0].id, "label": "good"}) + "\n", holdout=0.5)
    drawn = load_task(replace(source, max_examples=4)).dataset
    other = next(example for example in mine if example.id not in {e.id for e in drawn})
    for chosen in (other, drawn[0]):
        row = json.dumps({"id": chosen.id, "label": "good"}) + "\n"
        found = loaded(folder, row, holdout=0.5, max_examples=4)
        assert found.trusted == {chosen.id: "good"} and len(found) == 4
    assert [example.id for example in found] == [example.id for example in drawn]  # of a draw: the same draw


def test_a_start_is_an_earlier_result(folder: Path, tokenizer: Any) -> None:
    plain = load_task(DataSource("reviews", max_examples=40)).dataset
    cold = run_labeling(plain, AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap"))
    write_result(folder / "r.jsonl", cold)
    source = DataSource("reviews", max_examples=40, start=str(folder / "r.jsonl"))
    assert load_task(source).dataset.start == {i.example.id: (i.label, i.log_odds) for i in cold.labeled_examples}
    rows = (folder / "r.jsonl").read_text(encoding="utf-8")
    odd = re.sub(r'"log_odds": [-0-9.e]+', f'"log_odds": {10**400}', rows)
    (folder / "odd.jsonl").write_text(odd, encoding="utf-8")
    unknown = load_task(replace(source, start=str(folder / "odd.jsonl"))).dataset.start
    assert unknown == {i.example.id: (i.label, 0.0) for i in cold.labeled_examples}
    wider = load_task(replace(source, max_examples=60)).dataset
    result = run_labeling(wider, AccountingEngine(tokenizer), SearchConfig(max_iterations=5))
    assert len(wider.start) == 40 and len(result.labeled_examples) == 60
    with pytest.raises(DataError, match="none of its 0 examples"):
        load_task(replace(source, start=str(folder / "d.jsonl")))


def test_labels_that_a_start_was_given_are_missed(
    folder: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    given = with_trusted(load_task(DataSource("reviews", max_examples=20)).dataset)
    result = run_labeling(given, AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap"))
    write_result(folder / "r.jsonl", result)
    kept, *lost = given.trusted
    (folder / "t.jsonl").write_text(json.dumps({"id": kept, "label": given.trusted[kept]}) + "\n")
    source = DataSource("reviews", max_examples=20, start=str(folder / "r.jsonl"))
    load_task(replace(source, trusted=str(folder / "t.jsonl")))
    assert f"{len(lost)} labels that were given to it are not among this run's trusted ones" in caplog.text
    caplog.clear()
    (folder / "t.jsonl").write_text(
        "".join(json.dumps({"id": key, "label": label}) + "\n" for key, label in given.trusted.items())
    )
    load_task(replace(source, trusted=str(folder / "t.jsonl")))
    assert "given to it" not in caplog.text


def test_a_start_yields_to_new_rounds_as_far_as_it_was_unsure(tokenizer: Any) -> None:
    dataset = reviews(20)
    names = dataset.label_space.labels
    earlier = {example.id: names[place % 3 % 2] for place, example in enumerate(dataset)}
    trusted = dict(list(earlier.items())[:4])

    def found(odds: float) -> ICMResult:
        given = replace(dataset, trusted=trusted, start={key: (label, odds) for key, label in earlier.items()})
        return run_labeling(given, AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap"))

    assert labels(sure := found(50.0)) == earlier
    assert labels(unsure := found(0.0)) != earlier
    assert sure.record.iterations == 1 < unsure.record.iterations
    assert sure.record.usage["computed_tokens"] < 0.8 * unsure.record.usage["computed_tokens"]


@pytest.mark.parametrize("calibration", ["batch", "prototypical"])
def test_labels_of_unknown_odds_start_even(calibration: Any, tokenizer: Any) -> None:
    dataset = reviews(60)
    names = dataset.label_space.labels
    known = {example.id: (names[place > 15], 2.0) for place, example in enumerate(dataset.examples[:20])}
    unknown = {example.id: (names[0], 0.0) for example in dataset.examples[20:]}
    config = SearchConfig(calibration=calibration)
    found = earlier(problem(AccountingEngine(tokenizer), replace(dataset, start=known | unknown), config))
    np.testing.assert_allclose(found[20:], np.log(0.5))
    assert [names[column] for column in found[:20].argmax(axis=1)] == [label for label, _ in known.values()]


def test_a_marked_result_is_read_back(folder: Path, tokenizer: Any) -> None:
    dataset = with_trusted(reviews(12))
    result = run_labeling(dataset, AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap"))
    write_result(folder / "r.jsonl", result)
    again = read_result(folder / "r.jsonl")
    assert content_hash(again) == content_hash(result)
    assert {item.example.id for item in again.labeled_examples if item.trusted} == {*dataset.trusted}


def test_definitions_start_every_prompt_and_travel_with_the_label_file(folder: Path, tokenizer: Any) -> None:
    (folder / "defs.jsonl").write_text('{"text": "Two is a number. So:", "label": "good"}\n')
    source = DataSource(str(folder / "d.jsonl"), holdout=0.5, definitions=str(folder / "defs.jsonl"))
    dataset = load_task(source).dataset
    start = tokenizer("Two is a number. So: good\n\n").input_ids

    class Watching(AccountingEngine):
        def score(self, tree: Any, label_ids: Any) -> Any:
            assert all(list(path[: len(start)]) == start for _, path in tree.paths())
            return super().score(tree, label_ids)

    result = run_labeling(dataset, Watching(tokenizer), SearchConfig(algorithm="bootstrap"))
    assert len(result.labeled_examples) == len(dataset)
    write_result(folder / "r.jsonl", replace(result, record=RunRecord(data=DataRecord(source))))
    again = read_result(folder / "r.jsonl")
    assert again.label_space.definitions == (("Two is a number. So:", "good"),)
    held_out = held_out_source(again, DataSource(), ())
    assert held_out.definitions is None and held_out.part == "test"
    asked = load_held_out(held_out, {"r": again}).dataset.label_space
    assert PromptEncoder(tokenizer, asked).prefix == tuple(start)
    plain = replace(again, label_space=replace(again.label_space, definitions=()))
    with pytest.raises(DataError, match="other definitions"):
        load_held_out(held_out, {"r": again, "p": plain})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "So:"}', r"defs\.jsonl:1: found the label '', expected one of \['bad', 'good'\]"),
        ('{"text": "So:", "label": "goof"}', r"defs\.jsonl:1: found the label 'goof', expected one of"),
        ('{"label": "good"}', r"defs\.jsonl:1: .*text"),
    ],
)
def test_a_definition_without_text_or_label_is_refused(folder: Path, row: str, message: str) -> None:
    (folder / "defs.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match=message):
        load_task(DataSource(str(folder / "d.jsonl"), definitions=str(folder / "defs.jsonl")))


def test_builtin_definitions_are_claims(folder: Path) -> None:
    with pytest.raises(ICMError, match="give a file of your own"):
        load_task(DataSource(str(folder / "d.jsonl"), definitions="builtin"))
    math = load_task(DataSource("synthetic:math", size=4, definitions="builtin")).dataset
    assert {label for _, label in math.label_space.definitions} == {"True", "False"}


def test_labels_are_turned_round_only_where_enough_trusted_ones_contradict_them() -> None:
    dataset = reviews(20)
    one, other = dataset.label_space.labels
    found = {example.id: (one, 0.5 * number) for number, example in enumerate(dataset)}
    for places, expected in (((19,), False), ((0, 1, 2), False), ((3, 4), True), ((4, 5, 6, 7), True)):
        trusted = {dataset[place].id: other for place in places}
        assert contradicted(replace(dataset, trusted=trusted), found) == expected
        agreeing = {dataset[place].id: one for place in range(10, 14)}
        assert not contradicted(replace(dataset, trusted={**trusted, **agreeing}), found)
    assert turned(turned(dataset)) == dataset
    assert turned(dataset).label_space.verbalisers == dataset.label_space.verbalisers[::-1]
