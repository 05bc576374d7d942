"""Publishing, against a local server that speaks the few calls used (not the real hub).

The client is the real huggingface_hub; the server stands in for the hub, which tests cannot reach.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from support.fake_hub import TOKEN, FakeHub
from support.made_results import claims, moods

from icm.cli import main
from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.examples import LabelSpace
from icm.publish.exporters import ICMExporter
from icm.publish.hub import push, push_adapter, push_file, push_labels
from icm.results.format import ICMResult, write_result
from icm.results.record import DataRecord, ModelRecord, RunRecord


def header_of(card: bytes) -> dict[str, Any]:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_labels_become_a_data_set_with_a_card(hub: FakeHub) -> None:
    model = {"name": "org/model-8b", "revision": "abc123"}
    settings = {"search": {"alpha": 50.0, "seed": 7}, "output": {"output_dir": "/home/somebody/secret"}}
    result = claims(4, 3, seed=1, model=model, settings=settings, algorithm="icm", iterations=99)
    url = push_labels(result, "me/claims")
    assert url == f"{hub.address}/datasets/me/claims" and hub.repos == {"me/claims": False}
    files = hub.files["datasets/me/claims"]
    assert set(files) == {"train.jsonl", "README.md"}
    rows = [json.loads(line) for line in files["train.jsonl"].splitlines()]
    assert [(row["input"], row["label"], row["log_odds"]) for row in rows] == [
        (item.example.input, item.label, item.log_odds) for item in result.labeled_examples
    ]
    card = files["README.md"].decode()
    assert header_of(files["README.md"])["license"] == "unknown"
    assert header_of(files["README.md"])["configs"][0]["data_files"] == [{"split": "train", "path": "train.jsonl"}]
    true = sum(item.label == "True" for item in result.labeled_examples)
    for text in (
        "machine-made",
        "org/model-8b",
        "abc123",
        '"alpha": 50.0',
        f"| True | {true} |",
        "accuracy is not known",
    ):
        assert text in card
    assert "secret" not in card and TOKEN not in card
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_exporter_pushes_with_the_given_names(hub: FakeHub) -> None:
    result = claims(2, 2, seed=2)
    url = ICMExporter().export_to_huggingface(
        result.labeled_examples, repo_id="me/snippet", task_type="classification", model_name="google/gemma-3-1b-it"
    )
    card = hub.files["datasets/me/snippet"]["README.md"].decode()
    assert url.endswith("/datasets/me/snippet") and "| model | google/gemma-3-1b-it |" in card
    assert "classification" in header_of(card.encode())["tags"]


def test_gold_puts_accuracy_on_the_card_and_collapse_a_warning(hub: FakeHub, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    rows = [{"text": f"note {n}", "label": ["good", "bad"][n % 2]} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from icm.results.format import LabeledExample
    from icm.tasks import DataSource, load_task

    data = load_task(DataSource(str(path), "classification"))
    record = RunRecord(data=DataRecord(DataSource(str(path), "classification")))
    items = [LabeledExample(example, "good") for example in data.dataset]
    push_labels(ICMResult(items, None, data.dataset.label_space, record=record), "me/gold")
    card = hub.files["datasets/me/gold"]["README.md"].decode()
    assert "6 of 12 labels (50.0%" in card and "collapsed" in card
    assert "notes.jsonl" in card and str(tmp_path) not in card


@pytest.mark.parametrize("name", [None, "data/train.jsonl"])
def test_exported_file_keeps_its_bytes(hub: FakeHub, tmp_path: Path, name: str | None) -> None:
    export = ICMExporter().export_to_sft_format(moods(1), tmp_path / "sft.jsonl")
    push_file(export.path, "me/moods", file_name=name, private=True, result=moods(1))
    files = hub.files["datasets/me/moods"]
    assert files[name or "sft.jsonl"] == export.path.read_bytes() and hub.repos["me/moods"] is True
    assert "| joy |" in files["README.md"].decode()
    assert header_of(files["README.md"])["configs"][0]["data_files"][0]["path"] == (name or "sft.jsonl")


def test_unknown_file_gets_a_card_only_where_there_is_none(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "dpo.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    push(tmp_path / "dpo.jsonl", "me/pairs")
    assert "does not say which model" in hub.files["datasets/me/pairs"]["README.md"].decode()
    hub.files["datasets/me/pairs"]["README.md"] = b"written by hand"
    push(tmp_path / "dpo.jsonl", "me/pairs", file_name="second.jsonl")
    assert set(hub.files["datasets/me/pairs"]) == {"dpo.jsonl", "second.jsonl", "README.md"}
    assert hub.files["datasets/me/pairs"]["README.md"] == b"written by hand"


LOCAL_NAMES = (
    "/home/somebody/models/tiny",
    r"C:\Users\somebody\models\tiny",
    "D:/somebody/tiny",
    "~/somebody/tiny",
    "./somebody/tiny",
    "../somebody/tiny/",
    r"..\somebody\tiny",
    "file:///home/somebody/tiny",
    "data/of/somebody/tiny",
)


@pytest.mark.parametrize("name", LOCAL_NAMES)
def test_a_result_is_published_as_its_examples_without_local_names(hub: FakeHub, tmp_path: Path, name: str) -> None:
    settings = {
        "data": {"dataset": f"{name}.jsonl"},
        "engine": {"model": name},
        "output": {"output_dir": name},
        "search": {"alpha": 50.0, "notes": name},
    }
    source = {"dataset": f"{name.rstrip('/')}.jsonl"}
    result = claims(
        3, 2, seed=3, model={"name": name, "adapter": name}, data={"source": source}, settings=settings, home=name
    )
    write_result(tmp_path / "r.jsonl", result)
    push(tmp_path / "r.jsonl", "me/result")
    files = hub.files["datasets/me/result"]
    assert not [file for file, content in files.items() if b"somebody" in content]
    card = files["README.md"].decode()
    assert "| model | tiny |" in card and "| adapter | tiny |" in card and "| data | tiny.jsonl |" in card
    push_labels(result, "me/labels")
    assert hub.files["datasets/me/labels"]["train.jsonl"] == files["r.jsonl"]


def test_what_is_pushed_loads_as_the_labelled_examples(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    result = claims(4, 3, seed=8, settings={"output": {"output_dir": "/home/somebody"}})
    write_result(tmp_path / "r.jsonl", result)
    push(tmp_path / "r.jsonl", "me/result", file_name="data/labels.jsonl")
    (tmp_path / "pushed").mkdir()
    for name, content in hub.files["datasets/me/result"].items():
        (tmp_path / "pushed" / Path(name).name).write_bytes(content)
    (path,) = (tmp_path / "pushed").glob("*.jsonl")
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["id", "input", "label", "log_odds", "group", "metadata"]
    assert loaded["input"][:] == [item.example.input for item in result.labeled_examples]
    assert loaded["label"][:] == [item.label for item in result.labeled_examples]


def test_files_of_codelion_are_published_as_examples_too(hub: FakeHub, tmp_path: Path) -> None:
    rows = [{"input": f"text {n}", "label": ["True", "False"][n % 2], "metadata": {}} for n in range(4)]
    header = {"type": "icm_metadata", "convergence_info": {}, "metadata": {"dataset": "/home/somebody/x.jsonl"}}
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]))
    push(tmp_path / "old.jsonl", "me/old")
    files = hub.files["datasets/me/old"]
    assert len(files["old.jsonl"].splitlines()) == 4 and b"somebody" not in b"".join(files.values())


@pytest.mark.parametrize("form", ["json", "analysis"])
def test_exports_that_repeat_the_first_line_are_published_without_local_paths(
    hub: FakeHub, tmp_path: Path, form: str
) -> None:
    settings = {"engine": {"model": "/home/somebody/tiny"}, "search": {"seed": 3}}
    data = {"source": {"dataset": "/home/somebody/gone.jsonl", "claims": "/home/somebody/generated/c.jsonl"}}
    write_result(
        tmp_path / "r.jsonl", claims(2, 2, 5, settings=settings, data=data, model={"name": "/home/somebody/tiny"})
    )
    for ending in ("json",) if form == "json" else ("json", "html", "md"):
        words = ["--input-path", tmp_path / "r.jsonl", "--output-path", tmp_path / f"e.{ending}", "--format", form]
        assert main(["export", *map(str, words), "--hf-push", "--hf-repo-id", "me/export"]) == 0
        content = hub.files["datasets/me/export"][f"e.{ending}"]
        assert b"somebody" not in content and b"tiny" in content


def test_html_in_cards_is_text(hub: FakeHub) -> None:
    space = LabelSpace(("<b>up</b>", "down & out"), (" up", " down"))
    items = [replace(item, label="<b>up</b>") for item in moods(1, 6).labeled_examples]
    record = RunRecord(model=ModelRecord("<script>alert(1)</script>"), algorithm="<img src=x>")
    push_labels(ICMResult(items, None, space, "classification", record), "me/html")
    card = hub.files["datasets/me/html"]["README.md"].decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card and "&lt;b&gt;up&lt;/b&gt;" in card and "&amp; out" in card
    for raw in ("<script", "<img", "<b>"):
        assert raw not in card.partition("\n---\n")[2]


CONFIG = {"base_model_name_or_path": "/home/somebody/models/tiny", "peft_type": "LORA", "r": 8}


def adapter(folder: Path) -> Path:
    contents = {
        "adapter_config.json": json.dumps(CONFIG).encode(),
        "train_results.json": json.dumps({"model": "/home/somebody/tiny", "steps": 3}).encode(),
        "environment.json": b'{"platform": "Linux"}\n',
        "notes.txt": b"/home/somebody",
        "trainer_state.json": b'{"best": "/home/somebody"}',
        "adapter_model.safetensors": bytes(range(256)) * 8,
        "README.md": b"---\nlicense: apache-2.0\n---\n# adapter\n",
        "tokenizer.json": b"{}",
        "training_args.bin": b"pickle",
        "config.yaml": b"labels: /home/somebody",
        "checkpoint-3/adapter_model.safetensors": b"old",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_adapter_goes_to_a_model_repository(hub: FakeHub, tmp_path: Path) -> None:
    assert push(adapter(tmp_path / "out"), "me/adapter", private=True) == f"{hub.address}/me/adapter"
    files = hub.files["models/me/adapter"]
    weights = {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    assert set(files) == weights | {"train_results.json", "environment.json"}
    assert not [name for name, content in files.items() if b"somebody" in content]
    assert json.loads(files["adapter_config.json"]) == {**CONFIG, "base_model_name_or_path": "tiny"}
    assert files["environment.json"] == b'{"platform": "Linux"}\n'
    assert files["adapter_model.safetensors"] == bytes(range(256)) * 8


@pytest.mark.parametrize("name", ["vocab.txt", "loss.png", "adapter_model.safetensors"])
def test_no_file_of_another_folder_is_published(hub: FakeHub, tmp_path: Path, name: str) -> None:
    """A link in somebody's adapter folder may point to a private file."""
    folder = adapter(tmp_path / "out")
    (tmp_path / "id_rsa").write_bytes(b"private")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(DataError, match=f"{name}: a link to a file elsewhere"):
        push_adapter(folder, "me/adapter")
    assert hub.requests == []


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_incomplete_adapter_is_refused_before_any_request(hub: FakeHub, tmp_path: Path, missing: str) -> None:
    (adapter(tmp_path / "out") / missing).unlink()
    with pytest.raises(DataError, match=missing):
        push_adapter(tmp_path / "out", "me/adapter")
    assert hub.requests == []


