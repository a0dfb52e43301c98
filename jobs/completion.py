"""A script for the shell that completes verbs and options: python -m jobs.completion bash"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from jobs.__main__ import verbs
from jobs.cli import FIRST, OneLineParser, preset_names, run_job
from jobs.parsers import parser_of

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Option:
    """An option of a verb.

    Attributes:
        name: with its two dashes.
        about: the first line of its help.
        values: what it may be, where these are few; () where any text is.
        path: it may name a file.
        flag: it needs no value.
    """

    name: str
    about: str
    values: tuple[str, ...] = ()
    path: bool = False
    flag: bool = False


def options_of(parser: OneLineParser) -> list[Option]:
    """Every option of a verb, in the order of its help."""
    found = []
    for action in parser._actions:
        name = next((name for name in action.option_strings if name.startswith("--")), "")
        if not name or parser.is_section(action.dest) or action.dest.endswith(".help"):
            continue
        values, path, flag = _takes(action)
        about = " ".join(str(action.help or "").split()).split(" (type:")[0]
        found.append(Option(name, about, values, path, flag))
    return sorted(found, key=lambda one: _place(one.name))


def _place(name: str) -> int:
    name = name.removeprefix("--")
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _takes(action: Any) -> tuple[tuple[str, ...], bool, bool]:
    """Which values, whether a path, whether none is needed."""
    if action.dest == "preset":
        return tuple(preset_names()), False, False
    if action.dest == "config":
        return (), True, False
    if action.nargs == 0:
        return (), False, True
    kind = getattr(action, "_typehint", None) or action.type
    parts = {kind, *(get_args(kind) if get_origin(kind) is not Literal else ())}
    if bool in parts:
        return ("true", "false"), False, True
    values = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    values += [str(value) for value in action.choices or ()]
    return tuple(map(str, values)), not values and str in parts, False


def every_verb() -> dict[str, list[Option]]:
    """The options of each verb. Imports all of them, which takes seconds."""
    return {verb: options_of(parser_of(verb)) for verb in verbs() if verb != "completion"}


def bash(known: dict[str, list[Option]]) -> str:
    """The script for bash; zsh runs it as well, by its bashcompinit."""
    names, first, values, no_path = [], [], [], []
    for verb, options in known.items():
        listed = " ".join(one.name for one in options)
        top = " ".join(one.name for one in options if _place(one.name) < len(FIRST))
        names.append(f"        {verb}) echo {shlex.quote(listed)} ;;")
        first.append(f"        {verb}) echo {shlex.quote(top)} ;;")
        for one in options:
            if one.values:
                said = shlex.quote(" ".join(one.values))
                values.append(f"        '{verb} {one.name}') echo {said} ;;")
            elif not one.path:
                no_path.append(f"'{verb} {one.name}'")
    return _BASH.format(
        verbs=" ".join([*known, "completion"]),
        modules=" ".join(["jobs", *(f"jobs.{verb}" for verb in [*known, "completion"])]),
        names="\n".join(names),
        first="\n".join(first),
        values="\n".join(values),
        no_path=" | ".join(no_path),
        shells=" ".join(SHELLS),
    )


def zsh(known: dict[str, list[Option]]) -> str:
    return (
        "autoload -U +X compinit bashcompinit\n"
        "(( $+functions[compdef] )) || compinit\n"
        f"bashcompinit\n{bash(known)}"
    )


def fish(known: dict[str, list[Option]]) -> str:
    """The script for fish, whose own completion of python stays."""
    python = "complete -c python -c python3"
    every = [*known, "completion"]
    modules = " ".join(["jobs", *(f"jobs.{verb}" for verb in every)])
    lines = [
        _FISH.strip(),
        f"{python} -n '__drel_after_module' -f -a '{modules}'",
        f"{python} -n '__drel_wants_verb' -f -a '{' '.join(every)}'",
        f"{python} -n '__drel_verb_is completion' -f -a '{' '.join(SHELLS)}'",
    ]
    for verb, options in known.items():
        for one in options:
            takes = "" if one.flag else " -r" if one.path else " -x"
            takes += f" -a {_fish_quoted(' '.join(one.values))}" if one.values else ""
            name, about = one.name.removeprefix("--"), _fish_quoted(one.about[:60])
            lines.append(f"{python} -n '__drel_verb_is {verb}' -l {name}{takes} -d {about}")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_BASH = """\
