"""Thumbnails of the images that a report shows, from wherever their pictures are."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs

from distributed.data.columns import Columns
from distributed.data.feature_store import RowGroupSlice
from distributed.data.parquet_files import list_files, read_footer
from distributed.data.picture_columns import may_hold_pictures
from distributed.ingest.sources.match import match
from distributed.ingest.sources.pictures import SUFFIXES
from distributed.reporting.shown_rows import Place, ShownRow, place_of, read_pictures, rows_of_ids
from distributed.storage.files import READ_ERRORS, address_below, one_line, read_bytes, resolve
from distributed.storage.listing import list_tree
from distributed.storage.s3 import is_s3, reach
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture, small_jpeg

_SIDE, _QUALITY = 240, 78
_FIRST = (".jpg", ".jpeg", ".png", ".webp", ".JPG")  # looked for before a folder is listed


@dataclass
class Thumbnails:
    """
    Attributes:
        uri: ``data:`` URI of a picture, by its row.
        note: what was not possible; empty where all are there.
    """

    uri: dict[Place, str] = field(default_factory=dict)
    note: str = ""


def thumbnails(
    units: Sequence[RowGroupSlice],
    rows: dict[Place, ShownRow],
    data: str,
    columns: Columns,
    pictures: str | None,
) -> Thumbnails:
    """Small pictures of some rows.

    They are looked for in ``pictures``, in the store, and where ``jobs.ingest`` found them.

    Args:
        units: one row each.
        rows: the same, read.
        data: the store.
        pictures: folder or store of pictures, by their ids; None: not given.

    Raises:
        InputError: ``pictures`` was given and is not there.
    """
    ids = {place: row.image_id for place, row in rows.items()}
    if pictures is not None:
        return _finish(_elsewhere(pictures, ids, columns), len(ids), pictures)
    if column := _picture_column(data, columns):
        return _finish(read_pictures(units, column), len(ids), f"column {column!r} of {data}")
    origin = _ingested_from(data)
    if origin is None:
        return Thumbnails(
            note=f"No pictures: the store has no column {columns.image!r} or {columns.path!r}. "
            "--pictures FOLDER (or a store of pictures) shows them."
        )
    try:
        return _finish(_elsewhere(origin, ids, columns), len(ids), origin)
    except InputError as error:
        return Thumbnails(note=f"No pictures: {error}. --pictures FOLDER says where they are now.")


def _finish(encoded: dict[Place, bytes], wanted: int, where: str) -> Thumbnails:
    found = Thumbnails()
    reason = "there is none"
    for place, data in encoded.items():
        try:
            found.uri[place] = thumbnail(data)
        except BadPicture as error:
            reason = str(error)
    if missing := wanted - len(found.uri):
        found.note = f"{missing} of {wanted} pictures are not in {where} ({reason})."
    return found


def thumbnail(data: bytes) -> str:
    """A ``data:`` URI of a small copy of a picture.

    Raises:
        BadPicture: it is none.
    """
    small = base64.b64encode(small_jpeg(data, _SIDE, _QUALITY)).decode()
    return f"data:image/jpeg;base64,{small}"


def _picture_column(data: str, columns: Columns) -> str:
    """The store's column of pictures or of their paths; empty without. One of the name may hold numbers."""
    filesystem, files = list_files(data, "--data")
    address, name, size = files[0]
    schema = read_footer(filesystem, address, name, size)[1]
    for column in (columns.image, columns.path):
        if column in schema.names and may_hold_pictures(schema.field(column).type):
            return column
    return ""


def _ingested_from(data: str) -> str | None:
    """The pictures that a store was made of, as the manifest of ``jobs.ingest`` says; None without."""
    filesystem, root = resolve(data)
    base = root.rstrip("/")
    for folder in (base, base.rpartition("/")[0]):
        try:
            with filesystem.open_input_stream(f"{folder}/manifest.json") as stream:
                source = json.loads(stream.read())["plan"]["source"]
            return str(source["input"]) if source["kind"] == "images" else None
        except (*READ_ERRORS, ValueError, KeyError, TypeError):
            continue
    return None


