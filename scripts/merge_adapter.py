"""Merge a LoRA adapter into its base model: a plain safetensors folder that vLLM and transformers load.

    python scripts/merge_adapter.py ADAPTER OUTPUT [--base MODEL] [--dtype bfloat16]

ADAPTER is the output folder of train/run.py. OUTPUT must not exist; it appears when it is complete.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from icm.errors import ConfigError, ICMError
from icm.files import parse_object
from icm.models import resolve_model
from icm.secrets import load_secrets


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", help="base model, where it is not the one that the adapter names")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    arguments = parser.parse_args(words)
    try:
        load_secrets(Path.cwd())
        merge(arguments.adapter, arguments.output, arguments.base, arguments.dtype)
    except ICMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"merged model written to {arguments.output}")
    return 0


def merge(adapter: Path, output: Path, base: str | None = None, dtype: str = "auto") -> None:
    """Write base + adapter as one model.

    Args:
        adapter: folder with adapter_config.json.
        output: new folder.
        base: model name, None for the one in adapter_config.json.
        dtype: precision of the merged weights; `auto` is the base model's.

    Raises:
        ConfigError: no adapter there, or `output` exists.
    """
    name, revision = _base(adapter)
    if output.exists():
        raise ConfigError(f"{output}: exists already; choose another folder or remove it")
    revision = None if base else revision
    path = resolve_model(base or name, revision)

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, revision=revision or "main", dtype=dtype)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        merged.save_pretrained(work)
        AutoTokenizer.from_pretrained(adapter).save_pretrained(work)
        work.chmod(0o755)  # mkdtemp's folders are the user's alone
        work.rename(output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _base(adapter: Path) -> tuple[str, str | None]:
    path = adapter / "adapter_config.json"
    if not path.is_file():
        raise ConfigError(f"{adapter}: no adapter_config.json; expected the output folder of train/run.py")
    config = parse_object(path.read_text(encoding="utf-8"), str(path))
    return str(config["base_model_name_or_path"]), config.get("revision")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
