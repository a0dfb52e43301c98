"""Which tags of a vocabulary may be one tag, by how they are written."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

SHORTEST = 6
"""Letters below which one wrong letter is more often another word."""
_MOST_ALIKE = 8
_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "men": "man",
    "mice": "mouse",
    "teeth": "tooth",
    "women": "woman",
}
_NO_PLURALS = ("chess", "christmas", "gas", "lens", "news", "series", "species")
_BETWEEN = re.compile(r"[\s_\-./'’`\"]+")


def plain_form(name: str) -> str:
    """A name without case, accents, and what stands between words: ``T-Shirt`` and ``tshirt`` are alike.

    What holds no letter or digit is left as it is: ``:-)`` is not ``:(``.
    """
    marks = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(sign for sign in marks if not unicodedata.combining(sign))
    joined = _BETWEEN.sub("", bare)
    return joined if any(sign.isalnum() for sign in joined) else name


def singular(word: str) -> str:
    """One form for singular and plural of an English word, by rules."""
    for many, one in _IRREGULAR.items():
        if word.endswith(many) and (word == many or many in ("men", "women")):
            return word[: -len(many)] + one
    if word.endswith(("ie", "ies")) and len(word) > 4:
        return word.removesuffix("s")[:-2] + "y"  # movies and movie are one form, whatever it is
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word in _NO_PLURALS:
        return word
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1]


def singular_form(name: str) -> str:
    """``plain_form`` of a name whose last word is in the singular."""
    head, last = re.fullmatch(r"(.*?)([^\W\d_]*)", name.casefold(), re.DOTALL).groups()  # type: ignore[union-attr]
    return plain_form(head + singular(last)) if last else plain_form(name)


def alike(names: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Pairs of names that are written nearly alike, each once, with how: ``same letters`` (but for case,
    accents, hyphens and blanks), ``plural`` or ``one letter``.

    Of many names that share a form only a few are paired, so that time grows with the names alone.
    """
    plain = [plain_form(name) for name in names]
    seen: set[tuple[int, int]] = set()
    for how, forms in (
        ("same letters", ((form, place) for place, form in enumerate(plain))),
        ("plural", ((singular_form(name), place) for place, name in enumerate(names))),
        ("one letter", _with_one_less(plain)),
    ):
        for pair in _sharing(forms):
            if pair not in seen and (how != "one letter" or _one_apart(*(plain[i] for i in pair))):
                seen.add(pair)
                yield (*pair, how)


def _sharing(forms: Iterable[tuple[str, int]]) -> Iterator[tuple[int, int]]:
    """Places that have a form in common."""
    places = defaultdict(list)
    for form, place in forms:
        places[form].append(place)
    for some in places.values():
        if len(some) > 1:
            yield from combinations(sorted(set(some[:_MOST_ALIKE])), 2)


def _with_one_less(forms: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each form, and it without each of its letters: forms that are one letter apart share one of these."""
    for place, form in enumerate(forms):
        if len(form) >= SHORTEST - 1:
            yield form, place
            for cut in range(len(form)):
                yield form[:cut] + form[cut + 1 :], place


def _one_apart(one: str, other: str) -> bool:
    """Whether a letter is missing, another one, or changed places with the next. It is no slip where digits
    differ (1920s, 1930s) or first letters (light, flight)."""
    if one[0] != other[0] or max(len(one), len(other)) < SHORTEST:
        return False
    start = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    a, b = one[start:], other[start:]
    fits = {
        1: a[1:] == b,
        -1: b[1:] == a,
        0: a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:]),
    }
    return fits.get(len(a) - len(b), False) and not any(sign.isdigit() for sign in a[:2] + b[:2])
