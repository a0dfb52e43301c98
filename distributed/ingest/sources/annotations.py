"""Annotation files of COCO and of Open Images: names of pictures and their tags."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingest.sources.json_text import read_json
from distributed.ingest.sources.tag_files import column_names, read_text_table
from distributed.ingest.sources.tag_lists import TagForm
from distributed.storage.files import READ_ERRORS, one_line, read_bytes
from drel_core.errors import InputError


@dataclass(frozen=True)
class Annotations:
    """
    Attributes:
        names: of pictures, string; a name may occur in several rows.
        tags: list<string> of each row.
        notes: what a user should look at.
    """

    names: pa.Array
    tags: pa.Array
    notes: tuple[str, ...] = ()


def read_coco(path: str) -> Annotations:
    """A COCO file of objects: the tags of a picture are the categories of its annotations, each once.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    data = _read(path)
    try:
        whole = read_json(data)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({one_line(error)})") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(whole, dict) or not all(isinstance(whole.get(part), list) for part in parts):
        raise InputError(
            f"{path}: no COCO file of objects; it must be an object with lists {', '.join(parts)}"
        )
    name_of = _by_id(path, "categories", whole["categories"], "name")
    file_of = _by_id(path, "images", whole["images"], "file_name")
    tags: dict[str, dict[str, None]] = {image: {} for image in file_of}
    lost = 0
    for place, one in enumerate(whole["annotations"]):
        category, image = (
            one.get(name) if isinstance(one, dict) else None for name in ("category_id", "image_id")
        )
        name = name_of.get(_id(category) or "")
        if name is None:
            raise InputError(
                f"{path}: annotation {place} is of category_id {category!r}, which categories do not name"
            )
        if (found := tags.get(_id(image) or "")) is not None:
            found[name] = None
        else:
            lost += 1
    if lost and lost == len(whole["annotations"]):
        raise InputError(
            f"{path}: no annotation is of an image that it lists: the last has image_id {image!r}, the "
            f"first image has id {next(iter(tags), None)!r}"
        )
    notes = (f"{path}: {lost} annotations are of images that it does not list",) if lost else ()
    lists = pa.array([list(found) for found in tags.values()], pa.list_(pa.string()))
    return Annotations(pa.array(list(file_of.values()), pa.string()), TagForm().lists(lists), notes)


def _id(value: Any) -> str | None:
    """An id as text, since tools write one as 7, "7" or 7.0; None for what is no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _by_id(path: str, part: str, entries: list[Any], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, one in enumerate(entries):
        if not isinstance(one, dict) or not isinstance(one.get(name), str) or "id" not in one:
            raise InputError(f"{path}: {part} entry {place} has no id and {name}")
        key = _id(one["id"])
        if key is None or found.setdefault(key, one[name]) != one[name]:
            raise InputError(f"{path}: {part} entry {place}: id {one['id']!r} is no id of its own")
    return found


def read_open_images(path: str, classes: str, confidence: float) -> Annotations:
    """A label file of Open Images (``ImageID,Source,LabelName,Confidence``), or one of boxes.

    Args:
        classes: file of codes and names, with or without a header; empty: codes are tags.
        confidence: least confidence of a label. 0 says that a label was found to be wrong.

    Raises:
        InputError: a file cannot be read, or a code has no name.
    """
    there = column_names(path)
    wanted = ["ImageID", "LabelName"] + (["Confidence"] if "Confidence" in there else [])
    if not {"ImageID", "LabelName"} <= set(there):
        raise InputError(
            f"{path}: no labels of Open Images; it must have the columns ImageID and LabelName, it has "
            f"{', '.join(there)}"
        )
    table = read_text_table(path, dict.fromkeys(wanted, "--tags"))
    notes: list[str] = []
    if "Confidence" in wanted:
        try:
            sure = pc.cast(table.column("Confidence"), pa.float64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: Confidence is no number ({one_line(error)})") from error
        kept = table.filter(pc.and_(pc.greater(sure, 0.0), pc.greater_equal(sure, confidence)))
        if len(kept) < len(table):
            notes.append(
                f"{path}: {len(table) - len(kept)} of {len(table)} labels are below --confidence "
                f"{confidence} or were found to be wrong; they are left out"
            )
        table = kept
    label = table.column("LabelName").combine_chunks()
    if classes:
        codes, names = _class_descriptions(classes)
        place = pc.index_in(label, value_set=codes)
        if place.null_count:
            code = label.filter(pc.is_null(place))[0].as_py()
            raise InputError(
                f"{classes}: does not name {code!r}, which {path} has; give the file that does"
            )
        label = names.take(place)
    else:
        notes.append(
            f"{path}: tags are codes such as {label[0] if len(label) else ''}; --classes names them"
        )
    lists = pa.ListArray.from_arrays(pa.array(range(len(label) + 1), pa.int32()), label)
    ids = table.column("ImageID").combine_chunks()
    return Annotations(ids, TagForm().lists(lists), tuple(notes))


def _class_descriptions(path: str) -> tuple[pa.Array, pa.Array]:
    try:
        rows = [row for row in csv.reader(io.StringIO(_read(path).decode("utf-8-sig"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not CSV in UTF-8 ({one_line(error)})") from error
    if rows and rows[0][0] == "LabelName":
        rows = rows[1:]
    if not rows or any(len(row) < 2 for row in rows):
        raise InputError(f"{path}: every line must be a code and its name, as /m/011k07,Tortoise")
    twice = [code for code, count in Counter(row[0] for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"{path}: names {twice[0]!r} twice")
    return pa.array([row[0] for row in rows]), pa.array([row[1] for row in rows])


def _read(path: str) -> bytes:
    try:
        return read_bytes(path)
    except READ_ERRORS as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); give the annotations"
        ) from error
