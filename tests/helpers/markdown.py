"""Markdown as the tests of docs read it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def without_code(text: str) -> str:
    """The text without blocks and pieces of code."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    return re.sub(r"(`+).+?\1", "", "\n".join(lines))


def links(text: str) -> list[str]:
    """Where its links and pictures lead to."""
    return LINK.findall(without_code(text))


def anchors(text: str) -> set[str]:
    """What ``#…`` may name in a page, as GitHub makes it of headings."""
    found: Counter[str] = Counter()
    named = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        named.add(anchor if not found[anchor] else f"{anchor}-{found[anchor]}")
        found[anchor] += 1
    return named


def code_lines(text: str) -> list[str]:
    """Lines of code blocks, those that end in a backslash joined with what follows."""
    blocks = [found[2] for found in FENCE.finditer(text)]
    blocks += re.findall(r"(?:^    .*\n?)+", FENCE.sub("", text), re.MULTILINE)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def code_pieces(text: str) -> list[str]:
    """Pieces of code within sentences and tables."""
    return [found[1] for found in re.findall(r"(`+)(.+?)\1", FENCE.sub("", text))]


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of a shell, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set(";&|<>"):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:  # no line of a shell: output that is shown, YAML
        return
    yield words


def jobs_calls(line: str) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of each ``python -m jobs.VERB``, ``python -m jobs VERB``, ``python -m
    benchmarks.NAME``."""
    for words in commands(line):
        for at, word in enumerate(words[:-1]):
            if word != "-m":
                continue
            module, rest = words[at + 1], words[at + 2 :]
            if module == "jobs" and rest:
                module, rest = f"jobs.{rest[0]}", rest[1:]
            if re.fullmatch(r"(jobs|benchmarks)\.[a-z_]+", module):
                yield module, rest


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Heading and text of each part of a page; a part has the text of those above it before its own."""
    above: dict[int, str] = {}
    parts = re.split(
        r"^(#{1,6}) (.+)$", FENCE.sub(lambda block: block[2], text), flags=re.MULTILINE
    )
    for marks, heading, own in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        above = {depth: said for depth, said in above.items() if depth < len(marks)}
        above[len(marks)] = f"{heading}\n{own}"
        yield heading, "\n".join(above.values())


def pages(root: Path) -> list[Path]:
    """Every page that users read."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"]
    for folder in ("docs", "cluster", "examples"):
        found += sorted((root / folder).rglob("*.md"))
    return found
