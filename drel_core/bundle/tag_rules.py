"""What holds between tags, whatever a model has learned: other spellings, implications, groups, blocked tags,
display names. A bundle keeps it as ``vocabulary.yaml``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from drel_core.did_you_mean import did_you_mean
from drel_core.errors import InputError

VOCABULARY_FILE = "vocabulary.yaml"
MOST_IMPLIED = 5_000_000
"""Tags that implications lead to, counted anew for each tag: what a small file may grow to."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8})*")
_NAMED = 3  # examples in a note


class RuleError(InputError):
    """A rule that cannot hold.

    Attributes:
        where: keys that lead to it, as in ``("aliases", "dogs")``.
        what: what is wrong with it, and what to change.
    """

    def __init__(self, where: Sequence[str], what: str) -> None:
        super().__init__(f"{': '.join(where)}: {what}")
        self.where = tuple(where)
        self.what = what


@dataclass(frozen=True)
class TagGroup:
    """Tags that belong together.

    Attributes:
        tags: different tags.
        at_most: most of them in one answer; None: any number.
    """

    tags: tuple[str, ...]
    at_most: int | None = None


@dataclass(frozen=True)
class TagRules:
    """Rules of tags. Every name is clean (``clean_tag``); only ``aliases`` has names that are no tags.

    Args:
        aliases: other spelling to tag. A chain of them is followed to its end.
        implies: tag to tags that are true as well wherever it is.
        groups: by name.
        blocked: tags that are neither learned nor said. What they imply is.
        names: tag to display name by language, as in ``{"dog": {"de": "Hund"}}``.
        split: tag to the tags that took its place. It is blocked too; an image that has it has one of its
            parts, and nobody knows which unless one is named.

    Raises:
        RuleError: rules contradict each other, or go in a circle.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    implies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, TagGroup] = field(default_factory=dict)
    blocked: tuple[str, ...] = ()
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("aliases", _followed(self.aliases))
        put("implies", {tag: _once(others) for tag, others in self.implies.items() if others})
        put("split", {tag: _once(parts) for tag, parts in self.split.items() if parts})
        put("blocked", _once((*self.blocked, *self.split)))
        groups = {name: TagGroup(_once(g.tags), g.at_most) for name, g in self.groups.items()}
        put("groups", groups)
        put("names", {tag: dict(of) for tag, of in self.names.items() if of})
        self._check_aliases()
        self._check_split()
        self._check_implied()
        self._check_groups()
        self._check_names()

    def __bool__(self) -> bool:
        """Whether there is any rule."""
        return bool(self.aliases or self.implies or self.groups or self.blocked or self.names)

    def __hash__(self) -> int:
        return hash(self.digest)

    # What the rules say of a name

    def tag_of(self, name: str) -> str:
        """The tag that a clean name stands for; a name without an alias is its own tag."""
        return self.aliases.get(name, name)

    @cached_property
    def implied(self) -> Mapping[str, tuple[str, ...]]:
        """All that a tag implies, directly or by others, the nearest first; of tags that imply anything."""
        return _closure(self.implies)

    def with_implied(self, tag: str) -> tuple[str, ...]:
        """A tag and all that it implies."""
        return (tag, *self.implied.get(tag, ()))

    def applied(self, names: Iterable[str], keep_split: bool = False) -> list[str]:
        """What an image is that somebody gave these clean names: spellings are made tags, implied tags come
        behind what implies them, blocked tags go, each tag stays once.

        Args:
            keep_split: tags that are split stay, for whoever may say later which part is meant.
        """
        tags = (tag for name in names for tag in self.with_implied(self.tag_of(name)))
        blocked = set(self.blocked) - (self.split.keys() if keep_split else set())
        return [tag for tag in dict.fromkeys(tags) if tag not in blocked]

    def undecided(self, names: Iterable[str]) -> list[str]:
        """Of the clean names of an image the tags that are split and have no part among them: nobody has
        said which part the image has."""
        if not self.split:
            return []
        tags = dict.fromkeys(tag for name in names for tag in self.with_implied(self.tag_of(name)))
        return [
            tag for tag in tags if tag in self.split and tags.keys().isdisjoint(self.split[tag])
        ]

    def parts_of(self, names: Iterable[str]) -> list[str]:
        """The tags that clean names stand for, in place of split ones all their parts; each once."""
        tags = map(self.tag_of, names)
        return [*dict.fromkeys(part for tag in tags for part in self.split.get(tag, (tag,)))]

    def order(self) -> list[str]:
        """Tags that imply or are implied, each before all that it implies."""
        return _order(self.implies)

    def groups_of(self, tag: str) -> list[str]:
        """Names of the groups that a tag is in."""
        return [name for name, group in self.groups.items() if tag in group.tags]

    def display_name(self, tag: str, language: str) -> str:
        """A tag in a language; ``de-at`` falls back to ``de``, and that to the tag itself."""
        named = self.names.get(tag, {})
        language = language.lower()
        while language:
            if language in named:
                return named[language]
            language = language.rpartition("-")[0]
        return tag

    @property
    def languages(self) -> list[str]:
        """Those that display names are in."""
        return sorted({language for named in self.names.values() for language in named})

    def tags(self) -> Iterator[str]:
        """Every tag that a rule names, in the order of the file; some more than once."""
        yield from self.aliases.values()
        for tag, others in self.implies.items():
            yield tag
            yield from others
        for group in self.groups.values():
            yield from group.tags
        yield from self.blocked
        for parts in self.split.values():
            yield from parts
        yield from self.names

    def check(self, names: Sequence[str]) -> list[str]:
        """Notes on what a vocabulary and these rules do not have in common; none is an error, as a file may
        serve many models.

        Args:
            names: the tags of a model or store.
        """
        known, notes = set(names), []

        def note(found: Iterable[str], text: str, guess: bool = False) -> None:
            missing = sorted(set(found))
            if missing:
                shown = [repr(name) for name in missing[:_NAMED]]
                if guess and len(known) <= 20_000:  # comparing with more takes seconds
                    like = did_you_mean(missing[0], known).removeprefix("; ")
                    shown[0] += f" ({like})" if like else ""
                more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
                notes.append(f"{text}: {', '.join(shown)}{more}")

        blocked = set(self.blocked)
        note(
            known & set(self.aliases), "tags of the vocabulary that the rules call other spellings"
        )
        note(known & blocked - self.split.keys(), "tags of the vocabulary that are blocked")
        note(known & self.split.keys(), "tags of the vocabulary that are split")
        unknown = {
            "aliases": self.aliases.values(),
            "implies": [tag for some in self.implies.items() for tag in (some[0], *some[1])],
            **{f"groups: {name}": group.tags for name, group in self.groups.items()},
            "split": [part for parts in self.split.values() for part in parts],
            "names": self.names,
        }
        for section, tags in unknown.items():
            note(set(tags) - known - blocked, f"{section}: no tags of the vocabulary", True)
        return notes

    # On disk

    @staticmethod
    def load(path: str | Path) -> TagRules:
        """Read a vocabulary file.

        Raises:
            InputError: it cannot be read, or a rule cannot hold; says file, line and key.
        """
        from drel_core.bundle.vocabulary_file import read_rules  # yaml is slow to import

        return read_rules(Path(path))

    @staticmethod
    def parse(text: str | bytes, source: str = VOCABULARY_FILE) -> TagRules:
        """Read the text of a vocabulary file; ``source`` names it in errors.

        Raises:
            InputError: see ``load``.
        """
        from drel_core.bundle.vocabulary_file import parse_rules

        return parse_rules(text, source)

    def to_yaml(self) -> str:
        """A vocabulary file of these rules: ``parse`` gives them back."""
        from drel_core.bundle.vocabulary_file import rules_text

        return rules_text(self)

    @cached_property
    def digest(self) -> str:
        """Names the rules: the same for the same rules."""
        groups = {name: [group.tags, group.at_most] for name, group in self.groups.items()}
        parts = [self.aliases, self.implies, groups, self.blocked, self.names]
        parts += [self.split] if self.split else []
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # What cannot hold

    def _check_aliases(self) -> None:
        def refuse(where: Sequence[str], name: str) -> None:
            if name in self.aliases:
                raise RuleError(
                    where,
                    f"{name!r} is another spelling of {self.aliases[name]!r} (aliases); "
                    f"write {self.aliases[name]!r} here",
                )

        for tag, others in self.implies.items():
            refuse(("implies", tag), tag)
            for other in others:
                refuse(("implies", tag), other)
        for name, group in self.groups.items():
            for tag in group.tags:
                refuse(("groups", name), tag)
        for tag, others in self.split.items():
            for other in (tag, *others):
                refuse(("split", tag), other)
        for tag in self.blocked:
            refuse(("blocked", tag), tag)
        for tag in self.names:
            refuse(("names", tag), tag)

    def _check_split(self) -> None:
        blocked = set(self.blocked)
        for tag, others in self.split.items():
            for other in others:
                if other == tag:
                    raise RuleError(
                        ("split", tag), f"{tag!r} cannot be a part of itself; take it out"
                    )
                if other in blocked:
                    what = (
                        "split as well; write its parts here" if other in self.split else "blocked"
                    )
                    raise RuleError(("split", tag), f"{other!r} is {what}")

    def _check_implied(self) -> None:
        blocked = set(self.blocked)
        for tag, others in self.implies.items():
            for other in others:
                if other in blocked:
                    raise RuleError(
                        ("implies", tag), f"{other!r} is blocked; take it out here, or unblock it"
                    )
        _ = self.implied  # refuses circles

    def _check_groups(self) -> None:
        for name, group in self.groups.items():
            if group.at_most is None:
                continue
            if group.at_most < 1:
                raise RuleError(
                    ("groups", name, "at_most"),
                    f"is {group.at_most}; it must be 1 or more (tags that are never said are blocked)",
                )
            members = set(group.tags)
            for tag in {*self.implied, *members}:
                both = [other for other in self.with_implied(tag) if other in members]
                if len(both) > group.at_most:
                    raise RuleError(
                        ("groups", name),
                        f"at most {group.at_most} of its tags, but {tag!r} "
                        + (
                            f"implies {' and '.join(map(repr, both))}"
                            if tag not in both
                            else f"implies {both[1]!r}, which is in it as well"
                        )
                        + "; take one out of the group, or raise at_most",
                    )

    def _check_names(self) -> None:
        for tag, named in self.names.items():
            for language in named:
                if not _LANGUAGE.fullmatch(language):
                    raise RuleError(
                        ("names", tag, language),
                        "is no language; write its code, such as de, fr or pt-br",
                    )


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _followed(aliases: Mapping[str, str]) -> dict[str, str]:
    """Each alias with the tag at the end of its chain, in the given order."""
    end: dict[str, str] = {}
    for first in aliases:
        chain: dict[str, None] = {}
        name = first
        while name in aliases and name not in end:
            if name in chain:
                circle = [*list(chain)[list(chain).index(name) :], name]
                raise RuleError(
                    ("aliases", first),
                    f"is another spelling of itself ({_arrows(circle)}); take one of them out",
                )
            chain[name] = None
            name = aliases[name]
        tag = end.get(name, name)
        end |= dict.fromkeys(chain, tag)
    return {name: end[name] for name in aliases}


def _arrows(names: Sequence[str]) -> str:
    shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    return " -> ".join(repr(name) if name != "…" else name for name in shown)


def _order(implies: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Each tag before all that it implies: depth first, without recursion.

    Raises:
        RuleError: a circle.
    """
    done: dict[str, None] = {}  # what is implied first
    for first in implies:
        path, on_path = [first], {first: iter(implies[first])}
        while path:
            tag = path[-1]
            after = None
            if tag not in done:
                after = next((other for other in on_path[tag] if other not in done), None)
            if after is None:
                done[tag] = None
                del on_path[path.pop()]
            elif after in on_path:
                circle = [*path[path.index(after) :], after]
                raise RuleError(
                    ("implies", tag), f"implies itself ({_arrows(circle)}); take one of them out"
                )
            else:
                path.append(after)
                on_path[after] = iter(implies.get(after, ()))
    return list(done)[::-1]


def _closure(implies: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    every: dict[str, tuple[str, ...]] = {}
    steps = 0
    for tag in reversed(_order(implies)):
        direct = implies.get(tag, ())
        steps += len(direct) + sum(len(every[other]) for other in direct)
        if steps > MOST_IMPLIED:
            raise RuleError(
                ("implies",),
                f"implications of implications lead to more than {MOST_IMPLIED:,} tags; are chains "
                "this long meant?",
            )
        found = dict.fromkeys(direct)
        for other in direct:
            found |= dict.fromkeys(every[other])
        every[tag] = tuple(found)
    return {tag: every[tag] for tag in implies}
