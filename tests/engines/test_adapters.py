"""Adapters that PEFT or vLLM will refuse are refused in one line before a model loads; the others pass."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support.engine_models import save_tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig

from icm.config import EngineConfig
from icm.engines import check_engine, create_engine
from icm.engines.adapters import check_adapter, read_adapter
from icm.engines.worker_output import WorkerOutput
from icm.errors import ConfigError, ICMError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny")


def save(model: Path, folder: Path, **settings: Any) -> Path:
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]} | settings
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(**settings)).save_pretrained(folder)
    return folder


def refusal(adapter: Path | str, model: Path, engine: str = "transformers") -> str:
    with pytest.raises(ICMError) as caught:
        check_adapter(str(adapter), str(model), None, engine)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"use_rslora": True, "rank_pattern": {"v_proj": 200}}, None),
        ({"target_modules": "all-linear"}, None),
        ({"modules_to_save": ["lm_head"]}, "saves whole modules (modules_to_save: lm_head)"),
        ({"bias": "all"}, "bias: all"),
        ({"use_dora": True}, "use_dora"),
        ({"r": 600}, "rank 600 (vLLM takes at most 512)"),
        ({"rank_pattern": {"v_proj": 513}}, "rank 513"),
    ],
    ids=str,
)
def test_what_vllm_cannot_load_is_named_with_the_way_out(
    settings: dict[str, Any], said: str | None, model: Path, tmp_path: Path
) -> None:
    folder = save(model, tmp_path / "adapter", **settings)
    adapter = check_adapter(str(folder), str(model), None, "transformers")
    if said is None:
        assert check_adapter(str(folder), str(model), None, "vllm").vllm_rank >= adapter.rank
    else:
        message = refusal(folder, model, "vllm")
        assert said in message and "scripts/merge_adapter.py, or use --engine transformers" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": ""}, "peft_type: found ''"),
        ({"peft_type": {}}, "peft_type: found a dict"),
        ({"peft_type": "MAGIC"}, "peft_type: found 'MAGIC', expected LORA"),
        ({"task_type": "SEQ_CLS"}, "task_type: found 'SEQ_CLS'"),
        ({"r": "eight"}, "r: found 'eight', expected the rank"),
        ({"r": 0}, "r: found 0"),
        ({"target_modules": ""}, "target_modules: found ''"),
        ({"target_modules": 1.5}, "target_modules: found 1.5"),
        ({"target_modules": ["c_attn"]}, "PEFT cannot apply it to model"),
        ({"target_modules": ["q_proj", "k_proj"]}, "does not fit model"),
        ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern: found a dict"),
        ({"bias": 5}, "PEFT cannot apply it to model"),
        ({"base_model_name_or_path": [1]}, "base_model_name_or_path: found a list"),
    ],
    ids=str,
)
def test_settings_that_peft_does_not_take(change: dict[str, Any], said: str, model: Path, tmp_path: Path) -> None:
    path = save(model, tmp_path / "adapter") / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in refusal(path.parent, model)


def test_folders_that_hold_no_adapter(model: Path, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "adapter")
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    assert "no such folder" in refusal(tmp_path / "nowhere", model)
    assert "no such folder" in refusal("nowhere", model) and "no such folder" in refusal("x" * 3000, model)
    assert "the hub gives no adapter of that name" in refusal("outputs/adaptr", model)
    assert "a file" in refusal(weights, model)
    assert "a model, not an adapter" in refusal(model, model)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "broken or cut" in refusal(folder, model)
    weights.rename(folder / "adapter_model.bin")
    assert "adapter_model.bin is pickled" in refusal(folder, model)
    (folder / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors; train it to the end" in refusal(folder, model)
    for content, said in ((b"{", "not valid JSON"), (b"[]", "expected a JSON object"), (b'{"r": "\xfd"}', "not UTF-8")):
        settings.write_bytes(content)
        assert said in refusal(folder, model)


def test_soft_prompts_are_no_weights(model: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(tmp_path / "soft")
    assert "peft_type: found 'PROMPT_TUNING'" in refusal(tmp_path / "soft", model)


@pytest.mark.parametrize("sizes", [{"hidden_size": 24}, {"num_hidden_layers": 3}, {"num_hidden_layers": 5}], ids=str)
def test_an_adapter_of_another_model_is_refused(sizes: dict[str, int], model: Path, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "adapter")
    config = LlamaConfig.from_pretrained(model)
    for name, value in sizes.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    assert "does not fit model" in refusal(folder, tmp_path / "other")


def test_names_that_can_be_compared_are_compared(model: Path, tmp_path: Path) -> None:
    path = save(model, tmp_path / "adapter") / "adapter_config.json"

    def named(base: str, asked: str, revision: str | None = None) -> None:
        settings = {"base_model_name_or_path": base, "revision": "a1"}
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        check_adapter(str(path.parent), asked, revision, "transformers")

    with pytest.raises(ConfigError, match=r"adapts meta-llama/Llama-3\.1-8B, but the model is embedded"):
        named("meta-llama/Llama-3.1-8B", "embedded")
    named("/home/somebody/models/llama", str(model))  # may be the same weights: their shapes are
    with pytest.raises(ConfigError, match="adapts revision a1 of org/base, but revision is b2"):
        named("org/base", "org/base", "b2")
    assert read_adapter(path.parent).base == "org/base"


def test_engines_check_before_they_load(model: Path, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text("{}")
    config = EngineConfig(model=str(model), device="cpu", adapter=str(folder))
    for start in (check_engine, create_engine):
        with pytest.raises(ConfigError, match="peft_type: found None"):
            start(config)


def test_a_broken_model_is_one_line(model: Path, tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "broken")
    weights = folder / "model.safetensors"
    whole, settings = weights.read_bytes(), json.loads((folder / "config.json").read_text())
    weights.write_bytes(whole[:1000])
    with pytest.raises(ICMError, match="cannot be loaded"):
        create_engine(EngineConfig(model=str(folder), device="cpu"))
    weights.write_bytes(whole)
    (folder / "config.json").write_text(json.dumps(settings | {"vocab_size": 150}))
    with pytest.raises(ICMError, match="cannot be loaded"):
        create_engine(EngineConfig(model=str(folder), device="cpu"))


def test_what_a_worker_said_last_is_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    output = WorkerOutput()
    assert output.cause(RuntimeError("no\nroom")) == "no room"
    script = (
        "print('Traceback'); print('(EngineCore pid=1) ERROR [core.py:1] KeyError: 3');"
        "print('(EngineCore pid=1) ERROR [core.py:1] ValueError: vLLM only supports this');"
        "print('vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.')"
    )
    with output.taken():
        process = subprocess.Popen([sys.executable, "-c", script])
        os.write(1, b"hidden\n")
    process.wait()
    os.write(1, b"shown\n")
    assert output.cause(RuntimeError("EngineDeadError")) == "ValueError: vLLM only supports this"
    assert capfd.readouterr().out == "shown\n"
    assert "often for lack of memory" in WorkerOutput().cause(RuntimeError(""))
