"""Changes that a person makes to a vocabulary: tags are merged, renamed, removed and split.

A model's ids are append-only: whatever happens to a tag, its id and its row of the table stay. A renamed tag
has the new name at the old id; a merged, removed or split one stays where it is and is never an answer again,
because the rules beside the vocabulary say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from drel_core.bundle.tag_rules import RuleError, TagGroup, TagRules
from drel_core.did_you_mean import did_you_mean
from drel_core.errors import InputError

_SHOWN = 5
_COMPARED = 20_000  # names: comparing with more takes seconds


@dataclass(frozen=True)
class TagEdits:
    """What is to change. All names are those of before, but for the right sides of ``rename`` and ``split``.

    Args:
        merge: tag to the tag that takes it up; that one may be merged further.
        rename: tag to its new name.
        remove: tags that are to be neither learned nor said.
        split: tag to the tags that it becomes; where it is one of them it stays, else it goes.
        places: of a tag that an edit is about, where that edit is written; errors say it.
    """

    merge: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.merge or self.rename or self.remove or self.split)

    def sources(self) -> list[str]:
        """Every tag that an edit is about."""
        return [*self.merge, *self.rename, *self.remove, *self.split]

    def checked(self, names: Iterable[str], rules: TagRules | None = None) -> TagEdits:
        """These edits with merges followed to their end, once they have proved good.

        Args:
            names: the tags that there are.
            rules: of these tags, so that a name that is another spelling is told from an unknown one.

        Raises:
            InputError: an edit cannot be made.
        """
        known, rules = set(names), rules or TagRules()
        self._check_once()
        blocked = set(rules.blocked)
        for edit, tag in self._named():
            if rules.tag_of(tag) != tag:
                raise InputError(
                    f"{edit}: {tag!r} is another spelling of {rules.tag_of(tag)!r} already; name that one"
                )
            if tag in rules.split:
                raise InputError(f"{edit}: {tag!r} is split already; name one of its parts")
            if tag in blocked:
                raise InputError(f"{edit}: {tag!r} is blocked; take it out of `blocked` first")
            if tag not in known:
                raise InputError(f"{edit}: there is no tag {tag!r}{_near(tag, known)}")
        merge = self._followed_merges()
        for tag, into in self.merge.items():
            if into in (*self.remove, *self.split):
                what = "removed" if into in self.remove else "split"
                raise InputError(
                    f"{self._merge(tag)}: {into!r} is {what} by the same command; merge into a tag that "
                    "stays"
                )
        self._check_new(known, rules)
        return replace(
            self, merge={tag: self.rename.get(into, into) for tag, into in merge.items()}
        )

    def _check_once(self) -> None:
        seen: set[str] = set()
        for tag in self.sources():
            if tag in seen:
                raise InputError(
                    f"{self._at(tag)}{tag!r} is in two edits; give one command for each"
                )
            seen.add(tag)

    def _at(self, tag: str) -> str:
        return f"{self.places[tag]}: " if tag in self.places else ""

    def _merge(self, tag: str) -> str:
        return f"{self._at(tag)}--merge {tag}={self.merge[tag]}"

    def _rename(self, tag: str) -> str:
        return f"{self._at(tag)}--rename {tag}={self.rename[tag]}"

    def _split(self, tag: str) -> str:
        return f"{self._at(tag)}--split {tag}={','.join(self.split[tag])}"

    def _named(self) -> Iterable[tuple[str, str]]:
        for tag, into in self.merge.items():
            yield self._merge(tag), tag
            yield self._merge(tag), into
        for tag in self.rename:
            yield self._rename(tag), tag
        for tag in self.remove:
            yield f"{self._at(tag)}--remove {tag}", tag
        for tag in self.split:
            yield self._split(tag), tag

    def _followed_merges(self) -> dict[str, str]:
        """Each merged tag with the one at the end of its chain.

        Raises:
            InputError: a chain is a circle.
        """
        found = {}
        for first, into in self.merge.items():
            if into == first:
                raise InputError(f"{self._merge(first)}: a tag cannot be merged into itself")
            chain = [first]
            while into in self.merge:
                chain.append(into)
                into = self.merge[into]
                if into in chain:
                    shown = " -> ".join([*chain, into][:6])
                    raise InputError(
                        f"{self._at(first)}--merge: a circle ({shown}); one of them must stay"
                    )
            found[first] = into
        return found

    def _check_new(self, known: set[str], rules: TagRules) -> None:
        """New names must be new, and different."""
        given: set[str] = set()
        for tag, new, edit in self._new_names():
            meant = rules.tag_of(new)
            if new == tag and tag in self.rename:
                raise InputError(f"{edit}: that is its name already")
            if new in given:
                raise InputError(
                    f"{edit}: two tags would have the name {new!r}; merge them afterwards"
                )
            given.add(new)
            if new in known:
                other = (
                    f"to make one tag of both, --merge {tag}={new}"
                    if tag in self.rename
                    else "a part must be a new tag"
                )
                raise InputError(f"{edit}: there is a tag {new!r} already; {other}")
            if meant not in (new, tag):
                raise InputError(
                    f"{edit}: {new!r} is another spelling of {meant!r}; take it out of the aliases first"
                )

    def _new_names(self) -> Iterable[tuple[str, str, str]]:
        for tag, new in self.rename.items():
            yield tag, new, self._rename(tag)
        for tag, parts in self.split.items():
            edit = self._split(tag)
            if len(set(parts)) < len(parts):
                raise InputError(f"{edit}: names a part twice")
            if len(parts) < 2:
                raise InputError(f"{edit}: give two parts or more, --split TAG=ONE,OTHER")
            for part in parts:
                if part != tag:
                    yield tag, part, edit

    def appended(self) -> list[tuple[str, str]]:
        """(new tag, the tag that it starts as), in the order in which they are put behind the others."""
        return [(part, tag) for tag, parts in self.split.items() for part in parts if part != tag]

    def becomes(self, tag: str) -> tuple[str, ...]:
        """The tags that an image has in place of ``tag``; of checked edits. A split tag becomes all its
        parts: which image has which of them is said elsewhere."""
        if tag in self.merge:
            return (self.merge[tag],)
        if tag in self.rename:
            return (self.rename[tag],)
        if tag in self.remove:
            return ()
        return self.split.get(tag, (tag,))


def coming_back(names: Iterable[str], before: TagRules, after: TagRules) -> str:
    """A line on tags of a model that its rules ``before`` keep out of answers and ``after`` do not; empty
    where there are none."""

    def kept_out(rules: TagRules, name: str) -> str:
        if name in rules.split:
            return "split"
        if name in rules.blocked:
            return "blocked"
        return f"means {rules.aliases[name]!r}" if name in rules.aliases else ""

    why = {name: kept_out(before, name) for name in names}
    found = [name for name, reason in why.items() if reason and not kept_out(after, name)]
    if not found:
        return ""
    shown = ", ".join(f"{name!r} ({why[name]})" for name in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"these tags are answers again, which the model's own rules keep out: {shown}{more}; put its rules "
        "into the file if they should stay out"
    )


def _near(tag: str, known: set[str]) -> str:
    """``; did you mean NAME?``; of many names, one that differs in case alone."""
    if len(known) <= _COMPARED:
        return did_you_mean(tag, known)
    near = next((name for name in sorted(known) if name.casefold() == tag.casefold()), None)
    return f"; did you mean {near}?" if near else ""


@dataclass(frozen=True)
class EditedVocabulary:
    """A vocabulary after edits.

    Attributes:
        names: every id of before, and new ones at the end.
        start: of each new id the id whose row it starts from.
        rules: with the edits in them.
    """

    names: tuple[str, ...]
    start: tuple[int, ...]
    rules: TagRules


def edited(names: Sequence[str], rules: TagRules, edits: TagEdits) -> EditedVocabulary:
    """The vocabulary of a model after edits.

    Raises:
        InputError: an edit cannot be made, or the rules would contradict each other.
    """
    edits = edits.checked(names, rules)
    place = {name: tag for tag, name in enumerate(names)}
    appended = edits.appended()
    kept = [edits.rename.get(name, name) for name in names]
    try:
        after = edited_rules(rules, edits)
    except RuleError as error:
        raise InputError(f"after these edits the rules would not hold: {error}") from None
    return EditedVocabulary(
        (*kept, *(part for part, _ in appended)), tuple(place[tag] for _, tag in appended), after
    )


def edited_rules(rules: TagRules, edits: TagEdits) -> TagRules:
    """Rules after checked edits.

    Old names of merged and renamed tags become aliases, removed and split ones are blocked. What implied a
    tag that goes implies what that one implied; parts of a split tag imply what it implied, and take its
    place in groups and as parts of another.

    Raises:
        RuleError: they would contradict each other.
    """
    gone = {*edits.remove, *(tag for tag, parts in edits.split.items() if tag not in parts)}

    def one(tag: str) -> str:
        return edits.merge.get(tag, edits.rename.get(tag, tag))

    def implied(tag: str, seen: frozenset[str] = frozenset()) -> list[str]:
        """What implying ``tag`` is now."""
        if tag not in gone:
            return [one(tag)]
        above = [other for other in rules.implies.get(tag, ()) if other not in seen]
        return [name for other in above for name in implied(other, seen | {tag})]

    new_names = {*edits.rename.values(), *(part for part, _ in edits.appended())}
    aliases = {name: one(tag) for name, tag in rules.aliases.items() if name not in new_names}
    aliases |= {tag: one(tag) for tag in (*edits.merge, *edits.rename)}
    implies: dict[str, list[str]] = {}
    for tag, others in rules.implies.items():
        heads = edits.split.get(tag, ()) if tag in edits.split else (one(tag),)
        for head in heads:
            known = implies.setdefault(head, [])
            known += [name for other in others for name in implied(other) if name != head]
    groups = {
        name: TagGroup(_members(group.tags, edits, gone, one), group.at_most)
        for name, group in rules.groups.items()
    }
    blocked = [one(tag) for tag in rules.blocked if tag not in edits.merge]
    shown: dict[str, dict[str, str]] = {}
    for tag, named in rules.names.items():
        if tag not in gone:
            shown[one(tag)] = (
                {**named, **shown.get(one(tag), {})}
                if tag in edits.merge
                else {**shown.get(one(tag), {}), **named}
            )
    split = {
        tag: parts
        for tag, before in rules.split.items()
        if (parts := _members(before, edits, gone, one))
    }
    split |= {tag: parts for tag, parts in edits.split.items() if tag in gone}
    return TagRules(
        aliases,
        {tag: tuple(others) for tag, others in implies.items()},
        {name: group for name, group in groups.items() if group.tags},
        (*blocked, *(tag for tag in sorted(gone) if tag not in blocked)),
        shown,
        split,
    )


def _members(
    tags: Sequence[str], edits: TagEdits, gone: set[str], one: Callable[[str], str]
) -> tuple[str, ...]:
    found: list[str] = []
    for tag in tags:
        if tag in edits.split:
            found += edits.split[tag]
        elif tag not in gone:
            found.append(one(tag))
    return tuple(dict.fromkeys(found))
