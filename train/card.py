"""A model card that says what the weights come from."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from icm.files import atomic_write
from icm.markdown import facts_table, is_local_name, public_name
from icm.models import is_embedded, model_label
from icm.results.training_rows import left_out
from train.check import Plan

# Embedded models are conversions of these; the Hub's `base_model` field wants Hub names.
_ORIGINS = {
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gemma-3-270m": "google/gemma-3-270m",
}
JSON = Mapping[str, Any]
_SOURCES = {
    "labels": "found by the labeler below, without gold labels",
    "gold": "gold labels of the same examples (golden twin)",
    "random": "balanced random labels of the same examples (control)",
    "perturbed": "gold labels of the same examples with as many errors as the labels found (control)",
}


def write_card(plan: Plan, trainer: Any, results: JSON, environment: JSON) -> None:
    """Write README.md with a YAML header that the Hub accepts."""
    card = f"---\n{_header(plan, trainer).to_yaml()}\n---\n{_text(plan, trainer, results, environment)}"
    ModelCard(card)  # parses the header: a broken one must not be written
    with atomic_write(plan.output_dir / "README.md") as handle:
        handle.write(card)


def hub_origin(model: str) -> str | None:
    """Hub name of the base model, or None for a local folder."""
    if is_embedded(model):
        return _ORIGINS.get(model_label(model))
    return None if "/" not in model or is_local_name(model) else model


def _header(plan: Plan, trainer: Any) -> ModelCardData:
    adapter = trainer.args.output_dir and hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    return ModelCardData(
        base_model=hub_origin(plan.model),
        base_model_relation="adapter" if adapter else "finetune",
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["icm", "trl", plan.arguments.method.split("_")[0], *(["lora"] if adapter else [])],
        model_name=plan.output_dir.name,
    )


def _text(plan: Plan, trainer: Any, results: JSON, environment: JSON) -> str:
    sections = {
        "Base model": _base(plan),
        "Labels": _labels(plan),
        "Training": _training(plan, trainer, results, environment),
        "Results": _results(results),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    what = "LoRA adapter" if hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config") else "Model"
    return f"\n# {plan.output_dir.name}\n\n{what} trained with [TRL](https://github.com/huggingface/trl).\n\n{body}\n"


def _base(plan: Plan) -> str:
    origin = hub_origin(plan.model)
    converted = f", converted from a quantised file of {origin}" if is_embedded(plan.model) and origin else ""
    return facts_table(
        {"model": public_name(plan.model) + converted, "revision": plan.revision or "default branch or local"}
    )


def _labels(plan: Plan) -> str:
    record = plan.result.record
    unknown = "not stated in the label file"
    return facts_table(
        {
            "labels": _SOURCES[plan.arguments.label_source] + _given(plan),
            "labeler": record.algorithm or record.search_settings.get("algorithm") or unknown,
            "labelling model": public_name(record.model.name) if record.model.name else unknown,
            "with the adapter": public_name(record.model.adapter) if record.model.adapter else "none",
            "task": plan.result.task,
            "data": public_name(record.data.source.dataset) if record.data.source else unknown,
            "examples": ", ".join(f"{label}: {count}" for label, count in plan.result.label_counts.items()),
            "training rows": len(plan.rows.rows),
            "left out": left_out(plan.rows.dropped),
            "questions shared with the evaluation": plan.overlap,
            "SHA-256 of the label file": plan.labels_sha256,
        }
    )


def _given(plan: Plan) -> str:
    """How many of the labels nobody had to find."""
    given = sum(item.trusted for item in plan.result.labeled_examples)
    if not given or plan.arguments.label_source != "labels":
        return ""
    return f", but for {given} of {len(plan.result.labeled_examples)} that were given"


def _training(plan: Plan, trainer: Any, results: JSON, environment: JSON) -> str:
    arguments = trainer.args
    adapters = getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {})
    lora = next(iter(adapters.values()), None)
    values: dict[str, object] = {
        "method": plan.arguments.method,
        "epochs": arguments.num_train_epochs,
        "rows in a step": plan.arguments.total_batch_size,
        "learning rate": f"{arguments.learning_rate:g} ({arguments.lr_scheduler_type.value})",
        "seed": arguments.seed,
        "bfloat16": arguments.bf16,
        "processes": f"{environment['processes']} ({environment['distributed']}, {environment['device']})",
        "versions": ", ".join(f"{name} {number}" for name, number in environment["versions"].items()),
        "code": (environment["git"] or {}).get("commit", "not in a repository"),
    }
    if lora is not None:
        values["LoRA"] = f"rank {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout}"
    if plan.arguments.confidence_margin:
        values["confidence margin"] = f"{plan.arguments.confidence_margin:g} nats"
    if plan.arguments.apply_chat_template:
        values["rows"] = "turns of the tokenizer's chat template"
    if plan.arguments.method.startswith("dpo"):
        values["DPO"] = f"{', '.join(arguments.loss_type)}, beta {arguments.beta}, flip {arguments.label_smoothing:.3f}"
    return facts_table(values | {"trainable parameters": results["trainable_parameters"]})


def _results(results: JSON) -> str:
    memory = ", ".join(f"{value} GiB ({name})" for name, value in results["peak_memory_gib"].items())
    shown = {
        "training loss, mean (nats)": f"{results['train_loss']:.4f}",
        "training loss, last (nats)": f"{results['final_loss']:.4f}",
        "steps": results["steps"],
        "minutes": results["minutes"],
        "peak memory of a rank": memory,
    }
    return f"{facts_table(shown)}\n\nAccuracy on held-out data is measured by `eval/run.py`, not during training."
