"""What the engines share: checks before running, names of tree nodes, stop strings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from icm.config import EngineConfig
from icm.errors import ConfigError, ICMError, PrerequisiteError
from icm.markdown import local_path
from icm.models import CONTENT, is_embedded, resolve_model, resolve_tokenizer, weights_hash
from icm.prompts import PromptTree

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def path_key(parent: bytes, segment: Sequence[int]) -> bytes:
    """Name of a node: a chained hash of the segments from the root (`parent` is b"" there).

    Two paths of the same tokens that are cut at other places are two names: the cuts decide the shapes of the
    computation, and so its last bits.
    """
    return blake2b(repr((parent, tuple(segment))).encode(), digest_size=16).digest()


def model_files(config: EngineConfig) -> tuple[str, str | None]:
    """What a model's tokenizer and configuration are loaded from, and the hub revision.

    Raises:
        ConfigError: there is no such thing; for a name that only the server knows, how to say whose tokenizer it has.
    """
    if config.engine != "server":
        return resolve_model(config.model, config.revision), config.revision
    if config.tokenizer is not None:
        return resolve_tokenizer(config.tokenizer), None
    try:
        return resolve_tokenizer(config.model, config.revision), config.revision
    except ConfigError:
        if local_path(config.model) or config.revision is not None:
            raise
        raise ConfigError(
            f"model {config.model}: the server's own name, which does not say whose tokenizer it has; "
            "give --tokenizer NAME (a hub name or a folder)"
        ) from None


def model_folder(config: EngineConfig) -> Path | None:
    """Where the model lies on this machine; None for one of the hub, or that only a server knows."""
    if config.engine == "server" and not is_embedded(config.model):
        return local_path(config.model)
    folder = Path(resolve_model(config.model, config.revision))
    return folder if folder.is_dir() else None


def content(config: EngineConfig) -> dict[str, str]:
    """Hashes of what lies in folders of this machine, where a name says nothing of the content: model, adapter and
    tokenizer, by setting."""
    folders = {
        "model": model_folder(config),
        "adapter": config.adapter and local_path(config.adapter),
        "tokenizer": config.tokenizer and local_path(config.tokenizer),
    }
    return {f"{CONTENT}{name}": weights_hash(folder) for name, folder in folders.items() if folder}


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Say in one line why transformers cannot load (a part of) a model."""
    # Broken files make transformers, tokenizers and safetensors raise what they like.
    try:
        yield
    except ICMError:
        raise
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        from huggingface_hub import constants

        if (
            constants.HF_HUB_OFFLINE
            and isinstance(error, OSError)
            and local_path(model) is None
            and not is_embedded(model)
        ):
            raise PrerequisiteError(
                f"model {model}: not among the models that were downloaded, and HF_HUB_OFFLINE keeps it from the hub; "
                "check the name, unset HF_HUB_OFFLINE (gated models need HF_TOKEN), or give a local folder"
            ) from error
        raise PrerequisiteError(
            f"model {model}: cannot be loaded; check the name, --revision and the connection "
            f"(gated models need HF_TOKEN, see `icm doctor`), or give a local folder ({found})"
        ) from error


def check_lengths(tree: PromptTree, context_length: int) -> None:
    """Raise ConfigError if a prompt of the tree does not fit the context."""
    if tree.longest_prompt > context_length:
        raise ConfigError(
            f"prompt of {tree.longest_prompt} tokens does not fit the context of {context_length}; "
            "use fewer demonstrations (--batch-size), shorter examples, or a larger --max-model-len"
        )


def check_room(prompt: int, new: int, context_length: int) -> None:
    """Raise ConfigError if a prompt leaves no room for the tokens to be sampled."""
    if prompt + new > context_length:
        raise ConfigError(
            f"prompt of {prompt} tokens and {new} generated ones do not fit the context of {context_length}; "
            "lower --generation-max-tokens or shorten the prompt"
        )


def context_length(model_config: "PreTrainedConfig", limit: int | None) -> int:
    """Longest prompt in tokens: the model's own, or the smaller one the user set.

    Raises:
        ConfigError: the limit is not within the model's context, or the model does not say what that is.
    """
    own = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if own is None:
        raise ConfigError(
            f"{model_config.model_type} models are not supported: they do not say how long their context is"
        )
    if limit is not None and not 0 < limit <= own:
        raise ConfigError(f"max_model_len: found {limit}, expected 1 to {own}, the model's context in tokens")
    return limit or own


def kv_numbers_per_token(model_config: "PreTrainedConfig") -> int:
    """Keys and values of one token in all layers: how many numbers."""
    text = model_config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_dim)


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text in front of the first stop string."""
    return text[: min((position for end in stop if (position := text.find(end)) >= 0), default=len(text))]
