"""``vocabulary.yaml``: rules of tags as a person writes them.

Every name is the text that stands there: ``no``, ``1999`` and ``2024-01-01`` are tags, quoted or not. Nothing
of YAML that a file of names has no use for is taken: no anchors, no types, no second document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from drel_core.bundle.tag_rules import RuleError, TagGroup, TagRules
from drel_core.did_you_mean import did_you_mean
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag

LARGEST = 64 * 2**20
"""Bytes of a file."""
SECTIONS = ("aliases", "implies", "groups", "blocked", "split", "names")
# The same in C, twenty times as fast, where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_DEPTH = 4  # groups: season: tags: [spring]


class _Text(str):
    """A scalar and the line that it stands on."""

    line: int


class _List(list[Any]):
    line: int


class _Map(dict[_Text, Any]):
    line: int


_Node = _Text | _List | _Map


class _At(Exception):
    """What is wrong, and on which line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def read_rules(path: Path) -> TagRules:
    """See ``TagRules.load``."""
    try:
        with path.open("rb") as file:
            held = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from None
    return parse_rules(held, str(path))


def parse_rules(text: str | bytes, source: str) -> TagRules:
    """See ``TagRules.parse``."""
    if len(text) > LARGEST:
        raise InputError(f"{source}: more than {LARGEST // 2**20} MiB; is this a vocabulary file?")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise InputError(f"{source} line {line}: not UTF-8; save it as UTF-8") from None
    try:
        return _rules(_root(text))
    except _At as error:
        raise InputError(f"{source} line {error.line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{source}{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # characters that YAML has none of
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from None


def _rules(root: _Map) -> TagRules:
    for word in root:
        if word not in SECTIONS:
            raise _At(
                word.line,
                f"unknown key {str(word)!r}{did_you_mean(word, SECTIONS)}; "
                f"keys are {', '.join(SECTIONS)}",
            )
    lines: dict[tuple[str, ...], int] = {}

    def section(name: str, value: Callable[[_Text, _Node], Any]) -> dict[str, Any]:
        found = root.get(_Text(name), _Map())
        if _is_empty(found):  # a heading with nothing below it
            return {}
        given = _map(found, name)
        read = {}
        for key, node in given.items():
            tag = _name(key, f"{name}:")
            lines[name, tag] = key.line
            if tag in read:
                raise _At(
                    key.line, f"{name}: {tag!r} stands here twice (blanks around it do not count)"
                )
            read[tag] = value(key, node)
        return read

    def named(key: _Text, node: _Node) -> dict[str, str]:
        tag, found = str(key), {}
        for language, name in _map(node, f"names: {tag}").items():
            lines["names", clean_tag(tag), language.lower()] = language.line
            found[language.lower()] = _name(
                _text(name, f"names: {tag}: {language}"), f"names: {tag}:"
            )
        return found

    def group(key: _Text, node: _Node) -> TagGroup:
        if not isinstance(node, _Map):  # only to filter by
            return TagGroup(_names(node, f"groups: {key}"))
        for word in node:
            if word not in ("tags", "at_most"):
                raise _At(
                    word.line,
                    f"groups: {key}: unknown key {str(word)!r}{did_you_mean(word, ('tags', 'at_most'))}; "
                    "keys are tags and at_most",
                )
            lines["groups", clean_tag(key), str(word)] = word.line
        if _Text("tags") not in node:
            raise _At(key.line, f"groups: {key}: has no tags; write tags: [one, another]")
        most = node.get(_Text("at_most"))
        return TagGroup(
            _names(node[_Text("tags")], f"groups: {key}: tags"),
            None if most is None else _number(most, f"groups: {key}: at_most"),
        )

    blocked = root.get(_Text("blocked"), _List())
    for tag in () if _is_empty(blocked) else _list(blocked, "blocked"):
        lines["blocked", clean_tag(str(tag))] = tag.line
    parts: dict[str, Any] = {
        "aliases": section(
            "aliases", lambda key, node: _name(_text(node, f"aliases: {key}"), "aliases:")
        ),
        "implies": section("implies", lambda key, node: _names(node, f"implies: {key}")),
        "groups": section("groups", group),
        "split": section("split", lambda key, node: _names(node, f"split: {key}")),
        "names": section("names", named),
        "blocked": () if _is_empty(blocked) else _names(blocked, "blocked"),
    }
    try:
        return TagRules(**parts)
    except RuleError as error:
        where = error.where
        while where and where not in lines:
            where = where[:-1]
        at = lines.get(where, next((key.line for key in root if key == error.where[0]), 1))
        raise _At(at, str(error)) from None


def _is_empty(node: _Node) -> bool:
    return isinstance(node, _Text) and node == ""


def _map(node: _Node, where: str) -> _Map:
    if not isinstance(node, _Map):
        raise _At(node.line, f"{where}: must be lines of 'name: value', not {_kind(node)}")
    return node


def _list(node: _Node, where: str) -> list[_Node]:
    if isinstance(node, _Text):  # one name needs no brackets
        return [node]
    if not isinstance(node, _List):
        raise _At(
            node.line, f"{where}: must be a list of tags as in [one, another], not {_kind(node)}"
        )
    return node


def _text(node: _Node, where: str) -> _Text:
    if not isinstance(node, _Text):
        raise _At(node.line, f"{where}: must be one name, not {_kind(node)}")
    return node


def _name(text: _Text, where: str) -> str:
    name = clean_tag(text)
    if not name:
        raise _At(text.line, f"{where} a name is missing or empty")
    return name


def _names(node: _Node, where: str) -> tuple[str, ...]:
    return tuple(_name(_text(entry, where), f"{where}:") for entry in _list(node, where))


def _number(node: _Node, where: str) -> int:
    text = _text(node, where)
    try:
        return int(text)
    except ValueError:
        raise _At(text.line, f"{where}: is {str(text)!r}; it must be a whole number") from None


def _kind(node: _Node) -> str:
    if isinstance(node, _Text):
        return repr(str(node)) if node else "nothing"
    return "a list" if isinstance(node, _List) else "lines of 'name: value'"


def _root(text: str) -> _Map:
    events = iter(yaml.parse(text, Loader=_LOADER))
    root: _Map | None = None
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise _At(line, "a second document begins here (---); one file has one")
        if isinstance(event, yaml.NodeEvent):
            node = _node(event, events, 0)
            if _is_empty(node):
                root = _Map()
            elif isinstance(node, _Map):
                root = node
            else:
                raise _At(line, f"must be lines of 'name: value', not {_kind(node)}")
    return _Map() if root is None else root


def _node(event: Any, events: Iterator[Any], depth: int) -> _Node:
    """The scalar, list or mapping that an event begins."""
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _At(line, "anchors (& and *) are not taken; write names out, or in quotes")
    if event.tag is not None:
        raise _At(line, "types (!) are not taken; write names without, or in quotes")
    if depth > _DEPTH:
        raise _At(line, "too deep: nothing in this file has so many levels")
    node: _Node
    if isinstance(event, yaml.ScalarEvent):
        node = _Text(event.value)
    elif isinstance(event, yaml.SequenceStartEvent):
        node = _List()
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            node.append(_node(event, events, depth + 1))
    else:
        node = _Map()
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = _node(event, events, depth + 1)
            if not isinstance(key, _Text):
                raise _At(key.line, "a name is needed before ':'")
            if key in node:  # YAML itself would take the last one, silently
                raise _At(key.line, f"{str(key)!r} stands here twice; put both into one")
            node[key] = _node(next(events), events, depth + 1)
    node.line = line
    return node


def rules_text(rules: TagRules) -> str:
    """See ``TagRules.to_yaml``."""
    word = lambda text: yaml.ScalarNode("tag:yaml.org,2002:str", text)  # noqa: E731

    def rows(entries: Any, flow: bool = False) -> yaml.MappingNode:
        pairs = [(word(key), node) for key, node in entries]
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=flow)

    def names(tags: tuple[str, ...]) -> yaml.SequenceNode:
        return yaml.SequenceNode("tag:yaml.org,2002:seq", [word(t) for t in tags], flow_style=True)

    def group(of: TagGroup) -> yaml.Node:
        if of.at_most is None:
            return names(of.tags)
        number = yaml.ScalarNode("tag:yaml.org,2002:int", str(of.at_most))
        return rows([("tags", names(of.tags)), ("at_most", number)], flow=True)

    parts: dict[str, yaml.Node] = {}
    if rules.aliases:
        parts["aliases"] = rows((name, word(tag)) for name, tag in rules.aliases.items())
    if rules.implies:
        parts["implies"] = rows((tag, names(others)) for tag, others in rules.implies.items())
    if rules.groups:
        parts["groups"] = rows((name, group(of)) for name, of in rules.groups.items())
    if blocked := tuple(tag for tag in rules.blocked if tag not in rules.split):
        parts["blocked"] = names(blocked)
    if rules.split:
        parts["split"] = rows((tag, names(into)) for tag, into in rules.split.items())
    if rules.names:
        parts["names"] = rows(
            (tag, rows(((language, word(name)) for language, name in named.items()), flow=True))
            for tag, named in rules.names.items()
        )
    if not parts:
        return ""
    text: str = yaml.serialize(rows(parts.items()), Dumper=_DUMPER, allow_unicode=True, width=2**30)
    return text
