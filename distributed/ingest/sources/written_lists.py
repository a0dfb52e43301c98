"""Lists that were written as text: ``['cat', 'dog']``, ``["cat","dog"]``, ``{cat,dog}``.

pandas, numpy, JSON, Postgres and R write such lists into CSV. Split at commas they would be tags like
``['cat'``.
"""

from __future__ import annotations

import ast
import csv
import json
import re

from drel_core.tag_text import TRIMMED

_CALL = r"(?:(?:np|numpy|pd)\.)?(?:array|list|tuple|set|frozenset|Index|c)\("
MAY_BE_A_LIST = rf"^\s*(?:[\[({{'\"]|{_CALL})"
"""Texts that begin otherwise are no lists."""
_CALLED = re.compile(rf"{_CALL}(.*?)(?:,\s*dtype=[^)\]]*)?\)", re.DOTALL)
_PAIRS = {"[": "]", "{": "}", "(": ")"}
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ITEM = re.compile(
    rf"(?P<text>[uU]?(?:{_QUOTED}))|(?:np\.)?str_\((?P<numpy>{_QUOTED})\)|(?P<number>-?\d+)(?![\w.])"
    r"|(?P<none>None|null|nan|NaN|NA|<NA>)\b",
    re.DOTALL,
)
_BETWEEN = re.compile(r"\s*,\s*|\s+")


def read_list(text: str, separator: str) -> list[str] | None:
    """The items of a list; None where the text is no list.

    Args:
        separator: between items that stand without quotes.

    Raises:
        ValueError: it is a list, but not one of texts, or it cannot be read; the message says why.
    """
    text = text.strip(TRIMMED)
    if called := _CALLED.fullmatch(text):
        inner = called[1].strip()
        if not inner:
            return []
        text = inner if inner[0] in _PAIRS else f"({inner})"
    if text[:1] not in _PAIRS:
        return _quoted_alone(text, separator)
    inner = text[1:-1].strip()
    if len(text) < 2 or text[-1] != _PAIRS[text[0]]:
        if re.match(r"[\[({]\s*[\[({]*\s*['\"]", text):
            raise ValueError("a list that is cut off")
        if text[0] in "[{" and _PAIRS[text[0]] not in text and separator in text:
            raise ValueError("a list that is cut off")
        return None
    items = _items(inner)
    if items is not None and (text[0] != "(" or not inner or inner[0] in "'\"uUn"):
        return items
    return _bare(text, inner, separator)


def _items(inner: str) -> list[str] | None:
    """Quoted texts, whole numbers and missing values, commas or blanks between them; else None."""
    found: list[str] = []
    at = 0
    while at < len(inner):
        item = _ITEM.match(inner, at)
        if item is None:
            break
        if literal := item["text"] or item["numpy"]:
            found.append(_unquoted(literal))
        elif number := item["number"]:
            found.append(number)
        at = item.end()
        between = _BETWEEN.match(inner, at)
        if between is None and at < len(inner):
            break
        at = between.end() if between else at
    if at >= len(inner):
        return found
    if inner.startswith("...", at) and found:
        raise ValueError("a list that was cut short with '...' when it was written")
    return None


def _unquoted(literal: str) -> str:
    if literal[0] == '"':
        try:
            return str(json.loads(literal))
        except ValueError:
            pass
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        raise ValueError(f"a list with a text that cannot be read ({literal[:40]})") from None


def _bare(text: str, inner: str, separator: str) -> list[str] | None:
    """Items without quotes, as Postgres and YAML write them."""
    if inner[:1] in ("'", '"') and (text[0] != "{" or re.match(rf"(?:{_QUOTED})\s*:", inner)):
        raise ValueError("not a list of texts")
    if inner[:1] in _PAIRS and inner[1:2] in ("", "'", '"', *_PAIRS):
        raise ValueError("a list of lists or objects, not of texts")
    if any(mark in inner for mark in "[](){}"):
        return None  # [a],[b]: brackets are part of the tags
    if text[0] != "(" and re.fullmatch(r"[-+.\deE\s,;]*\d", inner):
        raise ValueError("a list of numbers, not of texts")
    if separator not in inner:
        separator = ","
    if separator not in inner and (other := next((mark for mark in ";|" if mark in inner), None)):
        raise ValueError(f"a list with {other!r} between its items")
    if text[0] == "(" and separator not in inner:
        return None  # a remark in brackets
    if len(separator) == 1 and '"' in inner:
        return next(
            csv.reader([inner], delimiter=separator, skipinitialspace=True, escapechar="\\")
        )
    return inner.split(separator)


def _quoted_alone(text: str, separator: str) -> list[str] | None:
    """'cat', 'dog' without brackets: quotes around every item are no part of it."""
    whole = rf"(?:{_QUOTED})(?:\s*(?:{re.escape(separator)})\s*(?:{_QUOTED}))*"
    if not re.fullmatch(whole, text, re.DOTALL):
        return None
    return [_unquoted(literal) for literal in re.findall(_QUOTED, text, re.DOTALL)]
