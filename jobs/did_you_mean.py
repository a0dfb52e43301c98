"""The known name that a wrong one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?``, to be put behind an error; empty where no known name is like the given one.

    A known name that ends with the given one is meant first: ``--train`` is ``--data.train``.
    """
    names = {name.lstrip("-"): name for name in sorted(known)}
    word = given.lstrip("-")
    found = [name for name in names if word and name.endswith(f".{word}")]
    found = (found or difflib.get_close_matches(word, names, n=1))[:3]
    return f"; did you mean {' or '.join(names[name] for name in found)}?" if found else ""
