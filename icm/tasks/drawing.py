"""One example a text, gold apart, and the part and draw of a data set that a source asks for.

Nothing here depends on the order of the file or on gold: an example's place follows from its content.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from icm.errors import ConfigError, DataError
from icm.examples import ICMExample, LabelSpace, draw_groups, example_id
from icm.files import fingerprint
from icm.tasks.source import DataSource
from icm.text import normalised_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """An example, its gold, and where it came from."""

    example: ICMExample
    gold: str | None
    where: str


def unique(claims: Iterable[Claim]) -> list[Claim]:
    """One claim a text, whatever the order of the file. Texts whose labels contradict each other lose their gold
    label: the search does not see gold, so the data must load the same, but nothing can be measured on them."""
    same: dict[str, list[Claim]] = {}
    for claim in claims:
        same.setdefault(claim.example.id, []).append(claim)
    for found in same.values():
        _check_distinct(found)
    disputed = [found for found in same.values() if len({c.gold for c in found} - {None}) > 1]
    if disputed:
        first = [claim.where for claim in disputed[0]]
        _log.warning(
            "%d texts have contradicting labels and count as unlabelled; the first at %s",
            len(disputed),
            ", ".join(first),
        )
    return [_merged(found) for _, found in sorted(same.items())]


def _check_distinct(found: list[Claim]) -> None:
    """Refuse a template that leaves out what tells one claim from the next."""
    texts = sorted({str(claim.example.metadata.get("completion")) for claim in found})
    if len(texts) > 1:
        raise ConfigError(
            f"template: {texts[0][:60]!r} and {texts[1][:60]!r} at {found[0].where} give the same prompt "
            f"{found[0].example.input[-60:]!r}; name the field of the claim, one of {sorted(found[0].example.metadata)}"
        )


def _merged(found: list[Claim]) -> Claim:
    if len(found) == 1:
        return found[0]
    golds = {claim.gold for claim in found} - {None}
    first = min(found, key=lambda c: fingerprint([dict(c.example.metadata), vars(c.example.relations)]))
    return replace(first, gold=golds.pop() if len(golds) == 1 else None)


def check_gold(claims: Sequence[Claim], space: LabelSpace, source: DataSource, generated: bool) -> None:
    """Refuse labels outside the space, and data whose labels are all the same. Claims that a model has `generated`
    may all be wrong: that is its fault, not the data's."""
    labelled = [claim for claim in claims if claim.gold is not None]
    for claim in labelled:
        if claim.gold not in space.labels:
            raise DataError(f"{claim.where}: unknown label {claim.gold!r}, expected one of {list(space.labels)}")
    classes = {claim.gold for claim in labelled}
    if len(classes) == 1 and len(labelled) > 1 and not generated:
        raise DataError(
            f"{source.dataset}: all {len(labelled)} labels are {classes.pop()!r} (one class only); expected "
            f"{list(space.labels)}; data without labels can be loaded too"
        )


def group_id(text: str) -> str:
    """Id of a question: the same for texts that differ only as `normalised_text` allows."""
    return example_id(normalised_text(text))


def in_part(group: str, source: DataSource) -> bool:
    """Whether a group is on the source's side of the holdout: by its content alone, so that stages agree."""
    if not source.holdout:
        return True
    position = int(fingerprint(["holdout", group]), 16) / 16**16
    return (position < source.holdout) == (source.part == "test")


def of_part(claims: Sequence[Claim], source: DataSource) -> list[Claim]:
    chosen = [claim for claim in claims if in_part(claim.example.group, source)]
    if not chosen:
        raise DataError(f"{source.dataset}: holdout {source.holdout} leaves no example in part {source.part!r}")
    return chosen


def draw(claims: Sequence[Claim], source: DataSource) -> list[Claim]:
    """At most `max_examples` claims, in whole groups, in an order that depends on the groups' content and the seed."""
    if source.max_examples is None:
        return list(claims)
    chosen = draw_groups(claims, lambda claim: claim.example.group, source.max_examples, source.seed)
    if not chosen:
        smallest = min(Counter(claim.example.group for claim in claims).values())
        raise ConfigError(
            f"max_examples: found {source.max_examples}, expected at least {smallest}, one whole question"
        )
    return chosen
