"""LoRA adapters: what PEFT or vLLM will refuse is refused here, in one line, before a model loads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icm.errors import ConfigError
from icm.files import JsonObject, read_object
from icm.markdown import is_local_name, local_path
from icm.models import is_hub_name, model_label, resolve_model

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as max_lora_rank."""
_PICKLES = ("adapter_model.bin", "adapter_model.pt")
_FOLDER = "expected the folder of train/run.py, or one of PEFT's save_pretrained()"
_MERGE = "merge it first with scripts/merge_adapter.py, or use --engine transformers"
_OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")
# Such weights start from a changed base model, which vLLM does not have.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
_UNKNOWN_TO_VLLM = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder whose files are there and say what they must.

    Attributes:
        name: as the user gave it.
        folder: where it lies here.
        settings: content of adapter_config.json.
    """

    name: str
    folder: Path
    settings: JsonObject

    @property
    def base(self) -> str | None:
        """The model it was trained on, as far as it says."""
        return self.settings.get("base_model_name_or_path") or None

    @property
    def revision(self) -> str | None:
        """Hub revision of `base`."""
        return self.settings.get("revision") or None

    @property
    def is_lora(self) -> bool:
        """Whether it is LoRA, and no other kind that PEFT knows."""
        return self.settings["peft_type"] == "LORA"

    @property
    def rank(self) -> int:
        """The largest rank of its matrices."""
        return max(self.settings["r"], *(self.settings.get("rank_pattern") or {}).values(), 0)

    @property
    def vllm_rank(self) -> int:
        """Smallest max_lora_rank of vLLM that holds it."""
        return next(size for size in LORA_RANKS if size >= self.rank)


def read_adapter(name: str | Path) -> Adapter:
    """The adapter in a folder, or of that name on the hub.

    Raises:
        ICMError: no adapter is there, or PEFT cannot read it.
    """
    folder = _folder(str(name))
    path = folder / CONFIG_FILE
    if not path.is_file():
        model = (folder / "config.json").is_file()
        found = "a model, not an adapter: give it as model" if model else f"no {CONFIG_FILE}; {_FOLDER}"
        raise ConfigError(f"adapter {name}: {found}")
    settings = read_object(path)
    _check_settings(settings, path)
    _check_weights(folder, name)
    return Adapter(str(name), folder, settings)


def check_adapter(name: str, model: str, revision: str | None, engine: str) -> Adapter:
    """`read_adapter`, and whether the adapter fits the model and the engine that loads it.

    Raises:
        ICMError: it does not.
    """
    adapter = read_adapter(name)
    _check_base(adapter, model, revision)
    if engine == "vllm":
        for reason in _refused_by_vllm(adapter):
            raise ConfigError(f"adapter {name}: {reason}, which vLLM cannot load; {_MERGE}")
    check_fit(adapter, model, revision)
    return adapter


@contextmanager
def applying(adapter: Adapter, model: str) -> Iterator[None]:
    """Say in one line what PEFT finds wrong when it applies the adapter to the model."""
    # PEFT and safetensors raise what they like: ValueError, RuntimeError, KeyError, SafetensorError.
    try:
        yield
    except Exception as error:
        found = " ".join(str(error).split())[:300]
        raise ConfigError(f"adapter {adapter.name}: PEFT cannot apply it to model {model} ({found})") from error


def _folder(name: str) -> Path:
    folder = local_path(name)
    if folder is not None and folder.is_dir():
        return folder
    if folder is not None:
        raise ConfigError(f"adapter {name}: a file; {_FOLDER}")
    if is_local_name(name) or "/" not in name or not is_hub_name(name):
        raise ConfigError(f"adapter {name[:200]}: no such folder; {_FOLDER}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, allow_patterns=["adapter_*"]))
    except (HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError):
        raise ConfigError(
            f"adapter {name}: no such folder, and the hub gives no adapter of that name; {_FOLDER}"
        ) from None


def _check_settings(settings: JsonObject, path: Path) -> None:
    """Raise ConfigError for settings that PEFT does not take."""
    kind = settings.get("peft_type")
    if kind != "LORA" and (not isinstance(kind, str) or kind not in _mergeable()):
        raise _wrong(path, "peft_type", kind, "LORA, or another type that PEFT can merge into its base model")
    if settings.get("task_type") in _OTHER_TASKS:
        raise _wrong(path, "task_type", settings["task_type"], "CAUSAL_LM, an adapter of a language model")
    for key in ("base_model_name_or_path", "revision"):
        if not isinstance(settings.get(key), str | None):
            raise _wrong(path, key, settings[key], "text or null")
    if kind != "LORA":
        return
    rank, ranks = settings.get("r"), settings.get("rank_pattern") or {}
    if not _whole(rank):
        raise _wrong(path, "r", rank, "the rank, a whole number above 0")
    if not isinstance(ranks, dict) or not all(map(_whole, ranks.values())):
        raise _wrong(path, "rank_pattern", ranks, "a rank for each pattern of module names")
    alpha = settings.get("lora_alpha", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise _wrong(path, "lora_alpha", alpha, "a number")
    if not _module_names(settings.get("target_modules")) and not settings.get("target_parameters"):
        raise _wrong(path, "target_modules", settings.get("target_modules"), "names of modules")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _module_names(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name for name in names)


def _wrong(path: Path, key: str, value: object, expected: str) -> ConfigError:
    # Not repr: it may be nested too deeply for that.
    found = f"{value!r:.80}" if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return ConfigError(f"{path}: {key}: found {found}, expected {expected}")


def _mergeable() -> frozenset[str]:
    """Kinds of adapters that become part of the weights; soft prompts do not."""
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    return frozenset(
        str(kind.value) for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if hasattr(tuner, "merge_and_unload")
    )


def _check_weights(folder: Path, name: str | Path) -> None:
    """The weights are there, no pickles, and whole: the file's header says how long it is."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickle = next((file for file in _PICKLES if (folder / file).is_file()), None)
        found = f"; {pickle} is pickled, which can run code when loaded: save it as safetensors" if pickle else ""
        raise ConfigError(f"adapter {name}: no {WEIGHTS_FILE}{found or '; train it to the end'}")
    _shapes(path)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: broken or cut ({error}); copy it again, or train the adapter again") from None


