"""Label spaces, and prompts rendered from items by the task's template or the user's."""

import difflib
import string
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from icm.errors import ConfigError, DataError
from icm.examples import LabelSpace
from icm.tasks.base import Record, Task
from icm.tasks.source import DataSource


def label_space(
    task: Task, source: DataSource, declared: Collection[tuple[str, ...]], golds: Collection[str]
) -> LabelSpace:
    """The task's labels, else those that the records declare, else the verbalisers', else those seen (sorted)."""
    texts = source.verbalisers
    if len(declared) > 1:
        raise DataError(
            f"{source.dataset}: records declare different labels {sorted(declared)}; expected the same ones"
        )
    fixed = task.label_space.labels if task.label_space else next(iter(declared), None)
    if fixed and texts and set(fixed) != set(texts):
        raise ConfigError(f"verbalisers: found labels {sorted(texts)}, expected {sorted(fixed)}")
    for label, text in (texts or {}).items():
        if not text.strip():
            raise ConfigError(f"verbalisers: label {label!r}: found {text!r}, expected text that is not blank")
    labels = fixed or tuple(sorted(texts or golds))
    if len(labels) < 2 and texts and not {*golds} <= {*texts}:
        raise DataError(f"{source.dataset}: verbalisers: found {sorted(texts)} alone; {all_verbalised(golds, texts)}")
    if len(labels) < 2:
        found = f"one class only, {labels[0]!r}" if labels else "no labels"
        given = f"'{labels[0]}= {labels[0]}' 'OTHER= OTHER'" if labels else "'negative= negative' 'positive= positive'"
        column = "; --label-field says which field holds them" if not labels and task.label_space is None else ""
        raise DataError(
            f"{source.dataset}: found {found}; expected at least two labels in the data, or verbalisers "
            f"that name them: --verbalisers {given}{column}"
        )
    if task.label_space and not texts:
        return task.label_space
    return LabelSpace(labels, tuple(texts[label] for label in labels) if texts else ())


def all_verbalised(seen: Iterable[str], texts: Mapping[str, str]) -> str:
    """What to give where the data have labels without a verbaliser: theirs, those of misspelt names taken over."""
    without = sorted({*seen} - texts.keys())
    spare = [name for name in texts if name not in {*seen}]
    meant = {label: near[0] for label in without if (near := difflib.get_close_matches(label, spare, n=1, cutoff=0.7))}
    given = {label: text for label, text in texts.items() if label not in meant.values()}
    given |= {label: texts[meant[label]] if label in meant else f" {label}" for label in without}
    typo = "".join(f"{name!r} is no label of theirs, did you mean {label!r}? " for label, name in meant.items())
    options = " ".join("'" + f"{label}={text}".replace("'", "'\\''") + "'" for label, text in given.items())
    return f"the data also have {', '.join(map(repr, without[:12]))}; {typo}give each label: --verbalisers {options}"


def own_template(task: Task, space: LabelSpace) -> str:
    """The prompt template of a task for these labels."""
    return task.template if isinstance(task.template, str) else task.template(space)


def placeholders(template: str) -> list[str]:
    """The names in a template's braces. Raises ConfigError if they do not match."""
    return [name for _, name, _, _ in _parsed(template) if name is not None]


def _parsed(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"template {template!r}: {error}; write a literal brace as {{{{ or }}}}") from None


class Template:
    """A prompt template with `{field}` placeholders; white space at its end is dropped, since labels bring their own.

    Placeholders mean fields of the task's items, then of the raw record, but never those that hold gold. `called` says
    which fields of the records the data know under other names (see `Record`); a placeholder may be either.
    """

    def __init__(self, text: str, task: Task, called: Mapping[str, str] = MappingProxyType({})) -> None:
        self.text = text.rstrip()
        self._parts = _parsed(self.text)
        self._gold_fields = task.gold_fields
        # `text` is the text, though another column of the data may be called so too.
        self._fields = {old: new for new, old in called.items() if old not in called}
        self.names = [name for _, name, _, _ in self._parts if name is not None]
        for _, name, spec, conversion in self._parts:
            if spec or conversion:
                raise ConfigError(f"template: placeholder {name!r}: expected a field's name alone, as in {{text}}")
            if name is not None and self._fields.get(name, name) in task.gold_fields:
                raise ConfigError(f"template: field {name!r} holds the answer of task {task.name}; the prompt cannot")
        if not self.names:
            raise ConfigError(f"template {text!r}: found no placeholder, expected at least one, as in {{text}}")

    def values(self, item: Mapping[str, str], record: Record) -> dict[str, str]:
        """The value of each placeholder."""
        return {name: self._value(name, item, record) for name in self.names}

    def _value(self, name: str, item: Mapping[str, str], record: Record) -> str:
        if name in item:
            return item[name]
        field = self._fields.get(name, name)
        if field not in record.fields:
            known = {*item, *(record.called.get(other, other) for other in record.fields.keys() - self._gold_fields)}
            own = record.called.get(name, name)
            raise ConfigError(f"template: unknown field {own!r} at {record.where}; expected one of {sorted(known)}")
        return record.text(field)

    def render(self, values: Mapping[str, str]) -> str:
        """The prompt."""
        return "".join(text + (values[name] if name is not None else "") for text, name, _, _ in self._parts).rstrip()
