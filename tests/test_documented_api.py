"""Every command line and Python snippet of the two documents the project starts from, run as it is written there.

What cannot be reached is replaced under the same name: models by links to a tiny one, hub data sets by small
ones in the hub's own format (through `datasets.load_dataset`, so that configuration and split are the ones detected),
the hub for uploads by a local server. The commands stay word for word; `ICM_…` variables, documented
too, keep them short. The model is loaded once and shared.
"""

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from support.beside import beside
from support.fake_hub import FakeHub

import icm.engines
import icm.labelling.run
from icm import DataSource, ICMResult, ICMStorage, load_task
from icm.cli import main
from icm.config import EngineConfig
from icm.engines.base import Engine
from icm.results.format import read_result, trace_path

DOCUMENT = "004_8647345b9e8f10ee.txt"
FORK_DOCUMENT = "000_77884e23d82f2516.txt"

RUNS = """
icm run --model google/gemma-3-1b-it --dataset truthful_qa --task-type truthfulqa --max-examples 100
icm run --model google/gemma-3-1b-it --dataset truthful_qa --task-type truthfulqa
icm run --model google/gemma-3-1b-it --dataset truthful_qa --config multiple_choice --split validation --task-type truthfulqa
icm run --model google/gemma-3-1b-it --dataset gsm8k --task-type gsm8k
icm run --model google/gemma-3-1b-it --dataset gsm8k --config main --task-type gsm8k
icm run --model google/gemma-3-1b-it --dataset path/to/dataset.jsonl --task-type classification
icm run --model google/gemma-3-1b-it --synthetic math --synthetic-size 500
icm run --model google/gemma-3-1b-it --synthetic comparison --synthetic-size 300
icm run --model google/gemma-3-1b-it --synthetic math
icm run --model google/gemma-3-1b-it --synthetic math --synthetic-size 500 --max-iterations 500
icm run --model google/gemma-3-1b-it --dataset gsm8k --task-type gsm8k --max-examples 200
icm run --model google/gemma-3-1b-it --dataset anthropic/hh-rlhf --task-type comparison --alpha 30.0
icm run --model google/gemma-3-1b-it --device cpu
icm run --model google/gemma-3-1b-it --device mps
icm run --model google/gemma-3-1b-it --log-level DEBUG
icm run --model your-model --alpha 100.0 --max-iterations 2000
icm run --model google/gemma-3-1b-it --dataset large-dataset --max-examples 50
icm run --model distilgpt2 --dataset your-dataset --max-examples 100
icm run --model google/gemma-3-1b-it --dataset your-data --log-level DEBUG --log-file debug.log
""".strip().splitlines()  # noqa: E501 (as the documents write them)

FILE_COMMANDS = """
icm export --input-path icm_results/truthfulqa_dialoGPT_20240115_143022.jsonl --output-path truthfulqa_dpo.jsonl --format dpo
icm push --input-path truthfulqa_dpo.jsonl --hf-repo-id your-username/icm-truthfulqa-dataset
icm list --results-dir icm_results
icm analyze
icm analyze --result-file icm_results/truthfulqa_gpt2_20240115_143022.jsonl
icm clean --keep-latest 10
icm export --input-path results.jsonl --output-path dpo_data.jsonl --format dpo --create-pairs
icm export --input-path results.jsonl --output-path analysis.json --format analysis --include-examples
""".strip().splitlines()  # noqa: E501 (as the documents write them)

# The fork's script is this command with these words behind it.
FORK_RUNS = """
icm run --model meta-llama/Llama-3.1-8B --testbed truthfulQA --tensor_parallel_size 1 --gpu_memory_utilization 0.90 --K 1500
icm run --model meta-llama/Llama-3.1-70B --testbed truthfulQA --tensor_parallel_size 4 --gpu_memory_utilization 0.90 --K 1500
""".strip().splitlines()  # noqa: E501 (as the documents write them)

BASIC_USAGE = """
from icm import ICMSearcher, load_icm_dataset

# Load dataset
dataset = load_icm_dataset("truthful_qa", task_type="truthfulqa")

# Create searcher
searcher = ICMSearcher(
    model_name="google/gemma-3-1b-it",
    alpha=50.0,
    max_iterations=1000
)

# Run ICM search
result = searcher.search(dataset, max_examples=100)

# Access results
print(f"Generated {len(result.labeled_examples)} labeled examples")
print(f"Final score: {result.score:.4f}")
"""