# Completes: python -m jobs VERB --OPTION VALUE. Made by python -m jobs completion.
_drel_options() {{
    case $1 in
{names}
    esac
}}
_drel_first_options() {{
    case $1 in
{first}
    esac
}}
_drel_values() {{
    case $1 in
{values}
    esac
}}
_drel_jobs() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local at=0 verb="" found="" IFS=$' \\n'
    COMPREPLY=()
    while [ "$at" -lt "$COMP_CWORD" ] && [ "${{COMP_WORDS[at]}}" != -m ]; do at=$((at + 1)); done
    case "${{COMP_WORDS[at+1]}}" in
        jobs) verb="${{COMP_WORDS[at+2]}}" ;;
        jobs.*) verb="${{COMP_WORDS[at+1]#jobs.}}" ;;
    esac
    if [ "$COMP_CWORD" -eq $((at + 1)) ] && [ "${{word#j}}" != "$word" ]; then
        COMPREPLY=($(compgen -W "{modules}" -- "$word"))
        return
    elif [ "${{COMP_WORDS[at+1]}}" = jobs ] && [ "$COMP_CWORD" -eq $((at + 2)) ]; then
        COMPREPLY=($(compgen -W "{verbs}" -- "$word"))
        return
    elif [ -z "$verb" ]; then
        _drel_elsewhere "$@"
        return
    elif [ "$verb" = completion ]; then
        COMPREPLY=($(compgen -W "{shells}" -- "$word"))
        return
    fi
    if [ "$word" = "=" ]; then
        word=""
    elif [ "$before" = "=" ]; then
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    case "$word" in
        -*) COMPREPLY=($(compgen -W "$(_drel_options "$verb")" -- "$word")); return ;;
    esac
    before="$(printf %s "$before" | sed 's/\\([^-]\\)-/\\1_/g')"
    found="$(_drel_values "$verb $before")"
    if [ -n "$found" ]; then
        COMPREPLY=($(compgen -W "$found" -- "$word"))
        return
    fi
    case "$verb $before" in
        {no_path}) ;;
        "$verb --"*) _drel_files "$word" ;;
        *) COMPREPLY=($(compgen -W "$(_drel_first_options "$verb")" -- "$word")) ;;
    esac
}}
_drel_files() {{
    local IFS=$'\\n' line
    compopt -o filenames 2>/dev/null
    COMPREPLY=()
    while read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$1")
}}
# What completed python before goes on with all other commands.
_drel_elsewhere() {{
    if [ -n "$_drel_before" ]; then "$_drel_before" "$@"; else _drel_files "${{COMP_WORDS[COMP_CWORD]}}"; fi
}}
if [ -n "$BASH_VERSION" ]; then
    complete -p python >/dev/null 2>&1 || _completion_loader python 2>/dev/null || true
    case "$(complete -p python 2>/dev/null)" in
        *" -F _drel_jobs "*) ;;
        *) _drel_before="$(complete -p python 2>/dev/null | sed -n 's/.* -F \\([^ ]*\\) .*/\\1/p')" ;;
    esac
fi
complete -F _drel_jobs python python3
"""

_FISH = """\
# Completes: python -m jobs VERB --OPTION VALUE. Made by python -m jobs completion.
function __drel_words
    set -l words (commandline -opc)
    if set -l at (contains -i -- -m $words)
        test (count $words) -ge $at; and printf '%s\\n' $words[(math $at + 1)..-1]
    end
end
function __drel_after_module
    set -l words (commandline -opc)
    test "$words[-1]" = -m
end
function __drel_wants_verb
    set -l words (__drel_words)
    test (count $words) -eq 1; and test "$words[1]" = jobs
end
function __drel_verb_is
    set -l words (__drel_words)
    test "$words[1]" = "jobs.$argv[1]"; or begin
        test "$words[1]" = jobs; and test "$words[2]" = "$argv[1]"
    end
end
"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.completion",
        description="Print a script that completes verbs, options, choices and files of python -m jobs. "
        'Switch it on in this shell: source <(python -m jobs completion bash), or "zsh"; fish: python -m '
        "jobs completion fish | source. Keep it: write it into a file that your shell's start-up reads.",
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")
    shell = parser.parse_args(arguments).shell
    known = every_verb()
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](known), end="")


if __name__ == "__main__":
    run_job(main)
