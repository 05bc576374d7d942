"""vLLM beside the transformers engine: how far their numbers agree, and what one engine for many adapters saves.

    python scripts/compare_engines.py agreement --items 200 --shots 16
    python scripts/compare_engines.py adapters --count 6

`agreement` asks both engines for the label log-odds of the same reviews behind the same demonstrations, with the model
in bfloat16 and in float32, and prints the largest and the root mean square difference in nats, and exact ties.
`adapters` asks a base model and so many adapters in turn, as an evaluation does, with one vLLM that takes all adapters
and with one for each, and prints seconds and starts.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.conditions.pool import EnginePool
from icm.config import EngineConfig
from icm.engines import create_engine
from icm.engines.base import Engine
from icm.errors import ICMError
from icm.models import resolve_model
from icm.prompts import PromptEncoder, shared_context_tree
from icm.tasks import load_task
from icm.tasks.source import DataSource


def log_odds(engine: Engine, items: int, shots: int) -> NDArray[np.float64]:
    """Of the first label against the second, [items], behind one context of so many reviews with alternating labels."""
    dataset = load_task(DataSource("reviews")).dataset
    encoder, labels = PromptEncoder(engine.tokenizer, dataset.label_space), dataset.label_space.labels
    context = encoder.prefix
    for place, example in enumerate(dataset.examples[:shots]):
        context += encoder.demonstration(example, labels[place % 2])
    queries = [encoder.query(example) for example in dataset.examples[shots : shots + items]]
    scores = engine.score_labels(shared_context_tree(context, queries), encoder.labels)
    found: NDArray[np.float64] = scores[:, 0] - scores[:, 1]
    return found


def agreement(config: EngineConfig, items: int, shots: int) -> Iterator[str]:
    """A line for each pair of (engine, precision)."""
    found = {}
    for name in ("transformers", "vllm"):
        for dtype in ("bfloat16", "float32"):
            with create_engine(replace(config, engine=name, dtype=dtype)) as engine:
                found[f"{name} {dtype}"] = log_odds(engine, items, shots)
    yield f"{'log-odds of':22} {'and of':22} {'largest':>8} {'rms':>8}  exact ties"
    for one, other in combinations(found, 2):
        difference = found[one] - found[other]
        ties = [int((found[name] == 0).sum()) for name in (one, other)]
        largest, rms = np.abs(difference).max(), np.sqrt(np.mean(difference**2))
        yield f"{one:22} {other:22} {largest:8.4f} {rms:8.4f}  {ties[0]}, {ties[1]} of {len(difference)}"


def save_adapters(model: str, folder: Path, count: int) -> list[str]:
    """Folders of random LoRA adapters of the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    saved = []
    for number in range(count):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(resolve_model(model), dtype="bfloat16")
        lora = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(base, lora).save_pretrained(str(folder / str(number)))
        saved.append(str(folder / str(number)))
    return saved


def adapters(config: EngineConfig, count: int, items: int, shots: int) -> Iterator[str]:
    """A line with all adapters known to the engine, and one with a new engine for each."""
    with tempfile.TemporaryDirectory() as folder:
        names = [None, *save_adapters(config.model, Path(folder), count)]
        wanted = [replace(config, engine="vllm", adapter=name) for name in names]
        for kind, known in (("one engine for all", wanted), ("an engine for each", [])):
            started = time.perf_counter()
            with EnginePool(known) as pool:
                for one in wanted:
                    log_odds(pool.get(one), items, shots)
                starts = pool.starts
            yield f"{kind}: base and {count} adapters, {time.perf_counter() - started:.0f} s, {starts} starts"


def main(words: Sequence[str]) -> int:
    """Run a comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=["agreement", "adapters"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--count", type=int, default=6, help="adapters")
    given = parser.parse_args(words)
    config = EngineConfig(model=given.model, max_model_len=2048, kv_cache_gib=1, enforce_eager=True)
    lines = (
        agreement(config, given.items, given.shots)
        if given.comparison == "agreement"
        else adapters(config, given.count, given.items, given.shots)
    )
    try:
        for line in lines:
            print(line, flush=True)
    except ICMError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
