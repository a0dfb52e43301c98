"""Which picture a tags file means: its names and those of the files need not be written alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import normalize

from drel_core.errors import InputError

_Parts = tuple[str, ...]


def match(
    names: Sequence[str], files: Sequence[str], root: str, where: str, suffixes: frozenset[str]
) -> list[int]:
    """Find the picture of each name.

    A name may be a path below the folder, or a path that ends like that (``images/1.jpg``, an absolute
    one), or the end of such a path (``1.jpg`` of ``train/1.jpg``), with or without its suffix. Accents may be
    composed or not. Where nothing else fits, case makes no difference, unless another name fits in its case.

    Args:
        names: different names, as the tags file has them.
        files: paths relative to the folder.
        root: the folder, absolute.
        where: the tags file, for messages.
        suffixes: of pictures, lower case with the dot.

    Returns:
        for each name the place of its picture; -1 without.

    Raises:
        InputError: a name may mean several pictures, or names of different folders mean one picture.
    """
    name_K = [_parts(name, root) for name in names]
    depths = {len(parts) for parts in name_K}
    exact = _Finder(files, depths, suffixes, fold=False)
    folded: _Finder | None = None
    whole_K = [exact.find(parts) for parts in name_K]
    taken = {found[0] for found in whole_K if len(found) == 1}
    picture_K: list[int] = []
    unclear: list[tuple[str, list[str]]] = []
    for name, parts, found in zip(names, name_K, whole_K, strict=True):
        if not found:
            folded = folded or _Finder(files, depths, suffixes, fold=True)
            found = folded.find(tuple(part.casefold() for part in parts))
            if len(found) == 1 and found[0] in taken:
                found = []  # another name means it as it is written: aB.jpg and ab.jpg are two pictures
        if len(found) > 1:
            unclear.append((name, [files[place] for place in found[:2]]))
        picture_K.append(found[0] if found else -1)
    if unclear:
        name, (one, other) = unclear[0]
        more = f" ({len(unclear) - 1} more names are unclear)" if len(unclear) > 1 else ""
        raise InputError(
            f"{where}: {name!r} may be {one} or {other}{more}; write each picture's path below the folder"
        )
    _check_one_name(names, name_K, files, picture_K, where)
    return picture_K


def _check_one_name(
    names: Sequence[str],
    name_K: Sequence[_Parts],
    files: Sequence[str],
    picture_K: Sequence[int],
    where: str,
) -> None:
    """Names of one picture must be ways to write one path: a/1.jpg and b/1.jpg are not."""
    first: dict[int, int] = {}
    for place, picture in enumerate(picture_K):
        if picture < 0:
            continue
        other = first.setdefault(picture, place)
        if name_K[other][:-1] == name_K[place][:-1]:
            continue
        one, two = name_K[other][:-1], name_K[place][:-1]
        short = min(len(one), len(two))
        if one[len(one) - short :] != two[len(two) - short :]:
            raise InputError(
                f"{where}: {names[other]!r} and {names[place]!r} would both be the picture {files[picture]}; "
                "give --input the folder in which both lie"
            )


class _Finder:
    """Pictures by the ends of their paths."""

    def __init__(
        self, files: Sequence[str], depths: set[int], suffixes: frozenset[str], fold: bool
    ) -> None:
        self.whole: dict[_Parts, list[int]] = {}
        self.ends: dict[_Parts, list[int]] = {}
        for place, file in enumerate(files):
            text = normalize("NFC", file)
            parts = tuple((text.casefold() if fold else text).split("/"))
            forms = [parts]
            stem, dot, suffix = parts[-1].rpartition(".")
            if stem and f"{dot}{suffix}".lower() in suffixes:
                forms.append((*parts[:-1], stem))
            for form in forms:
                self.whole.setdefault(form, []).append(place)
                for depth in depths:
                    if depth < len(form):
                        self.ends.setdefault(form[-depth:], []).append(place)

    def find(self, name: _Parts) -> list[int]:
        """Pictures whose path the name ends with (the longest), else those whose path ends with it."""
        for skip in range(len(name)):
            if found := self.whole.get(name[skip:]):
                return found
        return self.ends.get(name, [])


def _parts(name: str, root: str) -> _Parts:
    """Folders and file name, relative to the root where the name says so."""
    text = normalize("NFC", name.strip())
    text = re.sub(r"^file://(?:localhost)?(?=/)", "", text)
    if "\\" in text and "/" not in text:
        text = text.replace("\\", "/")
    base = normalize("NFC", root).rstrip("/") + "/"
    text = text.removeprefix(base)
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return tuple(parts)