ADVANCED_USAGE = """
from icm import ICMSearcher, ICMDataset, ICMExample
from icm.consistency import LogicalConsistencyChecker, MathConsistencyRule

# Create custom dataset
examples = [
    ICMExample("What is 2+2?", {"category": "math"}),
    ICMExample("What is 3+3?", {"category": "math"})
]
dataset = ICMDataset(examples)

# Custom consistency checker
checker = LogicalConsistencyChecker([MathConsistencyRule()])

# Advanced searcher
searcher = ICMSearcher(
    model_name="google/gemma-3-1b-it",
    alpha=30.0,
    initial_temperature=20.0,
    consistency_checker=checker,
    seed=42
)

result = searcher.search(dataset)
"""

STORAGE_AND_EXPORT = """
from icm.storage import ICMStorage
from icm.exporters import ICMExporter

# Save results
storage = ICMStorage("my_results")
storage.save_result(result, "experiment_1")

# Export to DPO format
exporter = ICMExporter(storage)
exporter.export_to_dpo_format(
    result.labeled_examples,
    "training_data.jsonl"
)

# Push to Hugging Face
exporter.export_to_huggingface(
    result.labeled_examples,
    repo_id="username/my-icm-dataset",
    task_type="classification",
    model_name="google/gemma-3-1b-it"
)
"""

