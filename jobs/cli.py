"""What every job shares: the parser, exit codes and the one line for bad input."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from distributed.runtime.signals import Stopped, stop_at_once, wish_to_stop
from drel_core.did_you_mean import did_you_mean
from drel_core.errors import Diverged, InputError, MachineBusy, behind, disk_fault
from jobs import end_at_once

_CREDENTIALS = re.compile(r"\b(\w+)://[^/\s@]+@")

Config = TypeVar("Config", bound=Any)
NOTHING = "nothing was written; the same command without --dry_run does it"
"""The last line of every ``--dry_run``."""
PRESETS = Path(__file__).parent / "presets"
FIRST = (
    *("source", "input", "tags", "model", "data", "data.train", "data.new", "data.test"),
    *("from_feedback", "out", "check", "split", "features", "method", "methods", "preset"),
    *("format", "workers", "epochs", "seed", "seeds", "trials", "k", "decide", "threshold"),
    *("suggest", "merge", "rename", "remove", "edits", "vocabulary", "prefix", "limit"),
    *("json", "dry_run", "publish", "port", "host", "replicas", "token_file", "config"),
)
"""Options that one needs first, of all jobs, in the order in which ``--help`` shows them."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line on stderr and exit code 2. ``--NAME`` of a bool stands for
    ``--NAME true``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.flags: set[str] = set()
        self.classes: list[Any] = []
        options.setdefault(
            "allow_abbrev", False
        )  # a name cut short is a mistake more often than a wish
        super().__init__(*args, **options)

    def add_class_arguments(self, theclass: Any, *args: Any, **options: Any) -> Any:
        self.flags |= _flags(theclass)
        self.classes.append(theclass)
        return super().add_class_arguments(theclass, *args, **options)

    def add_dry_run(self) -> None:
        """``--dry_run``: a flag that is no part of what the verb is configured with."""
        self.flags.add("--dry_run")
        self.add_argument(
            "--dry_run",
            type=bool,
            default=False,
            help="say what would run where, how long and with how much memory, and end; nothing is written",
        )

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        self.needed = {one.dest for one in self._actions if one.required}  # hidden while it parses
        if args is not None:
            args = _with_values(args, self.flags)
            self._refuse_sections(args)
        return super().parse_args(args, *rest, **options)

    def _refuse_sections(self, arguments: Sequence[str]) -> None:
        """``--data FILE`` where options are ``--data.train`` and others: the parser would read the file for a
        configuration."""
        for argument, after in zip(arguments, [*arguments, ""][1:], strict=True):
            name, mark, value = argument.partition("=")
            if name.startswith("--") and self.is_section(name[2:]):
                options = [one.dest for one in self._actions if one.dest.startswith(f"{name[2:]}.")]
                listed = ", ".join(f"--{option}" for option in options[:3])
                more = f" or another of its {len(options)} options" if len(options) > 3 else ""
                self.error(f"{name} {(value if mark else after)[:100]}: give {listed}{more}")

    def format_help(self, *args: Any, **options: Any) -> str:
        with self._first_things_first():
            return super().format_help(*args, **options)

    def sections(self) -> list[tuple[str, list[Any]]]:
        """Title and options of each section of the help, in its order."""
        with self._first_things_first():
            groups = [(one.title or "", list(one._group_actions)) for one in self._action_groups]
        return [(title, actions) for title, actions in groups if actions]

    @contextmanager
    def _first_things_first(self) -> Iterator[None]:
        """While the help is written: what one needs first, other options of the job, then the sections. The
        usage names what must be given."""
        groups, members = self._action_groups, [one._group_actions for one in self._action_groups]
        plain = [one for one in self._actions if not self.is_section(one.dest)]
        needed = [one for one in plain if one.dest in getattr(self, "needed", ())]
        first = [one for name in FIRST for one in plain if one.dest == name]
        first += [one for one in needed if one not in first]
        others = [one for one in plain if "." not in one.dest and one not in first]
        top = [self._titled("what one needs first", first), self._titled("other options", others)]
        notes = [one for one in groups if not one._group_actions]  # where default values come from
        try:
            for group in groups:
                left = [one for one in group._group_actions if one not in (*first, *others)]
                group._group_actions = left
            self._action_groups = [*notes, *top, *(one for one in groups if one not in notes)]
            given = [" ".join([*one.option_strings[:1], _metavar(one.dest)]) for one in needed]
            self.usage = " ".join(["%(prog)s", *given, "[options]"])
            yield
        finally:
            self._action_groups, self.usage = groups, None
            for group, actions in zip(groups, members, strict=True):
                group._group_actions = actions

    def is_section(self, name: str) -> bool:
        """It stands for options below it, ``--data`` for ``--data.train`` and others."""
        return any(one.dest.startswith(f"{name}.") for one in self._actions)

    def _titled(self, title: str, actions: list[Any]) -> Any:
        group = copy(self._optionals)
        group.title, group._group_actions = title, actions
        return group

    def error(self, message: str, ex: Exception | None = None) -> Any:
        lines = [line.strip() for line in str(message).splitlines() if line.strip()]
        print(f"error: {self._with_hint(' '.join(lines))} (see --help)", file=sys.stderr)
        sys.exit(2)

    def _with_hint(self, message: str) -> str:
        """The parser's own message, and what an unknown option or choice was perhaps meant to be."""
        if found := _NO_CHOICE.search(message):
            key, given = found["key"], found["given"][:100]
            choices = [str(choice) for choice in ast.literal_eval(f"[{found['choices']}]")]
            hint = did_you_mean(given, choices)
            return f"--{key} {given}: choose one of {', '.join(choices)}{hint}"
        if message.startswith(_NEEDED):
            names = message.removeprefix(_NEEDED).split(", ")
            options = {one.dest: [*one.option_strings, one.dest][0] for one in self._actions}
            return _NEEDED + ", ".join(options.get(name, name) for name in names)
        if found := _NO_VALUE.search(message):
            kind = _KINDS.get(found["kind"], found["kind"])
            return f"--{found['key']} {found['given'][:100]}: give {kind}"
        if found := _REFUSED.search(message):
            return f"--{found['key']}: {found['why'][:500]}"
        if found := _NO_WORD.search(message):
            choices = re.findall("'([^']*)'", found["choices"])
            hint = did_you_mean(found["given"], choices)
            return f"{found['given']}: choose one of {', '.join(choices)}{hint}"
        hint = ""
        if found := _NO_OPTION_IN_FILE.search(message):
            name = ".".join(filter(None, found.groups()))
            hint = did_you_mean(name, [one.dest for one in self._actions])
        elif message.startswith(_NO_OPTION):
            known = [option for one in self._actions for option in one.option_strings]
            words = message.removeprefix(_NO_OPTION).split()
            wrong = [word.partition("=")[0] for word in words if word.startswith("--")]
            hint = next(filter(None, (did_you_mean(word, known) for word in wrong)), "")
            if not words[0].startswith("-"):
                spellings = [one.option_strings for one in self._actions if one.dest in self.needed]
                first = next(filter(None, spellings), None)
                example = f", as in {first[0]} {words[0]}" if first else ""
                hint = f"; every value needs its option before it{example}"
        return message[:500] + hint


