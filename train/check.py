"""Everything about a training run that can be checked before torch is imported."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import exp
from pathlib import Path

from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.files import file_sha256, parse_json
from icm.markdown import public_name
from icm.models import CONTENT, resolve_model, weights_hash
from icm.results.fields import object_field
from icm.results.format import ICMResult, content_hash, read_result
from icm.results.origin import held_out_source, labelled_source, other_part
from icm.results.record import read_source
from icm.results.training_rows import Rows, left_out
from icm.results.twins import refuse_overlap, surest, twin
from icm.tasks.source import DataSource
from icm.tasks.written import stand_ins
from train.arguments import GivenSettings, LabelArguments
from train.checkpoints import check_output_dir
from train.rows import text_rows
from train.world import requested_processes

DEFAULT_SEED = 42
# Robust DPO divides by 1 - 2p: at one half a label says nothing.
MAX_FLIP_PROBABILITY = 0.49


@dataclass(frozen=True)
class OverlapCheck:
    """What the data guard compared.

    Attributes:
        evaluation: the evaluation's data source; None if none is known.
        questions: number of its questions.
    """

    evaluation: DataSource | None
    questions: int = 0

    def __str__(self) -> str:
        if self.evaluation is None:
            return "not checked (set eval_source to the evaluation's data)"
        data = f"{public_name(self.evaluation.dataset)} ({self.evaluation.part})"
        return f"none with the {self.questions} questions of {data}"


@dataclass(frozen=True)
class Plan:
    """A checked training run.

    Attributes:
        arguments: our own settings.
        settings: all settings as given.
        output_dir: where the run writes.
        result: the labels to train on (of the chosen source).
        rows: their training rows as text.
        overlap: outcome of the data guard.
        model: name of the base model as given.
        revision: its hub revision, None for local models and the default branch.
        model_path: what `from_pretrained` loads.
        labels_sha256: hash of the label file.
        labels_content: hash of its labels, whenever they were made.
    """

    arguments: LabelArguments
    settings: GivenSettings
    output_dir: Path
    result: ICMResult
    rows: Rows
    overlap: OverlapCheck
    model: str
    revision: str | None
    model_path: str
    labels_sha256: str
    labels_content: str

    @property
    def identity(self) -> dict[str, object]:
        """What decides the weights; a run continues only where all of it is the same."""
        return {
            **self.settings.identity(),
            "model_name_or_path": [self.model],
            "model_revision": self.revision,
            "labels_sha256": self.labels_sha256,
            "labels_content": self.labels_content,
            **({f"{CONTENT}model": weights_hash(folder)} if (folder := Path(self.model_path)).is_dir() else {}),
            "processes": requested_processes(),
        }

    @property
    def _share(self) -> str:
        share, items = self.arguments.surest, self.result.labeled_examples
        if share < 1 and all(item.log_odds is None for item in items):
            return f", all of them: surest {share:g} has no log-odds to go by"
        if share == 1:
            return ""
        given = sum(item.trusted for item in items)
        return f", the surest {share:.0%} of each label" + (f" and all {given} given ones" if given else "")

    def report(self) -> str:
        """The data in a few lines, before anything is loaded."""
        balance = ", ".join(f"{label} {count}" for label, count in self.result.label_counts.items())
        return (
            f"labels   {self.arguments.labels} ({self.arguments.label_source}): "
            f"{len(self.result.labeled_examples)} examples ({balance}){self._share}\n"
            f"rows     {len(self.rows.rows)} for {self.arguments.method}, left out: {left_out(self.rows.dropped)}\n"
            f"overlap  {self.overlap}\n"
            f"model    {self.model} → {self.output_dir}"
        )


def make_plan(settings: GivenSettings) -> Plan:
    """Check labels, twin, evaluation overlap, model name, output folder and tokens.

    Raises:
        ICMError: one line that names the setting or the file.
    """
    arguments = settings.label_arguments()
    found = read_result(arguments.labels, arguments.task_type)
    model, revision = _base_model(settings, found)
    otherwise = "train on the labels found (--label_source labels) or on random ones (--label_source random)"
    kept = surest(found, arguments.surest, arguments.labels)
    result = twin(kept, arguments.label_source, _seed(settings), file=arguments.labels, otherwise=otherwise)
    plan = Plan(
        arguments=arguments,
        settings=settings,
        output_dir=_output_dir(settings, arguments),
        result=result,
        rows=text_rows(result, arguments.method, arguments.confidence_margin, arguments.apply_chat_template),
        overlap=check_overlap(result, arguments.labels, _evaluation(arguments, found)),
        model=model,
        revision=revision,
        model_path=resolve_model(model, revision),
        labels_sha256=file_sha256(arguments.labels),
        labels_content=content_hash(found),
    )
    check_output_dir(plan.output_dir, plan.identity, arguments.overwrite_output_dir)
    _check_services(settings)
    return plan


def _base_model(settings: GivenSettings, result: ICMResult) -> tuple[str, str | None]:
    """The model named in the settings, else the one that found the labels."""
    revision = settings.first("model_revision") or None
    named = settings.first("model_name_or_path")
    if named:
        return named, revision
    labeler = result.record.model
    if labeler.name is None:
        raise ConfigError(f"model_name_or_path: not set, and {result.file} names no model; give the base model")
    return labeler.name, revision or labeler.revision


def _seed(settings: GivenSettings) -> int:
    word = settings.first("seed", str(DEFAULT_SEED))
    if not word.isdecimal():
        raise ConfigError(f"seed: found {word!r}, expected a whole number, 0 or more")
    return int(word)


def _output_dir(settings: GivenSettings, arguments: LabelArguments) -> Path:
    named = settings.first("output_dir")
    return Path(named or f"outputs/{Path(arguments.labels).stem}/{arguments.method}_{arguments.label_source}")


def _evaluation(arguments: LabelArguments, result: ICMResult) -> DataSource | None:
    """The evaluation's data; what the setting does not say of the labelled data set is as its labels were made."""
    if arguments.eval_source is None:
        return None
    values = object_field(parse_json(arguments.eval_source, "eval_source"), "eval_source")
    return held_out_source(result, read_source(values, "eval_source"), values)


