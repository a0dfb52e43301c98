"""How long the sentences of a page are: python docs/reading_ease.py README.md

Counted is prose alone: no code, tables, headings or comments. A piece of code inside a sentence is one word.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MOST_WORDS = 35
_IN_CODE = "\N{NO-BREAK SPACE}"
_CODE = "\N{WORD JOINER}"  # code begins: a sentence may begin with it in lower case


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a page of Markdown, each as one line of plain words."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    may_go_on = in_list = False
    for line in text.splitlines():
        item = re.match(r"\s*(?:[-*+]|\d+[.)])\s+(.*)", line)
        if not line.strip() or line.lstrip().startswith(("#", "|", "<")):
            in_list = in_list and not line.strip()
            may_go_on = False
        elif item:
            found.append(item[1])
            may_go_on = in_list = True
        elif line.startswith("    ") and not may_go_on and not in_list:
            continue  # code
        elif may_go_on:
            found[-1] += " " + line.strip()
        elif not line.startswith("    "):
            found.append(line.strip())
            may_go_on, in_list = True, False
    return [_plain(one) for one in found]


def _plain(text: str) -> str:
    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", "", text)
    text = re.sub(r"(`+)(.+?)\1", lambda code: _CODE + code[2].replace(" ", _IN_CODE), text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"(?<!\w)([*_]{1,2})(\S.*?)\1(?!\w)", r"\2", text).lstrip("> ").strip()


def sentences(text: str) -> list[str]:
    """The sentences of a page of Markdown. Blanks in a piece of code are no-break spaces."""
    return [
        one.strip().replace(_CODE, "")
        for part in prose(text)
        for one in re.split(rf"(?<=[.!?])[\"')]* +(?=[\"'(]*[A-Z0-9\[{_CODE}])", part)
        if one.strip()
    ]


def words(sentence: str) -> int:
    """Words; signs that stand alone are none."""
    return sum(bool(re.search(r"\w", one)) for one in sentence.split(" "))


def main(files: list[str]) -> None:
    for file in files:
        found = sorted(sentences(Path(file).read_text("utf-8")), key=words, reverse=True)
        counts = [words(one) for one in found]
        mean = sum(counts) / max(1, len(counts))
        print(f"{file}: {len(found)} sentences, {mean:.1f} words a sentence, longest {max(counts)}")
        for one, count in zip(found, counts, strict=True):
            if count > MOST_WORDS:
                print(f"  {count} words: {one}")


if __name__ == "__main__":
    main(sys.argv[1:])