_NEEDED = "the following arguments are required: "
_NO_OPTION = "unrecognized arguments: "
_NO_OPTION_IN_FILE = re.compile(r"(?:Group '([^']+)' does not accept option|Option) '([^']+)'")
_NO_CHOICE = re.compile(
    r'Parser key "(?P<key>[^"]+)": .*?Literal\[(?P<choices>[^\]]*)\].* (?:Got|Given) value: (?P<given>.*)$'
)
_NO_VALUE = re.compile(
    r"""Parser key "(?P<key>[^"]+)": .*Expected an? <class '(?P<kind>\w+)'>. Got value: (?P<given>.*)$"""
)
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_REFUSED = re.compile(r"""Parser key "(?P<key>[^"]+)": (?:Not of type \w+: )?(?P<why>[^"]*)$""")
_NO_WORD = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)")


def _metavar(name: str) -> str:
    return name.rpartition(".")[2].upper()


def _flags(kind: Any) -> set[str]:
    """The options of a class that are bool, by their dotted names; also those of classes in it."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        if hint is bool:
            found.add(f"--{name}")
        elif is_dataclass(hint):
            found |= {f"--{name}.{inner.removeprefix('--')}" for inner in _flags(hint)}
    return found


def _with_values(arguments: Sequence[str], flags: set[str]) -> list[str]:
    """Arguments in which each flag that came without a value has one."""
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("--") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def say(line: str) -> None:
    """Show a line of progress at once, also where output goes to a file."""
    print(line, flush=True)


@contextmanager
def piped() -> Iterator[None]:
    """While a job writes lines that a reader such as ``head`` may close: it has read enough, and nothing is
    wrong."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter writes what is left when it ends: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build(parser: ArgumentParser, namespace: Namespace, kind: type[Config]) -> Config:
    """The configuration object of a parsed command line.

    Raises:
        InputError: a value is out of its range, as the dataclasses check it.
    """
    for key, value in vars(namespace.as_flat()).items():
        refuse_credentials(value, f"--{key}")
    try:
        ready = parser.instantiate(namespace)
        return kind(**{name: getattr(ready, name) for name in kind.__dataclass_fields__})
    except ValueError as error:
        raise InputError(f"{error} (see --help)") from error


