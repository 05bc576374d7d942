"""The shapes in which tools write records, as plain ones: a list of flat objects with text fields and `label`.

An annotation that was rejected, cancelled or never made is no label; annotators who disagree give none.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from icm.errors import DataError

Fields = Mapping[str, object]

SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train", "testing": "test"}
"""Other names of splits, as `datasets` knows them."""
_LISTS = ("rows", "data", "examples", "records", "instances", "items")
_ROUNDS = {"train", "validation", "test", *SPLIT_NAMES}
_ARGILLA_COLUMNS = {"id", "status", "_server_id", "inserted_at", "updated_at"}
_STUDIO_COLUMNS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"}


def rows_of(document: object) -> Sequence[object]:
    """The records of one JSON document, whatever holds them.

    Raises:
        DataError: the document is no list of objects, nor anything that holds one.
    """
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or not document:
        raise DataError(f"found {type(document).__name__}, expected a list of objects")
    lists = {key: value for key, value in document.items() if _all(dict, value)}
    if lists and lists.keys() == document.keys() <= _ROUNDS:
        return [{"split": key, **row} for key, rows in lists.items() for row in rows]
    named = [key for key in _LISTS if key in lists] or list(lists)
    if len(named) > 1 and named[0] not in _LISTS:
        raise DataError(f"found several lists of objects {named}; save the one that is meant as its own file")
    if named:
        return _with_names(lists[named[0]], document)
    return _table(document)


def _with_names(rows: Sequence[object], document: Mapping[str, object]) -> Sequence[object]:
    """Rows of the data set viewer with class numbers replaced by the names that it lists; other rows as they are."""
    kinds = {str(one.get("name")): _object(one.get("type")).get("names") for one in _objects(document.get("features"))}
    names = {name: found for name, found in kinds.items() if isinstance(found, list)}
    return [{**row, "row": _named(_object(row.get("row")), names)} for row in map(_object, rows)] if names else rows


def _named(row: Fields, names: Mapping[str, list[object]]) -> Fields:
    numbers = {name: row.get(name) for name in names}
    found = {n: names[n][k] for n, k in numbers.items() if isinstance(k, int) and 0 <= k < len(names[n])}
    return {**row, **found}


def _table(document: Mapping[str, object]) -> Sequence[object]:
    """The rows of a table as `DataFrame.to_json` writes it: by columns, by index, or split; [] for an empty list."""
    names, rows = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(rows, list) and _all(list, rows):
        return [dict(zip(names, row, strict=False)) for row in rows]
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(lists) == len(document) and len({*map(len, lists)}) == 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)]
    objects = [value for value in document.values() if isinstance(value, dict) and value]
    if len(objects) == len(document):
        if not all(key.isdigit() for key in objects[0]):
            return objects
        columns = dict(zip(document, objects, strict=True))
        return [{name: column.get(key) for name, column in columns.items()} for key in objects[0]]
    if [] in lists:
        return []
    raise DataError("found dict, expected a list of objects")


def _all(kind: type, value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def flat(fields: Fields) -> Fields:
    """A tool's record as a flat one; others as they are. Raises DataError for one that cannot be used."""
    for field, fits, turn in SHAPES:
        if field in fields and fits(fields):
            return turn(fields)
    return fields


def _labelled(fields: Fields, labels: Mapping[str, object]) -> Fields:
    """Fields and labels. The answer to the only question is `label`; absent ones are left out, lists of one opened."""
    opened = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in labels.items()
    }
    names = ["label"] if len(opened) == 1 else list(opened)
    found = {name: value for name, value in zip(names, opened.values(), strict=True) if value not in (None, "", [])}
    return {**{name: value for name, value in fields.items() if name not in names}, **found}


def _agreed(answers: Iterable[object]) -> object:
    """What all annotators say; None if they do not say the same."""
    given = [answer for answer in answers if answer not in (None, "", [])]
    return given[0] if given and all(answer == given[0] for answer in given) else None


def _objects(value: object) -> list[Fields]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _object(value: object) -> Fields:
    return value if isinstance(value, dict) else {}


def _viewer(fields: Fields) -> Fields:
    """Rows of the data set viewer: {row_idx, row, truncated_cells}."""
    if fields.get("truncated_cells"):
        raise DataError(f"the viewer cut {fields['truncated_cells']}; download the data set's files instead")
    return flat(_object(fields["row"]))


def _evaluated(fields: Fields) -> Fields:
    """Samples of lm-evaluation-harness: the record of the data is in {doc_id, doc, target, …}."""
    return flat(_object(fields["doc"]))


def _kaggle_arena(fields: Fields) -> Fields:
    """The arena's files on Kaggle: turns as lists in JSON, joined as one text."""
    turns = {name: _opened(fields[name], "[") for name in ("prompt", "response_a", "response_b") if name in fields}
    joined = {name: "\n\n".join(map(str, turn)) if isinstance(turn, list) else turn for name, turn in turns.items()}
    return {**fields, **joined}


def _label_studio(fields: Fields) -> Fields:
    """Label Studio's JSON: {data: {…}, annotations: [{was_cancelled, result: [{from_name, value: {choices}}]}]}."""
    made = [one for one in _objects(fields.get("annotations", fields.get("completions"))) if not _cancelled(one)]
    results = [result for one in made for result in _objects(one.get("result"))]
    answers: dict[str, list[object]] = {}
    for result in results:
        answers.setdefault(str(result.get("from_name")), []).append(_chosen(_object(result.get("value"))))
    labels = {name: _agreed(given) for name, given in answers.items()}
    return _labelled(_object(fields["data"]), labels or {"label": None})


