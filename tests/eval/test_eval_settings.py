"""Settings are checked key by key, before anything loads."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.conditions.chat_models import chat_counterpart
from eval.settings import MultipleChoiceConfig, parse_settings, slug
from icm.errors import ConfigError

ONE = "conditions: [{name: Base, kind: zero-shot}]\n"


def written(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "eval.yaml"
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def test_command_line_overrides_the_file(tmp_path: Path) -> None:
    arguments = written(tmp_path, ONE + "shots: 8\ndata: {dataset: reviews, part: test, max_examples: 9}\n")
    found = parse_settings([*arguments, "--shots", "32", "--data.max_examples", "50", "--seeds", "[3, 4]"])
    assert (found.shots, found.data.max_examples, found.data.dataset, found.seeds) == (32, 50, "reviews", (3, 4))
    assert found.conditions[0].name == "Base"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE + "shotss: 3", "unknown key 'shotss'; did you mean shots?"),
        (ONE + "data: {datset: x}", "data: unknown key 'datset'; did you mean dataset?"),
        ("conditions: [{name: B, kind: chat, modle: x}]", "conditions[0]: unknown key 'modle'; did you mean model?"),
        ("conditions: [{name: B, kind: chatty}]", "chatty"),
        ("conditions: [{name: B, kind: chat, preamble: true}]", "condition 'B': chat does not use preamble"),
        ("conditions: [{name: B, kind: fine-tuned, labels_from: gold}]", "condition 'B': fine-tuned needs adapters"),
        ("conditions: [{name: B, kind: chat-server}]", "needs server"),
        ("conditions: []", "at least one"),
        ("conditions: [{name: a b, kind: majority}, {name: A-B, kind: surface}]", "distinct names"),
        (ONE + "shots: 0", "shots: found 0"),
        (ONE + "seeds: [1, 1]", "seeds: found [1, 1]"),
        (ONE + "rerun: [Bse]", "unknown condition 'Bse'; did you mean Base?"),
        (ONE + "shots: many", "eval.yaml: shots: found 'many', expected a whole number"),
        (ONE + "seeds: [1, two]", "seeds[1]: found 'two', expected a whole number"),
        (ONE + "engine: {enforce_eager: 3}", "engine.enforce_eager: found 3, expected true or false"),
        ("conditions: [{kind: chat}]", "conditions[0].name: required"),
        (f"conditions: [{{name: {'n' * 300}, kind: majority}}]", "condition name: found 'nnn"),
        (f"conditions: [{{name: {'雨' * 50}, kind: majority}}]", "at most 120 bytes"),
        ('conditions: [{name: "a\\nb", kind: majority}]', "no control characters"),
        ('conditions: [{name: "a\\e[2J", kind: majority}]', "no control characters"),
        ('conditions: [{name: "$$", kind: majority}]', "letters or digits"),
        ("conditions: {name: B}", "conditions: found {'name': 'B'}, expected a list"),
        (ONE + "multiple_choice: {questions: q}", "multiple_choice.conditions: required"),
        (ONE + "data: 3", "data: found 3, expected a mapping"),
        ("conditions: [{name: a", "not valid YAML"),
        ("conditions: [{name: a, kind: chat-server, server: {base_url: ftp://x}}]", "server.base_url"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_settings(written(tmp_path, text))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_option_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean --seeds"):
        parse_settings([*written(tmp_path, ONE), "--sedes", "3"])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        parse_settings(["--config=nowhere.yaml"])


def test_lists_are_words_or_the_older_spelling_and_options_win_wherever_they_stand(tmp_path: Path) -> None:
    file = written(tmp_path, ONE + "labels: [c.jsonl]\nseeds: [5]\n")
    words = ["--labels", "a.jsonl", "b.jsonl", "--seeds", "3", "4", "--rerun", "Base"]
    older = ["--labels", "[a.jsonl, b.jsonl]", "--seeds=[3,4]", "--rerun", "[Base]"]
    found = parse_settings([*words, *file])
    assert (found.labels, found.seeds, found.rerun) == (["a.jsonl", "b.jsonl"], (3, 4), ("Base",))
    assert found == parse_settings([*file, *older])


def test_part_and_spelling_and_switches(tmp_path: Path) -> None:
    text = "data: {dataset: d, verbalisers: {C: ' c'}}\nengine: {enforce_eager: true}\n"
    file = written(tmp_path, ONE + text)
    assert parse_settings(file).data.part == "test" and parse_settings(file).engine.enforce_eager
    words = ["--data.max-examples", "3", "--no-engine.enforce_eager", "--data.verbalisers", "A= a", "B= b"]
    found = parse_settings([*file, *words, "--output_dir=out_dir"])
    assert (found.data.max_examples, found.engine.enforce_eager, found.output_dir) == (3, False, "out_dir")
    assert (found.data.dataset, found.data.verbalisers) == ("d", {"A": " a", "B": " b"})
    for words, value in ((["--engine.enforce_eager", "false"], False), (["--engine.enforce-eager=true"], True)):
        assert parse_settings([*file, *words]).engine.enforce_eager is value


def test_conditions_are_needed_and_shared_by_extending(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or a settings file with --config"):
        parse_settings(["--shots", "3"])
    with pytest.raises(ConfigError, match="data: found 3, expected a mapping"):
        parse_settings([*written(tmp_path, ONE + "data: 3\n"), "--data.seed", "1"])
    written(tmp_path, ONE + "data: {dataset: d, holdout: 0.5}\n")
    more = tmp_path / "more.yaml"
    more.write_text("extends: eval.yaml\ndata: {dataset: e}\nmultiple_choice: {questions: q, conditions: [Base]}\n")
    found = parse_settings(["--config", str(more), "--multiple_choice.questions", "mine.json"])
    assert (found.data.dataset, found.data.holdout, found.conditions[0].name) == ("e", 0.5, "Base")
    assert found.multiple_choice == MultipleChoiceConfig("mine.json", ["Base"])


@pytest.mark.parametrize("path", sorted(Path("configs/eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings_are_valid(path: Path) -> None:
    assert parse_settings(["--config", str(path)]).conditions


def test_label_files_come_one_or_one_a_seed(tmp_path: Path) -> None:
    found = parse_settings([*written(tmp_path, ONE), "--labels", "[a, b]", "--seeds", "[1, 2, 3]"])
    with pytest.raises(ConfigError, match="found 2, expected 1 or one for each of 3 seeds"):
        found.files_of(found.conditions[0])


@pytest.mark.parametrize(
    ("base", "chat"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
        ("google/gemma-2-9b", "google/gemma-2-9b-it"),
        ("google/gemma-3-4b-pt", "google/gemma-3-4b-it"),
        ("google/gemma-3-4b-it", "google/gemma-3-4b-it"),
        ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("embedded", "embedded"),
    ],
)
def test_chat_counterparts(base: str, chat: str) -> None:
    assert chat_counterpart(base) == chat


def test_an_unknown_family_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="name one with the condition's `model`"):
        chat_counterpart("embedded:gemma-3-270m")


def test_adapters_are_one_more_condition(settings_file: Callable[..., Path]) -> None:
    given = ["--labels", "found.jsonl", "--adapters", "outputs/icm"]
    for more in ([], ["--config", str(settings_file([{"name": "Base", "kind": "zero-shot"}]))]):
        *others, tuned = parse_settings([*given, *more]).conditions
        assert (tuned.name, tuned.kind, tuned.labels_from, tuned.adapters) == (
            "Fine-tuned",
            "fine-tuned",
            "labels",
            ["outputs/icm"],
        )
        assert others == parse_settings([*given[:2], *more]).conditions


def test_slugs() -> None:
    assert slug("Zero-shot Base + Preamble") == "zero-shot-base-preamble"


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str], settings_file: Callable[..., Path]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_settings(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--multiple-choice.questions" in text and "--data.part {train,test}" in text
    assert "demonstrations of the many-shot conditions (default: 64)" in text
    assert "which side of the holdout to load; without a holdout, the train or the test split (default: test)" in text


def test_help_and_mistakes_need_no_model_library() -> None:
    code = """
import sys
from eval.run import main
assert main(["--shotz", "3"]) == 2
print([name for name in ("torch", "transformers", "datasets", "sklearn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "did you mean --shots?" in done.stderr
