"""Iterative fine-tuning: how the data is divided, what each stage learns from, what a second start does."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.training_runs import ROOT

from icm.errors import ConfigError, ResumeError
from icm.examples import ICMDataset, ICMExample, Relations
from icm.labelling.settings import resolve_settings
from icm.results.format import ICMResult, LabeledExample, read_result, write_result
from train.iterate import Iteration, Scheme, accuracy_of, check_folder, merged_labels, split_groups, training_labels


def iteration(folder: Path, reviews: Path, scheme: Scheme, rounds: int) -> Iteration:
    settings = resolve_settings({"dataset": str(reviews), "holdout": 0.25, "model": "embedded"}, environ={})
    configs = ROOT / "configs"
    return Iteration(
        settings=settings,
        train_config=configs / "train" / "demo_sft.yaml",
        accelerate_config=configs / "accelerate" / "cpu.yaml",
        output_dir=folder,
        rounds=rounds,
        scheme=scheme,
    )


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_share_no_question(parts: int) -> None:
    examples = [
        ICMExample(f"q{n} a{k}", relations=Relations(group=f"q{n}")) for n in range(20) for k in range(1 + n % 4)
    ]
    dataset = ICMDataset(examples)
    chunks = split_groups(dataset, parts, seed=5)
    groups = [{example.group for example in chunk} for chunk in chunks]
    assert sum(map(len, chunks)) == len(dataset) and max(map(len, chunks)) - min(map(len, chunks)) <= 4
    assert sum(map(len, groups)) == len(set().union(*groups)) == 20
    assert chunks == split_groups(dataset, parts, seed=5) != split_groups(dataset, parts, seed=6)
    with pytest.raises(ConfigError, match="from 2 to the number of questions, 20"):
        split_groups(dataset, 21, seed=5)


def test_growing_rounds_learn_from_all_earlier_ones(tmp_path: Path, reviews: Path) -> None:
    stages = iteration(tmp_path, reviews, "grow", 3).stages
    assert [stage.trained_on for stage in stages] == [(), ("round_1",), ("round_1", "round_2")]


def label_by_hand(run: Iteration, wrong: int) -> None:
    """Write every stage's labels as if a model had found them; every `wrong`-th is false."""
    space = run.data.dataset.label_space
    for stage in run.stages:
        items = []
        for place, example in enumerate(stage.part):
            gold = run.data.gold[example.id]
            other = next(label for label in space.labels if label != gold)
            items.append(LabeledExample(example, other if place % wrong == 0 else gold, 1.0))
        write_result(run.labels(stage.name), ICMResult(items, None, space, run.data.dataset.task))


@pytest.mark.parametrize(("scheme", "stages"), [("grow", 3), ("kfold", 4)])
def test_a_stage_never_learns_what_it_labels(tmp_path: Path, reviews: Path, scheme: Scheme, stages: int) -> None:
    run = iteration(tmp_path, reviews, scheme, 3)
    assert len(run.stages) == stages
    label_by_hand(run, wrong=4)
    for stage in run.stages[1:]:
        learnt = training_labels(run, stage)
        own = {example.id for example in stage.part}
        expected = set() if scheme == "grow" else {e.id for e in run.data.dataset} - own
        for name in stage.trained_on if scheme == "grow" else ():
            expected |= {item.example.id for item in read_result(run.labels(name)).labeled_examples}
        assert {item.example.id for item in learnt.labeled_examples} == expected
        assert not own & expected


def test_merged_labels_hold_every_example_once(tmp_path: Path, reviews: Path) -> None:
    run = iteration(tmp_path, reviews, "grow", 3)
    label_by_hand(run, wrong=4)
    merged = merged_labels(run, [stage.name for stage in run.stages])
    assert [item.example for item in merged.labeled_examples] == list(run.data.dataset)
    write_result(tmp_path / "labels.jsonl", merged)
    accuracy = accuracy_of(tmp_path / "labels.jsonl", run.data.gold)
    assert accuracy == pytest.approx(0.75, abs=0.03)


def test_a_folder_of_another_run_is_refused(tmp_path: Path, reviews: Path) -> None:
    run = iteration(tmp_path, reviews, "grow", 3)
    check_folder(run)
    check_folder(run)
    with pytest.raises(ResumeError, match="rounds differ"):
        check_folder(replace(run, rounds=4))