def refuse_credentials(value: Any, option: str) -> None:
    """What is written into a URI would be in logs, in config.yaml and in the bundle.

    Raises:
        InputError: there is a user or a password in it; shows neither.
    """
    if isinstance(value, str) and (found := _CREDENTIALS.search(value)):
        raise InputError(
            f"{option}: holds a user or password before the @ ({found[1]}://…@…); leave it out and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
        )


def preset_files(arguments: list[str]) -> list[str | os.PathLike[Any]]:
    """The YAML of ``--preset NAME``, which --config and other flags override.

    Without --preset: the method's own where it has one (the three cnn-* share one), else best.
    """
    known = preset_names()
    name = _given(arguments, "--preset")
    if name is None:
        method = _given(arguments, "--method") or "drel"
        method = "cnn" if method.startswith("cnn-") else method
        name = method if method in known else "best"
    if name not in known:
        raise InputError(
            f"--preset {name!r} is not known; choose one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    return [str(PRESETS / f"{name}.yaml")]


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _given(arguments: list[str], option: str) -> str | None:
    """The value of an option, before there is a parser."""
    found = None
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            found = arguments[place + 1]
        elif argument.startswith(f"{option}="):
            found = argument.split("=", 1)[1]
    return found


_DRY = ("--dry_run", "--dry_run=true")  # a dry run that is stopped has nothing to go on from


def _underscores(argument: str) -> str:
    """``--min-tag-count=3`` as ``--min_tag_count=3``: both spellings of an option are taken."""
    name, mark, value = argument.partition("=")
    if not name.startswith("--") or len(name) < 3:
        return argument
    return "--" + name[2:].replace("-", "_") + mark + value


_S3_GONE = re.compile(
    r"When [^\n]{0,300}AWS Error (NETWORK_CONNECTION|SLOW_DOWN|INTERNAL_FAILURE|UNKNOWN)[^\n]*"
)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def disk_line(error: BaseException) -> str:
    """What to say where a disk or folder does not take what a job writes; empty for other errors."""
    if (fault := disk_fault(error)) is not None:
        place = fault.filename or min(_places(), key=lambda place: shutil.disk_usage(place).free)
        return (
            f"{place}: {fault.strerror}; make room there, and the same command goes on (or choose another "
            "--out; DREL_SCRATCH and TMPDIR name the folders for temporary files)"
        )
    if isinstance(error, OSError) and error.errno in _NO_ACCESS and error.filename:
        return f"{error.filename}: {error.strerror}; give access, or choose another place"
    return ""


def s3_line(error: BaseException) -> str:
    """What to say where S3 went away while a job ran; empty for other errors."""
    for one in behind(error):
        if found := _S3_GONE.search(str(one)):
            return (
                f"S3 does not answer any more ({found[0][:200]}); when it does, the same command goes on "
                "from what is there"
            )
    return ""


def _places() -> list[str]:
    """Folders that the job writes to and that are there."""
    out = Path(_given(sys.argv, "--out") or ".").absolute()
    there = next((folder for folder in (out, *out.parents) if folder.is_dir()), Path("/"))
    return [
        str(there),
        tempfile.gettempdir(),
        *filter(os.path.isdir, [os.environ.get("DREL_SCRATCH", "")]),
    ]


def run_job(main: Callable[[list[str]], None], goes_on: bool = True) -> None:
    """Run a job: 0 done, 2 the input is wrong (one line), 130 or 143 stopped (SIGINT, SIGTERM), 1
    anything else.

    Args:
        goes_on: the same command does not begin anew after a stop.
    """
    signal.signal(signal.SIGTERM, stop_at_once)
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for place, argument in enumerate(sys.argv[1:], 1):
            refuse_credentials(argument, f"argument {place}")
        main([_underscores(argument) for argument in sys.argv[1:]])
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (Diverged, MachineBusy) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BaseException as error:
        wish = None if isinstance(error, SystemExit) else wish_to_stop(error)
        if wish is None and (line := disk_line(error)):
            print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        if wish is None and (line := s3_line(error)):
            print(f"error: {line}", file=sys.stderr)
            sys.exit(1)
        if wish is None:
            raise
        is_dry = any(_underscores(given) in _DRY for given in sys.argv[1:])
        again = "goes on from the last checkpoint" if goes_on and not is_dry else "begins anew"
        print(f"stopped; the same command {again}", file=sys.stderr)
        sys.exit(128 + (wish.signum if isinstance(wish, Stopped) else signal.SIGINT))
