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

from icm.doors import door
from icm.engines.adapters import applying, check_fit, read_adapter
from icm.engines.common import loading
from icm.errors import ConfigError
from icm.models import resolve_model
from icm.secrets import load_secrets
from icm.text import say


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", help="base model, where it is not the one that the adapter names")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    arguments = parser.parse_args(words)

    def run() -> None:
        load_secrets(Path.cwd())
        merge(**vars(arguments))
        say(f"merged model written to {arguments.output}")

    return door("error", run)


def merge(adapter: str | Path, output: Path, base: str | None = None, dtype: str = "auto") -> None:
    """Write base + adapter as one model.

    Args:
        adapter: folder with adapter_config.json.
        output: new folder.
        base: model name, None for the one in adapter_config.json.
        dtype: precision of the merged weights; `auto` is the base model's.

    Raises:
        ICMError: no adapter there, or it does not fit the base model, or `output` exists.
    """
    found = read_adapter(adapter)
    if output.exists():
        raise ConfigError(f"{output}: exists already; choose another folder or remove it")
    name, revision = (base, None) if base else (found.base, found.revision)
    if name is None:
        raise ConfigError(f"adapter {adapter}: names no base model; give --base")
    path = resolve_model(name, revision)
    check_fit(found, name, revision)

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with loading(name):
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision or "main", dtype=dtype)
    with applying(found, name):
        merged = PeftModel.from_pretrained(model, str(found.folder)).merge_and_unload()
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        merged.save_pretrained(work)
        own = (found.folder / "tokenizer_config.json").is_file()
        AutoTokenizer.from_pretrained(
            found.folder if own else path, revision=None if own else revision
        ).save_pretrained(work)
        work.chmod(0o755)  # mkdtemp's folders are the user's alone
        work.rename(output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