def check_overlap(result: ICMResult, file: str, evaluation: DataSource | None) -> OverlapCheck:
    """Refuse a label file that shares a question with the evaluation.

    Without `evaluation` the held-out part of the labelled source is taken, where it has one.

    Raises:
        DataError: a question is in both.
    """
    labelled = result.record.data.source
    if evaluation is None and labelled is not None and labelled.holdout > 0:
        whole = labelled_source(result)
        evaluation = whole and other_part(whole)
    if evaluation is None:
        return OverlapCheck(None)
    # Imported here: hub and Parquet data need `datasets`, which takes seconds to load.
    from icm.tasks import load_task

    # Questions alone are compared, so claims that a model has yet to write for them are not waited for.
    held_out = load_task(replace(evaluation, claims=None), stand_ins).dataset
    refuse_overlap(result.dataset, held_out, file)
    return OverlapCheck(evaluation, len({example.group for example in held_out}))


def flip_probability(result: ICMResult) -> float:
    """Probability that a label is wrong by the labels' own confidence: mean of 1 - sigmoid(log-odds).

    Taken from the labeler's log-odds for every twin, so that twins differ in the labels alone. At most
    `MAX_FLIP_PROBABILITY`.

    Raises:
        DataError: no label has log-odds.
    """
    odds = [item.log_odds for item in result.labeled_examples if item.log_odds is not None]
    if not odds:
        raise DataError(
            "loss_type robust: no label has log-odds to take the flip probability from; set label_smoothing"
        )
    return min(MAX_FLIP_PROBABILITY, sum(map(_wrong, odds)) / len(odds))


def _wrong(log_odds: float) -> float:
    """1 - sigmoid(x) without overflow."""
    return exp(-log_odds) / (1 + exp(-log_odds)) if log_odds > 0 else 1 / (1 + exp(log_odds))


def _check_services(settings: GivenSettings) -> None:
    """Trackers and quantisation are installed and the Hub knows us, before hours are spent."""
    for tracker in settings.values.get("report_to") or ["none"]:
        if tracker in ("wandb", "tensorboard", "trackio", "mlflow") and find_spec(tracker) is None:
            raise PrerequisiteError(f"report_to: {tracker} is not installed; install it with `pip install {tracker}`")
    for bits in ("load_in_4bit", "load_in_8bit"):
        if settings.flag(bits) and find_spec("bitsandbytes") is None:
            raise PrerequisiteError(f"{bits}: needs bitsandbytes and a GPU; install it with `pip install bitsandbytes`")
    if settings.flag("push_to_hub"):
        if not settings.flag("use_peft"):
            raise ConfigError("push_to_hub: adapters alone are pushed; set use_peft, or upload the folder yourself")
        check_hub_token()


def check_hub_token() -> str:
    """The account that the Hub token belongs to. Raises PrerequisiteError without a valid token."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise PrerequisiteError("push_to_hub: no token; set HF_TOKEN or run `hf auth login`")
    try:
        return str(HfApi().whoami()["name"])
    except (HfHubHTTPError, OSError) as error:
        raise PrerequisiteError(f"push_to_hub: the Hub did not accept the token ({type(error).__name__})") from None