def _check_base(adapter: Adapter, model: str, revision: str | None) -> None:
    """Names that can be compared are compared; those of folders say nothing about what lies in them."""
    base = adapter.base
    if base is None or is_local_name(base) or is_local_name(model):
        return
    if model_label(base).casefold() != model_label(model).casefold():
        raise ConfigError(
            f"adapter {adapter.name}: adapts {base}, but the model is {model}; give that model, or correct "
            f"base_model_name_or_path in its {CONFIG_FILE} if both are the same weights"
        )
    if base == model and None not in (revision, adapter.revision) and revision != adapter.revision:
        raise ConfigError(
            f"adapter {adapter.name}: adapts revision {adapter.revision} of {base}, but revision is {revision}"
        )


def _refused_by_vllm(adapter: Adapter) -> Iterator[str]:
    """Why vLLM would not load it (vllm/lora/peft_helper.py)."""
    settings = adapter.settings
    init = settings.get("init_lora_weights")
    changed = isinstance(init, str) and init.lower().startswith(_CHANGED_BASE)
    reasons: Mapping[str, object] = {
        f"is of type {settings['peft_type']}, not LORA": not adapter.is_lora,
        f"saves whole modules (modules_to_save: {_list(settings.get('modules_to_save'))})": settings.get(
            "modules_to_save"
        ),
        f"trains biases (bias: {settings.get('bias')})": settings.get("bias") not in (None, "none"),
        f"changes the base model (init_lora_weights: {init})": changed,
        **{f"sets {key}": settings.get(key) for key in _UNKNOWN_TO_VLLM},
    }
    yield from (reason for reason, holds in reasons.items() if holds)
    if adapter.is_lora and adapter.rank > LORA_RANKS[-1]:
        yield f"has rank {adapter.rank} (vLLM takes at most {LORA_RANKS[-1]})"


def _list(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names)


def check_fit(adapter: Adapter, model: str, revision: str | None) -> None:
    """Compare LoRA weights with those it would have on the model, by name and shape; no weights are read.

    Raises:
        ConfigError: PEFT would refuse them, or leave some out without a word.
    """
    found = _shapes(adapter.folder / WEIGHTS_FILE)
    expected = _expected_shapes(adapter, model, revision) if adapter.is_lora else None
    if expected is None:
        return
    missing = next((key for key in expected if key not in found), None)
    surplus = next((key for key in found if ".lora_" in key and key not in expected), None)
    other = next((key for key in expected.keys() & found.keys() if expected[key] != found[key]), None)
    if other is not None:
        reason = f"{other} has the shape {found[other]}, where the model needs {expected[other]}"
    elif missing is not None:
        reason = f"it has no weights {missing}"
    elif surplus is not None:
        reason = f"the model has no place for {surplus}"
    else:
        return
    stated = f" (it names {adapter.base})" if adapter.base else ""
    raise ConfigError(f"adapter {adapter.name}: does not fit model {model}{stated}: {reason}; give its own base model")


def _expected_shapes(adapter: Adapter, model: str, revision: str | None) -> dict[str, tuple[int, ...]] | None:
    """Name → shape of the weights of such an adapter of the model; None if transformers cannot build the model."""
    import torch
    from peft import get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(resolve_model(model, revision), revision=revision)
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):  # told by whoever loads the model
        return None
    with applying(adapter, model):
        peft_model = _on_meta(adapter, base)
        weights = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


def _on_meta(adapter: Adapter, base: "nn.Module") -> "PeftModel":
    import torch
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapter.folder))
    # Some initialisations compute with the base model's weights, which are not there.
    config.init_lora_weights = False
    with torch.device("meta"):
        return PeftModel(base, config)
