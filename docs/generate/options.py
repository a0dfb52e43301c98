"""docs/reference/options.md: every option of every verb, from their parsers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel

from distributed.training.config import option, with_option
from docs.generate.markdown import GENERATED, cell
from jobs.__main__ import verbs
from jobs.cli import PRESETS, OneLineParser
from jobs.parsers import parser_of

_SHARED = ("help", "print_config", "config")


def options_page() -> str:
    lines = [
        *("# Options of every command", ""),
        *("Which options does a command have, what may each be, and what is it by default?", ""),
        *(GENERATED, ""),
        "The sections are those of `--help`: first what one needs first. In every command",
        *(
            "",
            "- `--NAME VALUE`, `--NAME=VALUE` and `--some-name` for `--some_name` mean the same;",
        ),
        "- a bool may stand without a value: `--check` is `--check true`;",
        "- `--config FILE.yaml` reads any of its options from a file; options after it win;",
        "- `--SECTION FILE.yaml` reads the options of one section, such as `--optim FILE.yaml`;",
        "- `--print_config` prints the options as they are after all of this, and ends;",
        "- `--help` lists them.",
        "",
        "PATH is a local path or `s3://BUCKET/PATH`. A wrong option or value ends the command with one line "
        "and exit code 2.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [{verb}](#{verb}) | {what} |" for verb, what in verbs().items()),
        "",
    ]
    train = {one.dest: one for _, actions in _sections("train") for one in actions}
    for verb in verbs():
        lines += _verb(verb, {} if verb == "train" else train)
    return "\n".join([*lines, *_presets()]) + "\n"


def _sections(verb: str) -> Iterator[tuple[str, list[Any]]]:
    """Title and options of each section of ``--help``, without those that every command has."""
    for title, actions in parser_of(verb).sections():
        own = [one for one in actions if one.dest not in _SHARED and not _reads_section(one)]
        if own:
            yield title, own


def _reads_section(action: Any) -> bool:
    return type(action).__name__ == "_ActionConfigLoad"


def _verb(verb: str, train: dict[str, Any]) -> Iterator[str]:
    """A verb's part of the page.

    Args:
        train: options of jobs.train by name. A verb that has nearly all of them names only the others.
    """
    parser = parser_of(verb)
    limits = _limits_of(parser)
    defaults = parser.get_defaults().as_flat()
    found = dict(_sections(verb))
    mine = [one for actions in found.values() for one in actions]
    shared = [one for one in mine if one.dest in train and one.help == train[one.dest].help]
    yield from (f"## {verb}", "", f"`python -m jobs.{verb}`: {parser.description}", "")
    if len(shared) > len(train) / 2:
        yield from ("All options of [train](#train), and:", "")
        found = {
            title: left
            for title, actions in found.items()
            if (left := [one for one in actions if one not in shared])
        }
    for title, actions in found.items():
        yield from (
            f"### {verb}: {title}",
            "",
            "| option | value | default | |",
            "|---|---|---|---|",
        )
        for one in actions:
            default = _default(one, getattr(defaults, one.dest, None))
            kind = _kind(one) + (f": {limits[one.dest]}" if one.dest in limits else "")
            yield f"| `{[*one.option_strings, one.dest][0]}` | {kind} | {default} | {cell(one.help or '')} |"
        yield ""


def _kind(action: Any) -> str:
    """What may be given, in words."""
    if action.choices:
        return ", ".join(f"`{value}`" for value in action.choices)
    hint = getattr(action, "_typehint", None) or action.type or str
    return _type(hint)


def _type(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if type(None) in inner:
        rest = [one for one in inner if one is not type(None)]
        return " or ".join([*map(_type, rest), "`null`"])
    if origin is tuple:
        return f"({', '.join(map(_type, inner))})"
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is not None:
        return " or ".join(map(_type, inner))
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    return names.get(hint) or {"Workers": "N or MIN:MAX"}[hint.__name__]


def _default(action: Any, value: Any) -> str:
    if action.required:
        return "must be given"
    if value is None and "null" not in _kind(action):
        return ""
    if value == "":
        return "empty"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


_PROBES = (-3, -1, 0, 1, 1.5, 99_999)


def _limits_of(parser: OneLineParser) -> dict[str, str]:
    """What a number may be, by the option's name: as the verb says it of a number that it refuses."""
    numbers = [one.dest for one in parser._actions if _number(one)]
    found: dict[str, str] = {}
    for kind in parser.classes:
        ready = _smallest(kind)
        for name in filter(lambda name: _has(ready, name), numbers):
            said = {value: _refusal(ready, name, value) for value in _PROBES}
            limits = {one for one in said.values() if one}
            for limit in limits:
                takes = "" if said[-1] or "-1" in limit else ", or -1"
                found[name] = re.sub(r" \(\d+\)$", "", limit) + takes
    return found


def _refusal(ready: Any, name: str, value: float) -> str:
    """What a class of options says that another value must be; empty where it takes this one."""
    try:
        if isinstance(ready, BaseModel):
            type(ready).model_validate({**ready.model_dump(), name: value})
        else:
            with_option(ready, name, value)
    except ValueError as error:
        text = str(error).replace(" [type=", "\n")
        said = re.search(rf"\b{name} is .*; it must be (.+)", text)
        return said[1] if said else ""
    return ""


def _has(ready: Any, name: str) -> bool:
    try:
        option(ready, name)
    except AttributeError:
        return False
    return True


def _smallest(kind: Any) -> Any:
    """An object of a class of options, with anything for what must be given."""
    if issubclass(kind, BaseModel):
        return kind(model="x")
    hints = get_type_hints(kind)
    given = {}
    for name, field in kind.__dataclass_fields__.items():
        if field.default is MISSING and field.default_factory is MISSING:
            inner = get_args(hints[name])
            given[name] = _smallest(hints[name]) if is_dataclass(hints[name]) else [*inner, "x"][0]
    return kind(**given)


def _number(action: Any) -> bool:
    hint = getattr(action, "_typehint", None) or action.type
    return hint in (int, float) or (
        bool({int, float} & {*get_args(hint)}) and get_origin(hint) is not list
    )


def _presets() -> Iterator[str]:
    yield from (
        *("## Presets", ""),
        "The defaults of train above are those of the preset `best`. `--preset NAME` takes the values of",
        "another file in `jobs/presets`; options and `--config` win over them. Without `--preset`,",
        *("`--method` takes the file of its name, where there is one.", ""),
    )
    for file in sorted(set(PRESETS.glob("*.yaml")) - {PRESETS / "best.yaml"}):
        text = file.read_text("utf-8")
        what = " ".join(re.findall(r"^# ?(.*)", text.partition("\n\n")[0], re.MULTILINE)[:2])
        yield from (
            f"### Preset {file.stem}",
            "",
            cell(what),
            "",
            "| option | value |",
            "|---|---|",
        )
        for name, value in _flat(yaml.safe_load(text)):
            yield f"| `--{name}` | `{json.dumps(value) if not isinstance(value, str) else value}` |"
        yield ""


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
