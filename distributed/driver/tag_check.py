"""What a vocabulary file would change in a store: how many images each rule is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from scipy import sparse

from distributed.data.tag_reader import TagReader
from distributed.driver.tag_view import shown
from distributed.runtime.progress import Log, Progress
from drel_core.bundle.tag_rules import TagRules


@dataclass
class RuleEffects:
    """Images that each rule is about.

    Attributes:
        images: that were looked at.
        aliases: alias to images that have it.
        implied: (tag, implied tag) to images that have the first, and get the second.
        blocked: tag to images that lose it.
        split: tag to images that have it and none of its parts, and are left out.
        too_many: group to images with more of its tags than it allows.
    """

    images: int = 0
    aliases: dict[str, int] = field(default_factory=dict)
    implied: dict[tuple[str, str], int] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    too_many: dict[str, int] = field(default_factory=dict)


def rule_effects(rules: TagRules, reader: TagReader, log: Log | None = None) -> RuleEffects:
    """Count the images of a store that rules change: spellings first, then implications, as they are
    applied."""
    tags = sorted({*rules.aliases, *rules.tags()})
    place = {name: tag for tag, name in enumerate(tags)}
    into_T = np.array([place[rules.tag_of(name)] for name in tags], dtype=np.int64)
    pairs = [(tag, other) for tag, others in rules.implied.items() for other in others]
    left, right = (np.array([place[pair[side]] for pair in pairs], dtype=int) for side in (0, 1))
    found = RuleEffects()
    # A part is also there where something that implies it is.
    parts = {
        tag: [place[name] for name in tags if not {*some}.isdisjoint(rules.with_implied(name))]
        for tag, some in rules.split.items()
    }
    found.split = dict.fromkeys(parts, 0)
    has_T = np.zeros(len(tags), dtype=np.int64)
    real_T = np.zeros(len(tags), dtype=np.int64)
    lacks_n = np.zeros(len(pairs), dtype=np.int64)
    too_many = dict.fromkeys(
        (name for name, group in rules.groups.items() if group.at_most is not None), 0
    )
    progress = Progress(log, "looking at the store", reader.images, "images")
    for has_BT in reader.matrices(pa.array(tags, pa.string())):
        has_T += _ones(has_BT)
        real_BT = _as_tags(has_BT, into_T).tocsc()
        real_T += _ones(real_BT)
        if pairs:
            both = real_BT[:, left].multiply(real_BT[:, right])
            lacks_n += _ones(real_BT[:, left]) - _ones(both)
        for name in too_many:
            group = rules.groups[name]
            members = [place[tag] for tag in group.tags]
            number_B = np.asarray(real_BT[:, members].sum(1)).reshape(-1)
            too_many[name] += int((number_B > (group.at_most or 0)).sum())
        for tag, members in parts.items():
            number_B = np.asarray(real_BT[:, members].sum(1)).reshape(-1)
            has_B = np.asarray(real_BT[:, [place[tag]]].sum(1)).reshape(-1) > 0
            found.split[tag] += int((has_B & (number_B == 0)).sum())
        found.images += has_BT.shape[0]
        progress.step(has_BT.shape[0])
    found.aliases = {name: int(has_T[place[name]]) for name in rules.aliases}
    found.implied = dict(zip(pairs, lacks_n.tolist(), strict=True))
    found.blocked = {name: int(real_T[place[name]]) for name in rules.blocked if name not in parts}
    found.too_many = too_many
    return found


def _ones(matrix: sparse.sparray) -> np.ndarray:
    return np.asarray(matrix.sum(0), dtype=np.int64).reshape(-1)


def _as_tags(has_BT: sparse.csr_array, into_T: np.ndarray) -> sparse.csr_array:
    """Spellings counted as the tags that they stand for, each once an image."""
    real = sparse.csr_array(
        (has_BT.data, into_T[has_BT.indices], has_BT.indptr.copy()), shape=has_BT.shape
    )
    real.sum_duplicates()
    real.data[:] = 1
    return real


def effects_of_model(rules: TagRules, names: Sequence[str], count_T: np.ndarray) -> RuleEffects:
    """As far as a model's counts say it: images of spellings and blocked tags that it has."""
    count: Mapping[str, int] = dict(zip(names, count_T.tolist(), strict=True))
    return RuleEffects(
        aliases={name: count.get(name, 0) for name in rules.aliases},
        implied={
            (tag, other): count.get(tag, 0)
            for tag, others in rules.implied.items()
            for other in others
        },
        blocked={name: count.get(name, 0) for name in rules.blocked if name not in rules.split},
        split={name: count.get(name, 0) for name in rules.split},
    )


def effect_lines(effects: RuleEffects, counted: bool, limit: int) -> Iterator[str]:
    """As printed.

    Args:
        counted: whether a store was looked at.
        limit: most lines of a kind of rule; 0: all.
    """
    most = limit or None
    implied = {f"{shown(a)} -> {shown(b)}": count for (a, b), count in effects.implied.items()}
    plain = lambda counts: {shown(name): count for name, count in counts.items()}  # noqa: E731
    get = "get" if counted else "may get"
    alone = (
        " and none of its parts, and are left out"
        if counted
        else "; without its parts they are left out"
    )
    for title, counts in (
        ("aliases: images that have the other spelling", plain(effects.aliases)),
        (f"implies: images that {get} the implied tag", implied),
        ("blocked: images that lose the tag", plain(effects.blocked)),
        (f"split: images that have the tag{alone}", plain(effects.split)),
        ("groups: images with more of its tags than at_most", plain(effects.too_many)),
    ):
        if not counts:
            continue
        yield f"{title} ({sum(1 for count in counts.values() if count):,} of {len(counts):,} rules)"
        order = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        yield from (f"{count:>9,}  {name}" for name, count in order[:most])
        if most is not None and len(order) > most:
            yield f"           … and {len(order) - most:,} more (--limit 0 shows all)"
