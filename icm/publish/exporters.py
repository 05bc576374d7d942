"""Result files → training rows (SFT, DPO), JSON, CSV, reports and the hub."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from icm.errors import ConfigError, DataError
from icm.examples import LabelSpace
from icm.files import atomic_write, dump_json, write_json, write_jsonl
from icm.publish.cards import public_analysis
from icm.results.analysis import analyze, analyze_file, check_report_path, label_statistics
from icm.results.folder import ICMStorage
from icm.results.format import ICMResult, LabeledExample, example_row, metadata_row, read_result
from icm.results.record import ModelRecord
from icm.results.training_rows import (
    Rows,
    answer_pairs,
    confidence_to_log_odds,
    confident_examples,
    has_answer,
    label_pairs,
    left_out,
    sft_rows,
)

__all__ = [
    "Export",
    "ICMExporter",
    "Rows",
    "answer_pairs",
    "confidence_to_log_odds",
    "label_pairs",
    "sft_rows",
]

CSV_COLUMNS = ("id", "input", "label", "log_odds", "group", "record_id")

Labels = ICMResult | Sequence[LabeledExample] | str | Path
"""What is exported: a result, its labelled examples, or the path of a result file."""


@dataclass(frozen=True)
class Export:
    """A written file: where, how many rows, and what was left out and why (see `Rows.dropped`)."""

    path: Path
    rows: int
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.path}: {self.rows} rows written, left out: {left_out(self.dropped)}"


class ICMExporter:
    """Writes result files in other formats. Every method returns what was written and what was left out.

    Args:
        storage: where result files are looked up that are given by name.
    """

    def __init__(self, storage: ICMStorage | None = None) -> None:
        self.storage = storage or ICMStorage()

    def export_to_sft_format(
        self,
        labeled_examples: Labels,
        output_path: str | Path,
        *,
        conversational: bool = False,
        min_log_odds: float | None = None,
    ) -> Export:
        """Write `sft_rows` as JSONL."""
        result = self._result(labeled_examples, output_path)
        rows = sft_rows(result, conversational=conversational, min_log_odds=min_log_odds)
        return _write_rows(output_path, rows)

    def export_to_dpo_format(
        self,
        labeled_examples: Labels,
        output_path: str | Path,
        create_pairs: bool | None = None,
        *,
        max_pairs: int | None = None,
        conversational: bool = False,
        min_log_odds: float | None = None,
        seed: int = 42,
    ) -> Export:
        """Write preference pairs as JSONL.

        Args:
            labeled_examples: what to export.
            output_path: the file.
            create_pairs: True for `answer_pairs`, False for `label_pairs`; None for answer pairs if any example
                carries an answer text.
            max_pairs, conversational, min_log_odds, seed: see `answer_pairs`.
        """
        result = self._result(labeled_examples, output_path)
        if create_pairs is None:
            create_pairs = any(map(has_answer, result.labeled_examples))
        form: dict[str, Any] = {"conversational": conversational, "min_log_odds": min_log_odds, "seed": seed}
        rows = answer_pairs(result, max_pairs=max_pairs, **form) if create_pairs else label_pairs(result, **form)
        return _write_rows(output_path, rows)

    def export_to_json(
        self,
        labeled_examples: Labels,
        output_path: str | Path,
        include_stats: bool = True,
        *,
        min_log_odds: float | None = None,
    ) -> Export:
        """Write one JSON document: the metadata line, the examples and, if wanted, statistics of the labels."""
        result, dropped = self._confident_result(labeled_examples, output_path, min_log_odds)
        document: dict[str, object] = {"metadata": metadata_row(result)}
        if include_stats:
            document["statistics"] = asdict(label_statistics(result))
        document["examples"] = [example_row(item) for item in result.labeled_examples]
        write_json(output_path, document)
        return Export(Path(output_path), len(result.labeled_examples), dropped)

    def export_to_csv(
        self, labeled_examples: Labels, output_path: str | Path, *, min_log_odds: float | None = None
    ) -> Export:
        """Write a table: id, input, label, log_odds, group, record_id, then one column a metadata field.

        Text is written as it is, so that it can be read back: import it into a spreadsheet as text, since a cell that
        starts with `=` would be taken for a formula.
        """
        result, dropped = self._confident_result(labeled_examples, output_path, min_log_odds)
        rows = [_flat_row(item) for item in result.labeled_examples]
        columns = list(dict.fromkeys([*CSV_COLUMNS, *sorted({key for row in rows for key in row})]))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(output_path, "wb") as handle:
            handle.write(table.getvalue().encode())
        return Export(Path(output_path), len(rows), dropped)

    def export_analysis_report(
        self,
        labeled_examples: Labels,
        output_path: str | Path,
        include_examples: bool = True,
        public: bool = False,
        task_type: str | None = None,
    ) -> Export:
        """Write statistics and plots as .json, .html or .md; a result file's trace is used if it lies beside it.

        Args:
            labeled_examples: what to analyse.
            output_path: the report; its ending decides the form.
            include_examples: list the least and the most confident labels.
            public: name no local paths.
            task_type: see `ICMResult`.
        """
        from icm.results.report import write_report

        check_report_path(output_path)
        result = self._result(labeled_examples, output_path)
        if isinstance(labeled_examples, str | Path):
            analysis = analyze_file(self.storage.find(labeled_examples), task_type)
        else:
            analysis = analyze(result)
        write_report(
            output_path, [public_analysis(analysis) if public else analysis], include_examples=include_examples
        )
        return Export(Path(output_path), len(result.labeled_examples))

    def export_to_huggingface(
        self,
        labeled_examples: Labels,
        repo_id: str,
        task_type: str | None = None,
        model_name: str | None = None,
        private: bool = False,
    ) -> str:
        """Push the labelled examples as a data set with a card; returns its address. See `push_labels`."""
        from icm.publish.hub import push_labels

        result = self._result(labeled_examples)
        task, record = task_type or result.task, result.record
        if model_name is not None:
            record = replace(record, model=ModelRecord(model_name))
        return push_labels(replace(result, task=task, record=record), repo_id, private=private)

    def _confident_result(
        self, labels: Labels, output_path: str | Path, min_log_odds: float | None
    ) -> tuple[ICMResult, dict[str, int]]:
        result = self._result(labels, output_path)
        kept, dropped = confident_examples(result.labeled_examples, min_log_odds)
        _require_rows(kept, dropped, output_path)
        return replace(result, labeled_examples=kept), dropped

    def _result(self, labels: Labels, output_path: str | Path | None = None) -> ICMResult:
        if isinstance(labels, ICMResult):
            return labels
        if not isinstance(labels, str | Path):
            return _bare_result(labels)
        path = self.storage.find(labels)
        if output_path is not None and path.resolve() == Path(output_path).resolve():
            raise ConfigError(f"output_path: {output_path} is the input itself; choose another file")
        return read_result(path)


def _bare_result(items: Sequence[LabeledExample]) -> ICMResult:
    """Labelled examples alone do not say what other labels were possible: True and False, or the labels seen."""
    seen = sorted({item.label for item in items})
    space = LabelSpace() if set(seen) <= set(LabelSpace().labels) else LabelSpace(tuple(seen))
    return ICMResult(items, None, space)


def _flat_row(item: LabeledExample) -> dict[str, object]:
    example = item.example
    own = (example.id, example.input, item.label, item.log_odds, example.relations.group, example.record_id)
    row: dict[str, object] = dict(zip(CSV_COLUMNS, own, strict=True))
    for key, value in example.metadata.items():
        column = f"metadata.{key}" if key in CSV_COLUMNS else key
        row[column] = value if isinstance(value, str) else dump_json(value)
    return row


def _write_rows(path: str | Path, rows: Rows) -> Export:
    _require_rows(rows.rows, rows.dropped, path)
    write_jsonl(path, rows.rows)
    return Export(Path(path), len(rows.rows), rows.dropped)


def _require_rows(rows: Sequence[object], dropped: Mapping[str, int], path: str | Path) -> None:
    if not rows:
        raise DataError(f"{path}: nothing to write; left out: {left_out(dropped)}")
