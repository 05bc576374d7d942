"""What an experiment will do and take, before it starts: `icm pipeline --dry-run`."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from eval.conditions.base import ITEMS_PER_BATCH
from icm.config import EngineConfig, WorkersConfig
from icm.engines.crew import gpus_of
from icm.labelling.forecast import RunPlan, plan_run
from icm.labelling.hardware import inference, model_shape
from icm.labelling.scale import workers_here
from icm.pipeline.checks import check_evaluation, check_gold, check_rounds, check_training, held_out_writing
from icm.pipeline.evaluation import eval_workers
from icm.pipeline.experiment import PipelineConfig, TrainStage
from icm.pipeline.manifest import StageRecord, changed, is_done, read_manifest
from icm.pipeline.stages import Stage, make_stages
from icm.pipeline.trainings import trained_model
from train.forecast import Recipe, plan_training, read_layout

if TYPE_CHECKING:
    from trl.trainer.model_config import ModelConfig

    from eval.settings import EvalConfig
    from train.arguments import LabelArguments, TrainingConfig

    TrainingSettings: TypeAlias = "tuple[LabelArguments, TrainingConfig, ModelConfig]"


def plan_pipeline(config: PipelineConfig) -> str:
    """What `run_pipeline` would do: state and command of each stage, and what each takes. Runs nothing.

    Raises:
        ICMError: as `run_pipeline`, before anything runs.
    """
    stages = make_stages(config)
    records = read_manifest(config.output_dir)
    recipes = {} if config.train is None else config.train.by_name
    settings = {name: check_training(config, train) for name, train in recipes.items()}
    evaluation = None if config.eval is None else check_evaluation(config)
    writing = None if config.eval is None else held_out_writing(config)
    check_rounds(config)
    check_gold(config)
    lines = [f"{config.name}: {len(stages)} stages, output in {config.output_dir}", ""]
    for number, stage in enumerate(stages, start=1):
        lines += [f"{number}. {stage.name} ({_state(stage, records.get(stage.name))})", f"   $ {stage.shown}"]
    engines = None if config.label.engines.here else config.label.engines
    first = [config.settings(name, config.label.seeds[0]) for name in config.label.algorithms]
    plans = [plan_run(settings, workers=engines) for settings in first]
    for algorithm, plan in zip(config.label.algorithms, plans, strict=True):
        rounds = f", in {config.label.rounds} rounds ({config.label.scheme})" if config.label.rounds > 1 else ""
        lines += ["", f"{algorithm}, each of {len(config.label.seeds)} seeds{rounds}:", str(plan)]
    for name, train in recipes.items():
        lines += _training(config, train, settings[name], plans[0], _adapters(stages, recipes, name))
    scoring = [] if evaluation is None else [*_evaluation(evaluation, plans[0], eval_workers(config))]
    scoring += [f"{'to be written':20} {writing}"] if writing else []
    return "\n".join([*lines, *(["", "eval, of the held-out part:", *scoring] if scoring else [])])


def _state(stage: Stage, record: StageRecord | None) -> str:
    if is_done(stage, record):
        return "finished"
    changes = changed(stage, record) if record else []
    return f"changed: {'; '.join(changes)}" if changes else "to run"


def _adapters(stages: Sequence[Stage], recipes: Collection[str], variant: str) -> int:
    """How many are trained by a recipe; those of rounds by the one without a name."""
    names = [stage.name for stage in stages if stage.name.startswith("train ")]
    of_variant = {name: {n for n in names if n.endswith(f"_{name}")} for name in recipes if name}
    return len(of_variant[variant]) if variant else len(names) - sum(map(len, of_variant.values()))


def _training(
    config: PipelineConfig, train: TrainStage, recipe: "TrainingSettings", labels: RunPlan, adapters: int
) -> list[str]:
    """What each training needs; nothing where it runs on a CPU, or the model's shape is not known."""
    layout, settings = read_layout(Path(train.accelerate)), trained_model(config, train)
    model = EngineConfig(str(settings.get("model_name_or_path") or settings["model"]))
    if layout.cpu or (shape := model_shape(model)) is None:
        return []
    tokens, longest = labels.mean_demonstration_tokens, labels.longest_demonstration
    plan = Recipe(*recipe, shape, sum(labels.batches), tokens, longest)
    rows = f"{plan.rows:,} rows of {tokens:.0f} tokens, at most {longest}; {plan.training.num_train_epochs:g} epochs"
    title = (
        f"train, each of {adapters}: {rows}, {plan.steps} steps, {plan.trained:,} weights; as configured, and others:"
    )
    return ["", title, *map(str, plan_training(plan, layout))]


def _evaluation(settings: "EvalConfig", labels: RunPlan, engines: WorkersConfig) -> Iterable[str]:
    """What the evaluation needs, where the labelling says so of itself."""
    if labels.shape is None or not labels.needs:
        return
    items, item = settings.data.max_examples or sum(labels.batches), labels.mean_demonstration_tokens
    shots, seeds = settings.orders * min(settings.shots, sum(labels.batches)), len(settings.seeds)
    asked = {
        "zero-shot": items,
        "chat": items,
        "many-shot": seeds * (shots + settings.orders * items),
    }
    kinds = [condition.kind for condition in settings.conditions]
    texts = sum(asked.get(kind, 0) for kind in kinds)
    texts += sum(items * len(settings.adapters_of(c)) for c in settings.conditions if c.kind == "fine-tuned")
    kept, starts = item * (shots + ITEMS_PER_BATCH), 1 + ("chat" in kinds)
    own = max(1, gpus_of(settings.engine))
    for cards in sorted({own, *(need.cards for need in labels.needs)}):
        need = inference(labels.shape, settings.engine, kept, round(texts * item), cards, starts)
        yield str(need)
        if cards == own and not engines.here:
            workers = workers_here(engines, own)
            busy = min(workers, -(-texts // ITEMS_PER_BATCH))  # each takes whole batches
            hours = (need.idle + need.tokens / need.rate / busy) / 3600
            yield f"{f'over {workers} workers':20} {hours:.2f} h, each on {cards} H100"
    if settings.multiple_choice is not None:
        yield f"{'assumed':20} nothing of multiple_choice, whose questions are not read here"
    if settings.benchmarks is not None:
        yield f"{'assumed':20} nothing of benchmarks, whose items are not read here"
