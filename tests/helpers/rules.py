"""Any rules of tags, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from drel_core.bundle.tag_rules import TagGroup, TagRules

TAGS = tuple(f"t{tag}" for tag in range(12))
SPELLINGS = ("s0", "s1", "s2", "s3")


@st.composite
def small_rules(draw: st.DrawFn) -> TagRules:
    """Of some of ``TAGS``, each of which implies some of those behind it, and ``SPELLINGS`` of them."""
    implies = {
        tag: tuple(draw(st.lists(st.sampled_from(TAGS[place + 1 :]), max_size=2)))
        for place, tag in enumerate(TAGS[:-1])
        if draw(st.booleans())
    }
    implied = {other for others in implies.values() for other in others}
    free = [tag for tag in TAGS if tag not in implied]
    aliases = draw(st.dictionaries(st.sampled_from(SPELLINGS), st.sampled_from(TAGS)))
    blocked = draw(st.lists(st.sampled_from(free), max_size=2))
    closed = TagRules(implies=implies)
    groups = {}
    for name in draw(st.sets(st.sampled_from("abc"))):
        members = draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=5, unique=True))
        least = max(len(set(closed.with_implied(tag)) & set(members)) for tag in TAGS)
        groups[name] = TagGroup(tuple(members), max(1, least))
    # No part is blocked or implied by what it is a part of: any of the others.
    split = {}
    for tag in blocked[:1]:
        members = st.sampled_from([one for one in TAGS if one not in blocked])
        split[tag] = tuple(draw(st.lists(members, max_size=3, unique=True)))
    return TagRules(aliases, implies, groups, tuple(blocked), split=split)
