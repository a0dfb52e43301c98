"""docs/llms.txt: every page of the project with one line each, for programs that read (https://llmstxt.org)."""

from __future__ import annotations

import re
from pathlib import Path

from docs.reading_ease import prose, sentences

ROOT = Path(__file__).resolve().parent.parent.parent
_SECTIONS = {
    "Start": ("README.md", "docs/tutorial.md", "docs/README.md"),
    "Guides": ("docs/guides/*.md", "cluster/README.md"),
    "Reference": ("docs/reference/*.md",),
    "Explanation": ("docs/explanation/*.md",),
    "Results and operations": ("docs/*.md",),
    "Optional": ("docs/log.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/*/README.md"),
}
"""Patterns of pages. A page stands once: where its path is written out, else in the first that fits."""


def llms_page() -> str:
    lines = ["# DREL", "", f"> {_first_sentence(_text(ROOT / 'README.md'))}", ""]
    written_out = {ROOT / one for all_of in _SECTIONS.values() for one in all_of if "*" not in one}
    listed: set[Path] = set()
    for title, patterns in _SECTIONS.items():
        lines += [f"## {title}", ""]
        for pattern in patterns:
            for page in sorted(ROOT.glob(pattern)):
                if page not in listed and ("*" not in pattern or page not in written_out):
                    listed.add(page)
                    lines.append(_line(page))
        lines.append("")
    return "\n".join(lines)


def _line(page: Path) -> str:
    text = _text(page)
    title = re.search(r"^# (.+)", text, re.MULTILINE)
    assert title is not None, f"{page} has no title"
    answers = _first_sentence(text) if prose(text) else ""
    path = page.relative_to(ROOT).as_posix()
    link = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
    return f"- [{title[1]}]({link})" + (f": {answers}" if answers else "")


def _first_sentence(text: str) -> str:
    return " ".join(sentences(text)[0].split())


def _text(page: Path) -> str:
    return page.read_text("utf-8")
