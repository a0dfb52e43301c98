"""The words of a tag's name, and which of them can mean something."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from drel_core.tag_text import clean_tag

STOP_WORDS = frozenset(
    ["a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"]
)
"""What joins words and says nothing by itself."""
MOST_LETTERS = 1000
"""Of a name: what follows is not read."""

_CAPITAL = re.compile(r"(?<=[a-zà-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
_PLAIN = re.compile(r"[A-Za-z0-9]+")


def words_of(name: str) -> list[str]:
    """The words of a name in the order they stand, as they are written."""
    text = _CAPITAL.sub(" ", clean_tag(name[:MOST_LETTERS]))
    if text.isascii() and "'" not in text:
        return _PLAIN.findall(text)
    kept = (c if _in_word(c) else " " for c in text.replace("’", "'"))
    return [word for part in "".join(kept).split() if (word := part.strip("'"))]


def _in_word(c: str) -> bool:
    # Vowel signs of many scripts are marks (M): they belong to the word.
    return c.isalnum() or c == "'" or unicodedata.category(c).startswith("M")


def counted(words: list[str]) -> list[str]:
    """The words that can mean something: all but `of`, `the` and the like, unless there are no others."""
    return [word for word in words if word.casefold() not in STOP_WORDS] or words


def is_number(word: str) -> bool:
    """Whether a word is a number, or a mark of one: no letters, or three digits or more (`dsc0042`)."""
    return not any(c.isalpha() for c in word) or sum(c.isdigit() for c in word) >= 3


def forms(word: str) -> Iterator[str]:
    """A word and how else it may stand in a table: small, without `'s`, singular, plural, without accents."""
    small = word.casefold()
    yield word
    yield small
    if small.endswith("'s"):
        small = small[:-2]
        yield small
    if small.endswith("ies"):
        yield small[:-3] + "y"
    if small.endswith("es"):
        yield small[:-2]
    if small.endswith("s"):
        yield small[:-1]
    else:
        yield small + "s"
    plain = "".join(c for c in unicodedata.normalize("NFD", small) if not unicodedata.combining(c))
    if plain != small:
        yield from forms(plain)
