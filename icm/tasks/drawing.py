"""Claims made distinct and checked, then the part of them that a source asks for, and the draw from it.

Which claims are chosen, and in which order, follows from their content: neither from the order of the file nor from
gold, which is unreachable for the search that sees them.
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from icm.errors import ConfigError, DataError
from icm.examples import ICMExample, draw_groups, example_id
from icm.files import fingerprint
from icm.tasks.soundness import drained, first_few
from icm.tasks.source import DataSource
from icm.text import normalised_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """An example, its gold, and where it came from."""

    example: ICMExample
    gold: str | None
    where: str


def unique(claims: Iterable[Claim]) -> list[Claim]:
    """One claim a text, in an order that does not depend on the file's.

    A text whose gold labels contradict each other loses them, since nothing can be measured on it. It stays among the
    examples: what is loaded must not depend on gold.
    """
    same = [list(found) for _, found in groupby(sorted(claims, key=_id), key=_id)]
    several = [found for found in same if len(found) > 1]
    for found in several:
        _check_distinct(found)
    disputed = [found for found in several if len({c.gold for c in found} - {None}) > 1]
    if disputed:
        first = [claim.where for claim in disputed[0]]
        _log.warning(
            "%d texts have contradicting labels and count as unlabelled; the first at %s",
            len(disputed),
            first_few(first),
        )
    return [_merged(found) for found in drained(same)]


def _id(claim: Claim) -> str:
    return claim.example.id


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
    # The same one whatever the order of the file; gold has no say in it.
    first = min(found, key=lambda claim: (_content(claim.example), claim.example.record_id or ""))
    return replace(first, gold=golds.pop() if len(golds) == 1 else None)


def _content(example: ICMExample) -> str:
    return fingerprint([dict(example.metadata), asdict(example.relations)])


def group_id(text: str) -> str:
    """Id of a question: the same for texts that differ only as `normalised_text` allows."""
    return example_id(normalised_text(text))


def in_part(group: str, source: DataSource) -> bool:
    """Whether a group is on the source's side of the holdout.

    Its content alone decides, so that labelling, training and evaluation agree without a file that says so.
    """
    if not source.holdout:
        return True
    position = int(fingerprint(["holdout", group]), 16) / 16**16  # 16 hex digits as a number from 0 to 1
    return (position < source.holdout) == (source.part == "test")


def of_part(claims: Sequence[Claim], source: DataSource) -> list[Claim]:
    """The claims on the source's side of the holdout."""
    chosen = [claim for claim in claims if in_part(claim.example.group, source)]
    if not chosen:
        raise DataError(f"{source.dataset}: holdout {source.holdout} leaves no example in part {source.part!r}")
    return chosen


def draw(claims: Sequence[Claim], source: DataSource, trusted: Collection[str] = ()) -> list[Claim]:
    """At most `max_examples` claims, in an order that depends on the groups' content and the seed; those of `trusted`
    examples, by id, first.

    Groups are drawn whole: the consistency rules relate the claims of one question, and say nothing about half of it.
    """
    if source.max_examples is None:
        return list(claims)
    first = {claim.example.group for claim in claims if claim.example.id in trusted}
    needed = sum(claim.example.group in first for claim in claims)
    if needed > source.max_examples:
        raise ConfigError(
            f"max_examples: found {source.max_examples}, expected at least {needed}, the questions with trusted labels"
        )
    chosen = draw_groups(claims, lambda claim: claim.example.group, source.max_examples, source.seed, first)
    if not chosen:
        smallest = min(Counter(claim.example.group for claim in claims).values())
        raise ConfigError(
            f"max_examples: found {source.max_examples}, expected at least {smallest}, one whole question"
        )
    return chosen


def _by_group(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    groups: dict[str, list[Claim]] = {}
    for claim in claims:
        groups.setdefault(claim.example.group, []).append(claim)
    return groups


def slice_place(source: DataSource) -> tuple[int, int]:
    """(J, N) of a slice `J/N`; (1, 1), which is everything, without one. Raises ConfigError."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", source.slice or "1/1")
    if found is None or int(found[1]) > int(found[2]):
        raise ConfigError(f"slice: found {source.slice!r}, expected J/N, the J-th of N parts, for example 1/4")
    return int(found[1]), int(found[2])


def of_slice(claims: Sequence[Claim], source: DataSource) -> list[Claim]:
    """The claims of the source's slice. Raises ConfigError if there are fewer questions than slices."""
    if source.slice is None:
        return list(claims)
    number, count = slice_place(source)
    groups = _by_group(claims)
    if count > len(groups):
        raise ConfigError(f"slice: found {source.slice!r}, expected at most {len(groups)} parts, one a question")
    names = sorted(groups)
    random.Random(f"parts {source.seed}").shuffle(names)
    slices: list[list[Claim]] = [[] for _ in range(count)]
    for name in names:
        min(slices, key=len).extend(groups[name])
    return slices[number - 1]
