"""What should a model be trained towards? Accuracy after fine-tuning on the same found labels by several targets.

    python scripts/quality_table.py --data CLAIMS.yaml reviews --seeds 3 4 5 --output quality    # label files
    python scripts/training_targets.py --data CLAIMS.yaml reviews --seeds 3 4 5 --output quality

Every adapter has the LoRA, learning rate, batches and order of rows of --recipe; what differs is the target: `all` the
label itself of every example, `surest half` and `surest quarter` of those that the labeler is surest of (`surest` in
recipes), `two epochs` all in half the steps, `weighted` all, each weighing 2p - 1 where p is the probability that the
labels of the others give its label, `soft` p itself, as a distribution over the verbalisers. The same for the true
labels of these examples (`gold`), which have no p of their own: theirs are those of the labels found.
Label files of --labelers have to be in --output. Test accuracy is that on held-out claims asked plainly, after batch
calibration and as the model gives it; `self-trained` is the share of the labels right that the model then gives the
examples of the label file. Means over seeds; the second table compares each target with `surest half` in pairs
(Student's t over data and seeds).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from quality_table import RECIPE, cell_settings, difference
from scipy.special import expit
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from icm.calibration import Array, calibrate_claims, label_bias
from icm.engines.transformers import pick_device
from icm.errors import ICMError
from icm.examples import ICMExample, TaskData, claim_of_each
from icm.models import resolve_model
from icm.prompts import PromptEncoder, Segment
from icm.results.format import ICMResult, read_result
from icm.results.twins import surest, twin
from icm.tasks import load_task
from icm.yaml_files import read_mapping
from train.rows import row_order

TARGETS = ("all", "surest half", "surest quarter", "two epochs", "weighted", "soft")
STANDARD = "surest half"


@dataclass(frozen=True)
class Row:
    """One adapter and what it is worth: test accuracy calibrated and raw, and the share of its own labels right."""

    data: str
    seed: int
    labels: str
    target: str
    calibrated: float
    raw: float
    self_trained: float


@dataclass(frozen=True)
class Task:
    """What the adapters of one label file share: its labels and true ones, and the items they are tested on."""

    encoder: PromptEncoder
    result: ICMResult
    gold: ICMResult
    test: TaskData

    def ids(self, text: str) -> Segment:
        """The prompt that asks plainly."""
        return self.encoder.prefix + self.encoder.encode(text)

    @property
    def verbalisers(self) -> list[int]:
        """The first token of each label, which differ here."""
        return [self.encoder.encode(text)[0] for text in self.result.label_space.verbalisers]


def main() -> None:
    """Train and test every target on every label file, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["reviews"])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--test-examples", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--labelers", nargs="+", default=["bootstrap", "icm"])
    parser.add_argument("--sources", nargs="+", choices=("labels", "gold"), default=["labels", "gold"])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--output", type=Path, default=Path("quality"), help="that of scripts/quality_table.py")
    given = parser.parse_args()
    try:
        rows = list(_rows(given))
    except ICMError as error:
        sys.exit(f"error: {error}")
    print(f"{table(rows)}\n\n{pairs(rows)}")


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    recipe = read_mapping(given.recipe)
    device, folder = pick_device("auto"), resolve_model(given.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    for data in given.data:
        for seed in given.seeds:
            for labeler in given.labelers:
                settings = cell_settings(given, given.model, data, seed, labeler)
                file = Path(settings.output.output_dir, f"{labeler}.jsonl")
                result = read_result(file)
                held_out = replace(settings.data, part="test", max_examples=given.test_examples)
                encoder = PromptEncoder(tokenizer, result.label_space)
                task = Task(encoder, result, twin(result, "gold", seed, file=str(file)), load_task(held_out))
                for source in given.sources:
                    labels = task.gold if source == "gold" else result
                    for target in given.targets:
                        worth = _worth(base, task, labels, target, recipe)
                        print(data, seed, labeler, source, target, *worth, file=sys.stderr)
                        yield Row(data, seed, f"{labeler} {source}", target, *worth)


def _worth(base: Any, task: Task, labels: ICMResult, target: str, recipe: dict[str, Any]) -> tuple[float, float, float]:
    """Test accuracy calibrated and raw, and own labels right, after training towards the target."""
    torch.manual_seed(recipe["seed"])
    lora = LoraConfig(r=recipe["lora_r"], lora_alpha=recipe["lora_alpha"], target_modules=recipe["lora_target_modules"])
    model = get_peft_model(base, lora)
    try:
        _train(model, task, labels, target, recipe)
        space, gold = labels.label_space.labels, task.test.gold
        asked = _log_probs(model, task, [example.input for example in task.test.dataset])
        right = np.array([space.index(gold[example.id]) for example in task.test.dataset])
        own = _log_probs(model, task, [item.example.input for item in task.gold.labeled_examples])
        true = np.array([space.index(item.label) for item in task.gold.labeled_examples])
        held_out, labelled = list(task.test.dataset), [item.example for item in task.gold.labeled_examples]
        found = [(_calibrated(asked, held_out), right), (asked, right), (_calibrated(own, labelled), true)]
        calibrated, raw, self_trained = (float(np.mean(scores.argmax(axis=1) == gold)) for scores, gold in found)
        return calibrated, raw, self_trained
    finally:
        model.unload()


def _calibrated(log_probs: Array, examples: Sequence[ICMExample]) -> Array:
    return calibrate_claims(log_probs, claim_of_each(examples), label_bias)


def _train(model: Any, task: Task, labels: ICMResult, target: str, recipe: dict[str, Any]) -> None:
    """AdamW on cross-entropy with the targets, as Trainer has it: a linear rate after a tenth of warm-up."""
    share = {"surest half": 0.5, "surest quarter": 0.25}.get(target, 1.0)
    items = surest(task.result, share).labeled_examples
    places = [task.result.label_space.labels.index(labels.labels[item.example.id]) for item in items]
    hard = np.eye(len(task.verbalisers))[places]
    p = expit([item.log_odds or 0.0 for item in items])[:, None]
    wanted = p * hard + (1 - p) * (1 - hard) / (hard.shape[1] - 1) if target == "soft" else hard
    weights = np.clip(2 * p[:, 0] - 1, 0, 1) if target == "weighted" else np.ones(len(items))
    weights /= weights.mean()
    epochs, total = (2 if target == "two epochs" else recipe["num_train_epochs"]), recipe["total_batch_size"]
    order = row_order(len(items), epochs, total, recipe["seed"])
    steps = len(order) // total
    adapter = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(adapter, recipe["learning_rate"], weight_decay=0)
    schedule = get_scheduler("linear", optimizer, round(recipe["warmup_steps"] * steps), steps)
    model.train()
    for step in range(steps):
        batch = order[step * total : (step + 1) * total]
        logits = _last_logits(model, [task.ids(items[place].example.input) for place in batch])
        log_probs = torch.log_softmax(logits.float(), dim=-1)[:, task.verbalisers]
        goal, weight = (torch.tensor(values[batch], device=logits.device) for values in (wanted, weights))
        loss = -(weight * (goal * log_probs).sum(dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _last_logits(model: Any, prompts: Sequence[Segment]) -> torch.Tensor:
    """[prompts, vocabulary] behind each prompt."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
    return torch.as_tensor(out.logits[:, -1])


@torch.inference_mode()
def _log_probs(model: Any, task: Task, texts: Sequence[str]) -> NDArray[np.float64]:
    """[texts, labels]: log-probability of each label's first token."""
    model.eval()
    prompts = [task.ids(text) for text in texts]
    logits = torch.cat([_last_logits(model, prompts[start : start + 32]) for start in range(0, len(prompts), 32)])
    return torch.log_softmax(logits.float(), dim=-1)[:, task.verbalisers].double().cpu().numpy()


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line a (data, labels, target), means over seeds."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((Path(row.data).name, row.labels, row.target), []).append(row)
    lines = ["| data | labels | target | seeds | fine-tuned | raw | self-trained |", "|---|---|---|---|---|---|---|"]
    for (data, labels, target), found in groups.items():
        means = (np.mean([getattr(row, name) for row in found]) for name in ("calibrated", "raw", "self_trained"))
        lines.append(f"| {data} | {labels} | {target} | {len(found)} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


def pairs(rows: Sequence[Row]) -> str:
    """Markdown: each target minus the standard one, over (data, seed), with 95 % intervals."""
    by: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by.setdefault((row.labels, row.target), []).append(row)
    lines = ["| labels | target | cells | fine-tuned | self-trained |", "|---|---|---|---|---|"]
    for (labels, target), found in by.items():
        standard = by.get((labels, STANDARD))
        if standard and target != STANDARD:
            texts = [difference(found, standard, field) for field in ("calibrated", "self_trained")]
            lines.append(f"| {labels} | {target} − {STANDARD} | {len(found)} | {' | '.join(texts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
