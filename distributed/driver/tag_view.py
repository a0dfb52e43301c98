"""The vocabulary of a model or store, as a person or a program reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drel_core.bundle.tag_rules import TagRules
from drel_core.tag_text import clean_tag


@dataclass(frozen=True)
class TagLine:
    """A tag and what rules say of it.

    Attributes:
        tag, count: images that carry it; of a model, training images.
        tag_id: its id in a model; None of a store.
        stands_for: the tag that it is another spelling of, else None.
        aliases, implies, groups, split: see ``TagRules``.
    """

    tag: str
    count: int
    tag_id: int | None
    stands_for: str | None = None
    blocked: bool = False
    aliases: tuple[str, ...] = ()
    implies: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    split: tuple[str, ...] = ()

    @property
    def unseen(self) -> bool:
        """No image taught it to the model."""
        return self.tag_id is not None and not self.count

    def to_dict(self) -> dict[str, Any]:
        """What is not so is left out."""
        every = {
            "tag": self.tag,
            "count": self.count,
            "id": self.tag_id,
            "unseen": self.unseen,
            "stands_for": self.stands_for,
            "blocked": self.blocked,
            "aliases": list(self.aliases),
            "implies": list(self.implies),
            "groups": list(self.groups),
            "split": list(self.split),
        }
        return {
            key: value for key, value in every.items() if value or (value == 0 and key in _ALWAYS)
        }

    def text(self) -> str:
        """One line: count, tag, and what is to say of it."""
        notes = ["unseen"] if self.unseen else []
        notes += [f"another spelling of {shown(self.stands_for)}"] if self.stands_for else []
        notes += ["blocked"] if self.blocked and not self.split else []
        for what, names in (
            ("split into", self.split),
            ("also", self.aliases),
            ("implies", self.implies),
            ("in", self.groups),
        ):
            if names:
                notes.append(f"{what} {', '.join(map(shown, names))}")
        line = f"{self.count:>9,}  {shown(self.tag)}"
        return f"{line}  ({'; '.join(notes)})" if notes else line


_ALWAYS = ("count", "id")


def tag_lines(
    names: Sequence[str],
    count_T: np.ndarray,
    rules: TagRules,
    ids: bool,
    prefix: str = "",
    alphabetical: bool = False,
) -> list[TagLine]:
    """Tags, the most frequent first.

    Args:
        ids: whether places are ids of a model.
        prefix: only tags that begin so, or have another spelling that does; case does not count.
        alphabetical: in place of the most frequent first.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name, tag in rules.aliases.items():
        spellings[tag].append(name)
    groups: dict[str, list[str]] = defaultdict(list)
    for group_name, group in rules.groups.items():
        for tag in group.tags:
            groups[tag].append(group_name)
    blocked, wanted = set(rules.blocked), clean_tag(prefix).casefold()
    order = np.argsort(-count_T, kind="stable") if not alphabetical else np.arange(len(names))
    places = order.tolist()
    places.sort(key=lambda place: (0 if alphabetical else -int(count_T[place]), names[place]))
    found = []
    for place in places:
        tag = names[place]
        if wanted and not any(
            one.casefold().startswith(wanted) for one in (tag, *spellings.get(tag, ()))
        ):
            continue
        meant = rules.tag_of(tag)
        found.append(
            TagLine(
                tag,
                int(count_T[place]),
                place if ids else None,
                None if meant == tag else meant,
                tag in blocked,
                tuple(spellings.get(tag, ())),
                rules.implied.get(tag, ()),
                tuple(groups.get(tag, ())),
                rules.split.get(tag, ()),
            )
        )
    return found


def summary(names: Sequence[str], count_T: np.ndarray, rules: TagRules) -> str:
    """One line on a whole vocabulary."""
    blocked = set(rules.blocked) - rules.split.keys()
    merged = sum(rules.tag_of(name) != name for name in names)
    parts = [f"{len(names):,} tags", f"{int((count_T > 0).sum()):,} with images"]
    for number, what in (
        (merged, "other spellings"),
        (sum(name in blocked for name in names), "blocked"),
        (len(rules.split), "split"),
        (len(rules.aliases), "aliases"),
        (len(rules.implies), "tags that imply others"),
        (len(rules.groups), "groups"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    return ", ".join(parts)


def shown(text: str) -> str:
    """A name on a terminal: nothing in it moves the cursor or ends the line."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def text_lines(lines: Sequence[TagLine], limit: int | None) -> Iterator[str]:
    """As printed; what ``limit`` leaves out is said."""
    for line in lines[:limit]:
        yield line.text()
    if limit is not None and len(lines) > limit:
        yield f"… and {len(lines) - limit:,} more (--limit 0 shows all)"
