"""How the tags of pictures are found, in any source of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from drel_core.errors import InputError

ID_NAMES = ("image_id", "id", "key")
PATH_NAMES = ("path", "file", "filename", "file_name", "image_path", "image")
TAG_NAMES = ("tags", "keywords", "labels", "annotations", "label")


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How a pictures' tags are found."""

    tags: str | None = None
    """tags file (CSV, JSONL or Parquet) for a folder of pictures"""
    id_column: str = ""
    """column of --tags with the id or path; empty: image_id, id, key, path, file, filename or image"""
    tags_column: str = ""
    """column of --tags with the tags, a list or text with a separator; empty: tags, keywords or labels"""
    image_column: str = "image"
    """Parquet input: column with the encoded picture, or a struct of bytes and path"""
    classes: str = ""
    """openimages: CSV of codes and names (class-descriptions)"""
    confidence: float = 0.5
    """openimages: least confidence of a label that is taken, 0 to 1"""
    separator: str = ","
    """text that stands between tags in a text of several"""


def pick_column(
    names: list[str], wanted: str, known: tuple[str, ...], what: str, where: str
) -> str:
    """The column asked for, or the first that goes by a known name."""
    if wanted:
        if wanted not in names:
            raise InputError(f"{where}: no column {wanted!r}; it has {', '.join(names)}")
        return wanted
    lower = {name.lower(): name for name in reversed(names)}
    for name in known:
        if name in lower:
            return lower[name]
    raise InputError(
        f"{where}: no column for the {what}; it has {', '.join(names)}; name it with --{what}_column"
    )
