"""How a tag is written: one form, whichever way it comes in."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_UNSEEN = "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff"
TRIMMED = "".join(
    c
    for c in map(
        chr, range(0x10000)
    )  # none lies above, and a look at all takes a tenth of a second
    if c.isspace() or c in _UNSEEN or (c < "\u00a0" and unicodedata.category(c) == "Cc")
)
"""What no tag begins or ends with: blanks, control characters, and characters that show nothing."""


def some_names(names: Sequence[str], most: int = 10) -> str:
    """Some of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name[:60]) for name in names[:most]) + more


def clean_tag(text: str) -> str:
    """A tag as vocabularies have it: NFC (an accent is part of its letter, where there is such a letter),
    without blanks around it. Empty where nothing is left: that is no tag."""
    return unicodedata.normalize("NFC", text).strip(TRIMMED)