def test_missing_token_is_told_before_any_request(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_login"))
    with pytest.raises(PrerequisiteError, match="HF_TOKEN"):
        push_labels(moods(1), "me/moods")
    assert hub.requests == []
    (tmp_path / "no_login").write_text("hf_fromTheLogin\n")
    push_labels(moods(1), "me/moods")
    assert hub.tokens == {"Bearer hf_fromTheLogin"}


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "me/na me", "-x/y", "me/.."])
def test_bad_repository_names_are_refused(hub: FakeHub, repo_id: str) -> None:
    with pytest.raises(ConfigError, match="hf_repo_id"):
        push_labels(moods(1), repo_id)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up.jsonl", "README.md"])
def test_bad_file_names_are_refused(hub: FakeHub, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="file_name"):
        push_file(tmp_path / "a.jsonl", "me/a", file_name=name)
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        push_file(tmp_path / "absent.jsonl", "me/a")
    assert hub.requests == []


def test_private_is_never_public(hub: FakeHub) -> None:
    hub.repos["me/open"] = False
    with pytest.raises(ConfigError, match="exists and is public"):
        push_labels(moods(1), "me/open", private=True)
    assert hub.files == {}
    push_labels(moods(1), "me/open")
    assert set(hub.files["datasets/me/open"]) == {"train.jsonl", "README.md"}


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("/create", 401, "answered 401.*token is not valid"),
        ("/create", 403, "answered 403.*may not write"),
        ("/create", 500, "answered 500.*try again later"),
        ("/commit/", 401, "answered 401.*token is not valid"),
        ("/commit/", 403, "answered 403.*may not write"),
        ("/commit/", 404, "answered 404.*no such repository"),
        ("/commit/", 409, "answered 409.*run the command again"),
        ("/preupload/", 422, "answered 422.*refused"),
    ],
)
def test_server_errors_give_one_line(
    hub: FakeHub, caplog: pytest.LogCaptureFixture, where: str, status: int, said: str
) -> None:
    hub.fail[where] = (status, f"no,\nnot with {TOKEN}")
    with caplog.at_level(logging.DEBUG), pytest.raises(PrerequisiteError, match=said) as caught:
        push_labels(moods(1), "me/moods")
    assert "\n" not in str(caught.value) and hub.files == {}
    assert TOKEN not in str(caught.value) and TOKEN not in caplog.text


def test_unreachable_server_and_offline_mode(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrerequisiteError, match="cannot be reached"):
        push_labels(moods(1), "me/moods")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PrerequisiteError, match="offline"):
        push_labels(moods(1), "me/moods")


def test_settings_of_search_alone_are_published(hub: FakeHub) -> None:
    result = replace(moods(1), record=RunRecord(settings={"data": {"dataset": "/home/x"}}))
    push_labels(result, "me/plain")
    assert "## Settings" not in hub.files["datasets/me/plain"]["README.md"].decode()