MODELS = ("google/gemma-3-1b-it", "distilgpt2", "your-model", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B")
SHORT = {
    "ICM_MAX_EXAMPLES": "4",
    "ICM_MAX_FIX_STEPS": "2",
    "ICM_MAX_ITERATIONS": "4",
    "ICM_FINAL_ORDERS": "1",
    "ICM_REFRESH_EVERY": "4",
    "ICM_INITIAL_TEMPERATURE": "0.01",
    "ICM_GENERATION_MAX_TOKENS": "6",
    "ICM_ENGINE": "transformers",
}

QUESTIONS = {
    "What do bees make?": (["Honey"], ["Milk", "Bees make silk"]),
    "What falls upwards?": (["Nothing does"], ["Rain"]),
}


def truthful_qa() -> list[dict[str, Any]]:
    rows = []
    for question, (true, false) in QUESTIONS.items():
        targets = {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}
        rows.append({"question": question, "mc1_targets": targets, "mc2_targets": targets})
    return rows


def gsm8k() -> list[dict[str, Any]]:
    return [
        {
            "question": f"Ann has {n} figs and buys {n + 2}. How many?",
            "answer": f"{n}+{n + 2}={2 * n + 2}\n#### {2 * n + 2}",
        }
        for n in (3, 5)
    ]


def hh_rlhf() -> list[dict[str, Any]]:
    asked = ["How do I boil an egg?", "Is the earth flat?", "What is a fjord?"]
    turns = [(f"\n\nHuman: {text}\n\nAssistant:", text) for text in asked]
    return [{"chosen": f"{start} Gladly: it is so.", "rejected": f"{start} Go away ({text})."} for start, text in turns]


def opinions() -> list[dict[str, Any]]:
    texts = ("a delight", "what a waste", "lovely from start to end", "it broke", "warmly recommended", "never again")
    return [{"text": text, "label": ("positive", "negative")[n % 2]} for n, text in enumerate(texts)]


# (data set, configuration, split) as the hub names them → records. Asking for anything else fails.
HUB: dict[tuple[str, str | None, str | None], Callable[[], list[dict[str, Any]]]] = {
    ("truthfulqa/truthful_qa", "multiple_choice", "validation"): truthful_qa,
    ("openai/gsm8k", "main", "train"): gsm8k,
    ("Anthropic/hh-rlhf", None, "train"): hh_rlhf,
    ("large-dataset", None, "train"): opinions,
    ("your-dataset", None, "train"): opinions,
    ("your-data", None, "train"): opinions,
}


def load_local(path: str, name: str | None = None, split: str | None = None, **_: Any) -> datasets.Dataset:
    """Stands in for `datasets.load_dataset`: the hub cannot be reached from tests."""
    return datasets.Dataset.from_list(HUB[path, name, split]())


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with icm.engines.create_engine(EngineConfig(str(tiny_model), engine="transformers", device="cpu")) as loaded:
        yield loaded


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which all names of the documents exist."""
    monkeypatch.chdir(tmp_path)
    for name in MODELS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(tiny_model, target_is_directory=True)
    file = tmp_path / "path" / "to" / "dataset.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(map(json.dumps, opinions())), encoding="utf-8")
    monkeypatch.setattr(datasets, "load_dataset", load_local)
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def loaded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share one loaded model; the device is still checked for each."""

    def share(config: EngineConfig) -> Any:
        icm.engines.choose_engine(config)
        return contextlib.nullcontext(engine)

    monkeypatch.setattr(icm.labelling.run, "create_engine", share)
    monkeypatch.setattr(icm.engines, "create_engine", share)


def call(line: str) -> int:
    program, *arguments = shlex.split(line)
    assert program == "icm"
    return main(arguments)


def only_result(folder: Path) -> tuple[Path, ICMResult]:
    (path,) = (file for file in folder.glob("icm_results/*.jsonl") if not file.name.endswith(".trace.jsonl"))
    return path, read_result(path)


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("line", [line for line in RUNS if "mps" not in line])
def test_documented_runs(line: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(line) == 0, capsys.readouterr().err
    path, result = only_result(desk)
    assert capsys.readouterr().out.startswith(f"{path.relative_to(desk)}\n")
    assert trace_path(path).is_file()
    settings = result.metadata["settings"]
    given = dict(zip(shlex.split(line)[2::2], shlex.split(line)[3::2], strict=True))
    assert settings["engine"]["model"] == given["--model"]
    assert settings["search"]["alpha"] == float(given.get("--alpha", 50.0))
    assert settings["data"]["max_examples"] == int(given.get("--max-examples", 4))
    gold = load_task(
        DataSource(**result.metadata["data"]["source"]), generate=lambda prompts: ["7"] * len(prompts)
    ).gold
    assert len(result.labeled_examples) > 1
    if given.get("--dataset") != "gsm8k":  # there the model writes the claims
        assert {item.example.id for item in result.labeled_examples} == set(gold)
    if "--log-file" in given:
        logged = (desk / given["--log-file"]).read_text()
        assert (
            " DEBUG icm.labelling.run: settings: " in logged
            and f" {len(result.labeled_examples)} examples of " in logged
        )


def test_a_device_that_is_absent_is_named(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    (line,) = (line for line in RUNS if "mps" in line)
    assert call(line) == 2
    assert "mps" in capsys.readouterr().err
    assert not (desk / "icm_results").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
def test_the_forks_run_on_one_gpu_runs_here_as_well(desk: Path) -> None:
    assert call(FORK_RUNS[0]) == 0
    _, result = only_result(desk)
    settings = result.metadata["settings"]
    assert (settings["search"]["max_iterations"], settings["engine"]["gpu_memory_utilization"]) == (1500, 0.9)
    assert result.task == "truthfulqa"
    assert result.metadata["iterations"] < 1500  # nothing changed during a whole pass


@pytest.mark.skipif(torch.cuda.device_count() >= 4, reason="this machine could run it")
def test_the_forks_run_on_four_gpus_asks_for_them(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ICM_ENGINE")
    assert call(FORK_RUNS[1]) == 2
    assert "4 CUDA GPUs" in capsys.readouterr().err


FORK_ARGUMENTS = (
    ("--batch_size 256", "search", "batch_size", 256),
    ("--K 1500", "search", "max_iterations", 1500),
    ("--alpha 1", "search", "alpha", 1.0),
    ("--initial_T 1.0", "search", "initial_temperature", 1.0),
    ("--final_T 0.02", "search", "final_temperature", 0.02),
    ("--num_seed 6", "search", "initial_examples", 6),
    ("--decay 0.9", "search", "beta", 0.9),
    ("--scheduler log", "search", "schedule", "log"),
    ("--scheduler exp --decay 0.9", "search", "cooling_rate", 0.9),
    ("--scheduler exp", "search", "schedule", "geometric"),
    ("--seed 27565976", "search", "seed", 27565976),
    ("--tensor_parallel_size 4", "engine", "tensor_parallel_size", 4),
    ("--gpu_memory_utilization 0.8", "engine", "gpu_memory_utilization", 0.8),
    ("--max_model_len 10000", "engine", "max_model_len", 10000),
    ("--testbed truthfulQA", "data", "dataset", "truthful_qa"),
    ("--testbed gsm8k", "data", "task_type", "gsm8k"),
    ("--testbed alpaca --dataset pairs.jsonl", "data", "task_type", "comparison"),
)


@pytest.mark.parametrize(("words", "part", "field", "value"), FORK_ARGUMENTS)
def test_the_forks_names(
    words: str, part: str, field: str, value: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from icm.commands import run

    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    monkeypatch.setattr(run, "_label", lambda settings, arguments: seen.append(settings))
    assert main(["run", *words.split()]) == 0
    assert getattr(getattr(seen[0], part), field) == value


@pytest.fixture(scope="module")
def labelled(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real result of the TruthfulQA questions, with its trace."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [
        {"question": question, "choice": choice, "label": label}
        for question, answers in QUESTIONS.items()
        for label, choices in enumerate(reversed(answers))
        for choice in choices
    ]
    (folder / "claims.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icm.labelling.run, "create_engine", lambda config: contextlib.nullcontext(engine))
        patch.setenv("ICM_MAX_ITERATIONS", "4")
        arguments = ["--dataset", str(folder / "claims.jsonl"), "--output-dir", str(folder), "--output-name", "made"]
        assert main(["run", *arguments, "--algorithm", "random"]) == 0
    return folder / "made.jsonl"


@pytest.mark.slow
def test_documented_commands_on_files(
    desk: Path,
    labelled: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (desk / "icm_results").mkdir()
    names = [f"icm_results/truthfulqa_{model}_20240115_143022.jsonl" for model in ("dialoGPT", "gpt2")]
    for name in (*names, "results.jsonl"):
        shutil.copy(labelled, desk / name)
    for line in FILE_COMMANDS:
        assert call(line) == 0, (line, capsys.readouterr().err)
    pairs = [json.loads(text) for text in (desk / "dpo_data.jsonl").read_text().splitlines()]
    assert pairs and all(set(pair) == {"prompt", "chosen", "rejected"} for pair in pairs)
    assert (desk / "truthfulqa_dpo.jsonl").read_bytes() == (desk / "dpo_data.jsonl").read_bytes()
    assert "results" in json.loads((desk / "analysis.json").read_text())
    assert hub.files["datasets/your-username/icm-truthfulqa-dataset"]["truthfulqa_dpo.jsonl"]
    out = capsys.readouterr().out
    assert out.count("truthfulqa_gpt2_20240115_143022") >= 3  # list, analyze all, analyze one
    assert [ICMStorage("icm_results").find(Path(name).name).is_file() for name in names] == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_once")
def test_documented_snippets(desk: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(BASIC_USAGE, "basic usage", "exec"), names)
    assert capsys.readouterr().out.startswith("Generated 5 labeled examples\nFinal score: -")
    # Five claims may all get the same label, and then there is no pair to export.
    items = names["result"].labeled_examples
    right = {item.example.group: item.example.id for item in items}.values()
    mixed = [replace(item, label=str(item.example.id in right)) for item in items]
    names["result"] = replace(names["result"], labeled_examples=mixed)
    exec(compile(STORAGE_AND_EXPORT, "storage and export", "exec"), names)
    (saved,) = (desk / "my_results").glob("experiment_1_*.jsonl")
    assert read_result(saved).labeled_examples == names["result"].labeled_examples
    assert "username/my-icm-dataset" in hub.repos
    exec(compile(ADVANCED_USAGE, "advanced usage", "exec"), names)
    assert [item.label in ("True", "False") for item in names["result"].labeled_examples] == [True, True]


@pytest.mark.parametrize("synthetic", ["math", "comparison"])
def test_documented_synthetic_data(synthetic: str) -> None:
    data = load_task(DataSource(f"synthetic:{synthetic}", size=40))
    labels = [data.gold[example.id] for example in data.dataset]
    if synthetic == "math":  # doubled: a right and a wrong solution of each problem
        assert (labels.count("True"), labels.count("False")) == (40, 40)
    assert all(example.input.endswith("I think this Claim is") for example in data.dataset)


@pytest.mark.parametrize(("document", "start"), [(DOCUMENT, "icm "), (FORK_DOCUMENT, "python ICM.py ")])
def test_no_command_of_the_documents_is_left_out(document: str, start: str) -> None:
    text = beside(f"spec/{document}").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = {" ".join(line.split()) for line in text.splitlines() if line.startswith(start)}
    assert lines
    known = {line.replace("icm run", "python ICM.py") for line in FORK_RUNS} | {*RUNS, *FILE_COMMANDS}
    prose = {"icm run", "icm export", "icm push", "icm list", "icm analyze", "icm clean"}
    assert {line.replace("  ", " ") for line in lines} - known - prose == set()


@pytest.mark.parametrize("snippet", [BASIC_USAGE, ADVANCED_USAGE, STORAGE_AND_EXPORT])
def test_snippets_are_the_documents(snippet: str) -> None:
    assert snippet.strip() in beside(f"spec/{DOCUMENT}").read_text(encoding="utf-8")