def check_pictures(path: str) -> None:
    """Raises:
    InputError: there is nothing, or it cannot be read.
    """
    filesystem, root = resolve(path)
    if is_s3(path):
        reach(path)
    try:
        is_there = path and filesystem.get_file_info(root).type != pafs.FileType.NotFound
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    if not is_there:
        raise InputError(
            f"{path or repr(path)}: no such file or folder; give --pictures a folder of pictures, or a "
            "Parquet store that holds them"
        )


def _elsewhere(path: str, ids: dict[Place, str], columns: Columns) -> dict[Place, bytes]:
    """Encoded pictures of rows, by their ids, of a folder of pictures or a store of them.

    Raises:
        InputError: there is nothing, or it cannot be read.
    """
    check_pictures(path)
    filesystem, root = resolve(path)
    try:
        held = _named_pictures(filesystem, root, set(ids.values()))
        if held is None:
            return _of_store(path, ids, columns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    found = {}
    for place, image_id in ids.items():
        if name := held.get(image_id):
            try:
                found[place] = read_bytes(address_below(path, name))
            except READ_ERRORS:
                continue
    return found


def _named_pictures(filesystem: pafs.FileSystem, root: str, ids: set[str]) -> dict[str, str] | None:
    """Files of a folder, relative to it, by the ids that they are named after; None of a store.

    A folder may hold a million pictures: it is listed only where the usual names are not there.
    """
    if filesystem.get_file_info(root).type == pafs.FileType.File:
        return None
    base = root.rstrip("/")
    candidates = {
        name: image_id
        for image_id in ids
        if _is_inside(image_id)
        for name in (image_id, *(f"{image_id}{suffix}" for suffix in _FIRST))
        if PurePosixPath(name).suffix.lower() in SUFFIXES
    }
    infos = filesystem.get_file_info([f"{base}/{name}" for name in candidates])
    held: dict[str, str] = {}
    for info, (name, image_id) in zip(infos, candidates.items(), strict=True):
        if info.type == pafs.FileType.File:
            held.setdefault(image_id, name)
    left = sorted(ids - set(held))
    if not left:
        return held
    names = [name[len(base) + 1 :] for name, _ in list_tree(filesystem, root).files]
    files = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not files and any(name.endswith(".parquet") for name in names):
        return None
    return held | _matched(left, files, base)


def _matched(ids: Iterable[str], files: list[str], root: str) -> dict[str, str]:
    """By the rules of ``jobs.ingest``. An id that may mean several pictures has none."""
    try:
        places = match(list(ids), files, root, root, SUFFIXES)
    except InputError:
        places = []
        for image_id in ids:
            try:
                places += match([image_id], files, root, root, SUFFIXES)
            except InputError:
                places.append(-1)
    return {
        image_id: files[place] for image_id, place in zip(ids, places, strict=True) if place >= 0
    }


def _is_inside(name: str) -> bool:
    """Whether a name leads to a file below a folder, and nowhere else."""
    parts = name.split("/")
    is_short = all(len(part.encode()) < 250 for part in parts)
    return is_short and not Path(name).is_absolute() and ".." not in parts and "\0" not in name


def _of_store(path: str, ids: dict[Place, str], columns: Columns) -> dict[Place, bytes]:
    column = _picture_column(path, columns)
    if not column:
        raise InputError(
            f"{path}: no column {columns.image!r} or {columns.path!r}; name the one that holds pictures "
            "with --columns.image"
        )
    files = [(address, name) for address, name, _ in list_files(path, "--pictures")[1]]
    rows = rows_of_ids(path, set(ids.values()), columns, files)
    encoded = read_pictures(rows.values(), column)
    return {
        place: encoded[where]
        for place, image_id in ids.items()
        if image_id in rows and (where := place_of(rows[image_id])) in encoded
    }
