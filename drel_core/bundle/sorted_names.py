"""What names are to a model that shall get tags by name: blocked, known, or new."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from drel_core.bundle.tag_rules import TagRules


@dataclass(frozen=True)
class SortedNames:
    """
    Attributes:
        blocked: names whose tag the rules block.
        known: tags that the model has, each once.
        fresh: tags that it has not, each with the place of the first name that means it.
    """

    blocked: list[str]
    known: list[str]
    fresh: dict[str, int]


def sort_names(
    names: Sequence[str], model_tags: Collection[str], rules: TagRules | None
) -> SortedNames:
    """In the order of the names.

    Args:
        names: clean ones.
        rules: of the model. Another spelling is taken for its tag.
    """
    rules, has = rules or TagRules(), frozenset(model_tags)
    forbidden = frozenset(rules.blocked)
    blocked: list[str] = []
    known: dict[str, None] = {}
    fresh: dict[str, int] = {}
    for place, name in enumerate(names):
        tag = rules.tag_of(name)
        if tag in forbidden:
            blocked.append(name)
        elif tag in has:
            known[tag] = None
        else:
            fresh.setdefault(tag, place)
    return SortedNames(blocked, list(known), fresh)
