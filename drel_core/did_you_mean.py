"""The known name, or the path that is there, that a wrong one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?``, to be put behind an error; empty where no known name is like the given one.

    A known name that ends with the given one is meant first: ``--train`` is ``--data.train``. So is one that
    the given one ends with: ``--optim.epochs`` is ``--epochs``.
    """
    names = {name.lstrip("-"): name for name in sorted(known)}
    word = given.lstrip("-")
    found = [name for name in names if word and name.endswith(f".{word}")]
    found = found or [name for name in names if name and word.endswith(f".{name}")]
    found = (found or difflib.get_close_matches(word, names, n=1))[:3]
    return f"; did you mean {' or '.join(names[name] for name in found)}?" if found else ""


def near_path(given: Path, fits: Callable[[Path], bool] = Path.exists) -> str:
    """``; did you mean PATH?`` of a path that is not there: one beside it with a like name; empty where none
    fits.

    Args:
        fits: whether a path is what was wanted.
    """
    try:
        beside = {path.name: path for path in given.parent.iterdir() if path != given}
        close = difflib.get_close_matches(given.name, beside, n=3)
        found = next((beside[name] for name in close if fits(beside[name])), None)
    except OSError:  # no such folder, or one that may not be read
        return ""
    return f"; did you mean {found}?" if found is not None else ""
