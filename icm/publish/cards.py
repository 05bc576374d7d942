"""Cards of published data sets: what labelled them, how, and what is not known about them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from icm.config import SearchConfig
from icm.files import dump_json
from icm.markdown import facts_table, literal, public_name
from icm.results.analysis import Analysis, analyze, find_gold
from icm.results.format import ICMResult
from icm.results.record import RunRecord
from icm.tasks.source import DataSource

MACHINE_MADE = (
    "**The labels are machine-made.** They were given by a language model, not by people, and nobody has checked them."
)
LICENCE = (
    "## Licence\n\nUnknown: the texts stay under the licence of their source, which the author of this repository "
    "should state here."
)
CITATION = """## Citation

```bibtex
@article{wen2025unsupervised,
  title   = {Unsupervised Elicitation of Language Models},
  author  = {Wen, Jiaxin and others},
  journal = {arXiv preprint arXiv:2506.10139},
  year    = {2025}
}
```"""


def label_card(result: ICMResult, repo_id: str, file_name: str) -> str:
    """Card of labelled examples, or of a file exported from them (Markdown with the hub's YAML header)."""
    # Why there is no gold is not said: the reason can name local paths.
    analysis = analyze(result, gold=find_gold(result)[0])
    parts = [
        f"# {repo_id.rpartition('/')[2]}",
        MACHINE_MADE,
        _accuracy(analysis),
        *(f"**Warning:** {literal(warning)}." for warning in analysis.warnings),
        "## Where the labels come from\n\n" + facts_table(_origin(result, analysis)),
        "## Label balance\n\n" + facts_table({label: str(count) for label, count in analysis.labels.counts.items()}),
        _settings(public_search(result.record)),
        _usage(repo_id),
        LICENCE,
        CITATION,
    ]
    return _header(file_name, result) + "\n\n".join(part for part in parts if part) + "\n"


def file_card(repo_id: str, file_name: str) -> str:
    """Card of a file that does not say what labelled it."""
    parts = [
        f"# {repo_id.rpartition('/')[2]}",
        "Uploaded by `icm push`. " + MACHINE_MADE,
        "The file does not say which model labelled it and how; its author should state it here.",
        _usage(repo_id),
        LICENCE,
        CITATION,
    ]
    return _header(file_name) + "\n\n".join(parts) + "\n"


def _header(file_name: str, result: ICMResult | None = None) -> str:
    from huggingface_hub import DatasetCardData

    tags = ["icm", "machine-labelled"] + ([result.task] if result else [])
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": file_name}]}]
    loadable = Path(file_name).suffix in (".jsonl", ".csv")
    data = DatasetCardData(license="unknown", tags=tags, configs=configs if loadable else None)
    return f"---\n{data.to_yaml()}\n---\n\n"


def _accuracy(analysis: Analysis) -> str:
    found = analysis.accuracy
    if found is None:
        return "Their accuracy is not known."
    return (
        f"{found.correct} of {found.total} labels ({found.value:.1%}, 95 % Wilson interval {found.low:.1%} to "
        f"{found.high:.1%}) agree with the gold labels, which the labelling never saw; always giving the most frequent "
        f"gold label would reach {found.majority:.1%}."
    )


def _origin(result: ICMResult, analysis: Analysis) -> dict[str, str]:
    record = result.record
    model, data = record.model, record.data.source
    facts = {
        "model": public_name(record.model_name),
        "revision": model.revision,
        "adapter": model.adapter and public_name(model.adapter),
        "algorithm": analysis.algorithm,
        "task": result.task,
        "data": data and public_name(data.dataset),
        "examples": analysis.examples,
        "iterations": record.iterations,
        "utility U(D)": result.score,
        "seed": record.seed,
        "created": record.created,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def public_search(record: RunRecord) -> dict[str, object]:
    """The search settings, as far as they are ours: those of data, engine and output can hold local paths."""
    known = {field.name for field in fields(SearchConfig)}
    return {name: value for name, value in record.search_settings.items() if name in known}


def public_record(record: RunRecord) -> RunRecord:
    """A record that names no folder of the machine it was made on."""
    model, source = record.model, record.data.source
    search = public_search(record)
    return replace(
        record,
        settings={"search": search} if search else {},
        model=replace(
            model,
            name=model.name and public_name(model.name),
            adapter=model.adapter and public_name(model.adapter),
            other={},
        ),
        data=replace(record.data, source=source and _public_source(source), name=None, other={}),
        other={},
    )


def _public_source(source: DataSource) -> DataSource:
    def public(path: str | None) -> str | None:
        return path and public_name(path)

    return replace(
        source,
        dataset=public_name(source.dataset),
        claims=public(source.claims),
        trusted=public(source.trusted),
        definitions=public(source.definitions),
        start=public(source.start),
    )


def public_analysis(analysis: Analysis) -> Analysis:
    """An analysis that names no local paths: why there is no gold is not said, as the reason can name some."""
    note = analysis.gold_note and "the gold labels are not at hand"
    settings = {name: value for name, value in analysis.settings.items() if name == "search"}
    return replace(analysis, model=public_name(analysis.model), gold_note=note, settings=settings)


def _settings(search: Mapping[str, object]) -> str:
    return f"## Settings\n\n```json\n{dump_json(search, indent=2)}\n```" if search else ""


def _usage(repo_id: str) -> str:
    return f'## Use\n\n```python\nfrom datasets import load_dataset\n\ndata = load_dataset("{repo_id}")\n```'
