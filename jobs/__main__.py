"""The list of verbs, and any of them by its name: python -m jobs VERB"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from drel_core.did_you_mean import did_you_mean
from drel_core.version import written_by

START = ("python -m jobs demo", "python -m jobs serve --model out/demo")
"""From the embedded example to tags in a browser."""


def verbs() -> dict[str, str]:
    """What each verb does, by its name: the first line of its file, up to the example of a call.

    Files are read, not imported: most verbs import torch, which takes seconds.
    """
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            found[file.stem] = first.partition(": python -m jobs.")[0]
    return found


def overview(known: dict[str, str]) -> str:
    """What ``python -m jobs`` prints."""
    lines = ["Train, evaluate and serve image annotation: python -m jobs VERB [options]", ""]
    lines += [f"  {name:12}{what}" for name, what in known.items()]
    lines += ["", "Start with", *(f"  {command}" for command in START), ""]
    lines += ["Options of a verb: python -m jobs VERB --help"]
    lines += ["Tab completes them after: source <(python -m jobs completion bash)"]
    return "\n".join(lines)


def run_verb(verb: str) -> None:
    """The same as ``python -m jobs.VERB``."""
    runpy.run_module(f"jobs.{verb}", run_name="__main__", alter_sys=True)


def main(arguments: list[str], run: Callable[[str], None] = run_verb) -> None:
    known = verbs()
    if len(arguments) == 2 and arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(known))
        return
    if arguments[0] == "--version":
        print(written_by())
        return
    verb, *rest = arguments
    if verb not in known:
        hint = did_you_mean(verb, known)
        print(
            f"error: there is no verb {verb!r}{hint} (python -m jobs lists them)", file=sys.stderr
        )
        sys.exit(2)
    sys.argv[1:] = rest  # where a verb finds its options
    run(verb)


if __name__ == "__main__":
    main(sys.argv[1:])