def _chosen(value: Fields) -> object:
    """What an annotation says; of those that give no label (spans, boxes) all, so that a message can show it."""
    return next((value[name] for name in ("choices", "rating", "number", "selected") if name in value), value)


def _cancelled(annotation: Fields) -> bool:
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


def _label_studio_table(fields: Fields) -> Fields:
    """Label Studio's JSON-MIN and CSV: the data's fields beside the annotations, several choices as {choices: […]}."""
    kept = {name: _opened(value, "{") for name, value in fields.items() if name not in _STUDIO_COLUMNS}
    return {name: _chosen(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _opened(value: object, start: str) -> object:
    """What a cell of a table that holds JSON says, by how it starts; other values as they are."""
    if not isinstance(value, str) or not value.startswith(start):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _argilla(fields: Fields) -> Fields:
    """Argilla 2 and the feedback records of 1: {fields: {…}, responses}; suggestions are no labels."""
    answers: dict[str, list[object]] = {}
    responses = fields["responses"]
    for name, given in _object(responses).items():
        answers[name] = [one.get("value") for one in _objects(given) if _submitted(one)]
    for response in filter(_submitted, _objects(responses)):
        for name, answer in _object(response.get("values")).items():
            answers.setdefault(name, []).append(_object(answer).get("value"))
    labels = {name: _agreed(given) for name, given in answers.items()}
    return _labelled(_object(fields["fields"]), labels or {"label": None})


def _submitted(response: Fields) -> bool:
    return response.get("status") in (None, "submitted")


def _argilla_table(fields: Fields) -> Fields:
    """Argilla 2 on the hub: {text, label.responses: […], label.responses.status: […], label.suggestion, …}."""
    names = [name.removesuffix(".responses") for name in fields if name.endswith(".responses")]
    answers = {name: _column(fields, name) for name in names}
    kept = {name: value for name, value in fields.items() if "." not in name and name not in _ARGILLA_COLUMNS}
    return _labelled(kept, answers or {"label": None})


def _column(fields: Fields, name: str) -> object:
    given = fields[f"{name}.responses"] or []
    states = fields.get(f"{name}.responses.status") or ["submitted"] * len(given if isinstance(given, list) else [])
    if not isinstance(given, list) or not isinstance(states, list):
        return None
    return _agreed(answer for answer, state in zip(given, states, strict=False) if state == "submitted")


def _argilla_feedback(fields: Fields) -> Fields:
    """Argilla 1's feedback data on the hub: each question holds [{user_id, value, status}]."""
    asked = {name for name in fields if f"{name}-suggestion" in fields}
    answers = {name: _agreed(one.get("value") for one in _objects(fields[name]) if _submitted(one)) for name in asked}
    others = {n: v for n, v in fields.items() if n not in asked and n.partition("-suggestion")[0] not in asked}
    return _labelled(others, answers or {"label": None})


def _argilla_text(fields: Fields) -> Fields:
    """Argilla 1's text classification: {text, inputs, prediction, annotation, annotation_agent, status, …}."""
    inputs = {name: value for name, value in _object(fields.get("inputs")).items() if value is not None}
    text = {"text": fields["text"]} if fields.get("text") else {}
    return _labelled(
        {**text, **inputs}, {"label": None if fields.get("status") == "Discarded" else fields["annotation"]}
    )


def _is_prodigy(fields: Fields) -> bool:
    return fields.get("answer") in ("accept", "reject", "ignore") and ("label" in fields or "accept" in fields)


def _prodigy(fields: Fields) -> Fields:
    """Prodigy: {text, label, answer: accept}, or {text, options, accept: [label], answer} of its choices."""
    hidden = {"answer", "accept", "options", "label"}
    texts = {name: value for name, value in fields.items() if name not in hidden and not name.startswith("_")}
    answer = fields.get("accept", fields.get("label")) if fields["answer"] == "accept" else None
    return _labelled(texts, {"label": answer})


def _doccano(fields: Fields) -> Fields:
    """doccano's {text, label: [label]}; `data` and `labels` are what some versions call them."""
    names = {"data": "text", "labels": "label"}
    named = {names[name] if names.get(name, name) not in fields else name: value for name, value in fields.items()}
    return _labelled(named, {"label": named.get("label")})


SHAPES: Sequence[tuple[str, Callable[[Fields], bool], Callable[[Fields], Fields]]] = (
    ("row_idx", lambda fields: "row" in fields, _viewer),
    ("doc_id", lambda fields: isinstance(fields.get("doc"), dict) and "target" in fields, _evaluated),
    ("winner_model_a", lambda fields: "winner_model_b" in fields, _kaggle_arena),
    ("annotations", lambda fields: isinstance(fields.get("data"), dict), _label_studio),
    ("completions", lambda fields: isinstance(fields.get("data"), dict), _label_studio),
    ("annotation_id", lambda fields: "annotator" in fields, _label_studio_table),
    ("responses", lambda fields: isinstance(fields.get("fields"), dict), _argilla),
    ("_server_id", lambda fields: True, _argilla_table),
    ("external_id", lambda fields: "metadata" in fields, _argilla_feedback),
    ("annotation", lambda fields: "annotation_agent" in fields, _argilla_text),
    ("answer", _is_prodigy, _prodigy),
    ("label", lambda fields: isinstance(fields["label"], list), _doccano),
    (
        "labels",
        lambda fields: isinstance(fields["labels"], list) and {"text"} == {"text", "label"} & fields.keys(),
        _doccano,
    ),
    ("data", lambda fields: fields.keys() - {"Comments", "label"} == {"id", "data"}, _doccano),
)
"""A field that a tool's records have, how they are known, and what makes a flat one; the first that fits is taken."""
