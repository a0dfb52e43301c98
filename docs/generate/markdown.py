"""What the generated pages share."""

from __future__ import annotations

import re

GENERATED = "<!-- Written by `make docs` from the code. Changes made here are lost. -->"


def cell(text: str) -> str:
    """One line of Markdown that shows the text as it is; code in backticks stays code."""
    parts = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([\\*<>\[\]])", r"\\\1", parts[place])
    return "".join(parts).replace("|", "\\|")
