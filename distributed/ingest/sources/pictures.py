"""Sources of encoded pictures: folders with a tags file, and Parquet files that hold the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from distributed.data.feature_store import RowGroupSlice, read_table, units_in_range, units_of
from distributed.data.parquet_files import list_files, read_footer
from distributed.ingest.sources.base import IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from distributed.ingest.sources.tag_files import (
    column_names,
    read_text_table,
    table_suffix,
    tag_lists,
)
from distributed.storage.files import READ_ERRORS, one_line, resolve
from distributed.storage.listing import list_tree
from drel_core.errors import InputError

_KINDS = ("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "tif", "tiff", "webp", "avif", "jp2")
SUFFIXES = frozenset(f".{kind}" for kind in (*_KINDS, "ppm", "pgm", "tga", "ico"))
_ID_NAMES = ("image_id", "id", "key")
_PATH_NAMES = ("path", "file", "filename", "file_name", "image_path")
_TAG_NAMES = ("tags", "keywords", "labels", "annotations")


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How a pictures' tags are found."""

    tags: str | None = None
    """tags file (CSV, JSONL or Parquet) for a folder of pictures"""
    id_column: str = ""
    """its column with the picture's id or path; empty: image_id, id, key, path, file or filename"""
    tags_column: str = ""
    """its column with the tags, a list or a separated string; empty: tags, keywords or labels"""
    image_column: str = "image"
    """Parquet input: column with the encoded picture"""
    separator: str = ","
    """between tags in a string"""


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


def read_tags_file(path: str, options: PictureOptions) -> tuple[pa.Array, pa.Array]:
    """Ids or paths, and tags as they stand there, of a CSV, TSV, JSON lines or Parquet file."""
    parquet = table_suffix(path) == ".parquet"
    filesystem, name = resolve(path)
    try:
        names = pq.read_schema(name, filesystem=filesystem).names if parquet else column_names(path)
        key = pick_column(names, options.id_column, _ID_NAMES + _PATH_NAMES, "id", path)
        tags = pick_column(names, options.tags_column, _TAG_NAMES, "tags", path)
        if parquet:
            table = pq.read_table(name, filesystem=filesystem, columns=[key, tags])
        else:
            table = read_text_table(path, {key: "--id_column", tags: "--tags_column"})
    except READ_ERRORS as error:
        raise InputError(
            f"{path}: the tags file cannot be read ({one_line(error)}); "
            "it must be CSV with a header, JSON lines or Parquet"
        ) from error
    return (
        table.column(key).combine_chunks().cast(pa.string()),
        table.column(tags).combine_chunks(),
    )


@dataclass(frozen=True)
class PictureFolder:
    """A folder or ``s3://`` prefix of pictures, joined with a tags file by id or by path.

    Attributes:
        rows: ``image_id``, ``path`` (null where the tags file names a picture that is not there),
            ``tags`` (null where a picture is not in the tags file), sorted by id.
        unreadable: paths of pictures that are not UTF-8, as they can be printed.
    """

    root: str
    options: PictureOptions
    rows: pa.Table = field(repr=False)
    unreadable: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows + len(self.unreadable)

    @staticmethod
    def open(path: str, options: PictureOptions) -> PictureFolder:
        """List the pictures and read the tags file.

        Raises:
            InputError: no folder, no picture in it, no tags file or no fitting column in it.
        """
        if options.tags is None:
            raise InputError(
                f"{path}: a folder of pictures needs --tags FILE with a column of ids or paths and "
                "a column of tags"
            )
        key, column = read_tags_file(options.tags, options)
        tags = tag_lists(column, options.separator)
        found, unreadable = _list_pictures(path)
        return PictureFolder(path, options, _join(found, key, tags), unreadable)

    def read(self, start: int, rows: int) -> Chunk:
        part = self.rows.slice(start, rows)
        base = self.root.rstrip("/")
        rest = range(max(start, len(self.rows)), min(start + rows, self.num_rows))
        out: list[Rejection] = [
            (None, self.unreadable[row - len(self.rows)], "its name is not UTF-8; rename the file")
            for row in rest
        ]
        missing = part.filter(pc.is_null(part.column("path")))
        for row in missing.to_pylist():
            out.append(
                (row[IMAGE_ID], f"{self.options.tags}", "named in the tags file, no picture")
            )
        there = part.filter(pc.is_valid(part.column("path")))
        for row in there.filter(pc.is_null(there.column(TAGS))).to_pylist():
            out.append((row[IMAGE_ID], f"{base}/{row['path']}", "not in the tags file"))
        good = there.filter(pc.is_valid(there.column(TAGS)))
        full = pc.binary_join_element_wise(base + "/", good.column("path"), "")
        table = pa.table({IMAGE_ID: good.column(IMAGE_ID), "path": full, TAGS: good.column(TAGS)})
        return Chunk(table.append_column(SPLIT, pa.nulls(len(table), pa.string())), rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "images", "input": self.root, "tags": self.options.tags}


def _list_pictures(path: str) -> tuple[pa.Array, tuple[str, ...]]:
    """Paths of pictures relative to the folder, sorted; and those whose names are not UTF-8."""
    filesystem, root = resolve(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type != pafs.FileType.Directory:
            raise InputError(
                f"{path}: no such folder; give --input a folder of pictures or a Parquet file"
            )
        listing = list_tree(filesystem, root)
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({one_line(error)})") from error
    cut = len(root.rstrip("/")) + 1
    names = [name[cut:] for name, _ in listing.files if _is_picture(name)]
    unreadable = tuple(name for name in listing.unreadable if _is_picture(name))
    if not names and not unreadable:
        raise InputError(
            f"{path}: no picture in it (looked for {', '.join(sorted(SUFFIXES))}); "
            "give --input a folder of pictures"
        )
    return pa.array(names, pa.string()), unreadable


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _join(path: pa.Array, key: pa.Array, tags: pa.Array) -> pa.Table:
    """Pairs of a picture and its row in the tags file: by path, else by path without suffix,
    else by the file's name without suffix (the first that fits most rows)."""
    texts = path.to_pylist()
    stems = [str(PurePosixPath(text).with_suffix("")) for text in texts]
    bare = [PurePosixPath(text).stem for text in texts]
    names = [str(PurePosixPath(text).name) for text in texts]
    best, place = -1, None
    for form in (texts, stems, names, bare):
        at = pc.index_in(pa.array(form, pa.string()), value_set=key)
        hits = len(at) - at.null_count
        if hits > best:
            best, place = hits, at
    assert place is not None
    with_tags = tags.take(place)  # null where the picture is not in the tags file
    ids = pc.coalesce(key.take(place), path)
    used = np.zeros(len(key), dtype=bool)
    used[pc.drop_null(place).to_numpy(zero_copy_only=False)] = True
    left = pa.array(np.flatnonzero(~used))
    lost = pc.fill_null(key.take(left), "")
    table = pa.table(
        {
            IMAGE_ID: pa.concat_arrays([ids, lost]),
            "path": pa.concat_arrays([path, pa.nulls(len(left), pa.string())]),
            TAGS: pa.concat_arrays([with_tags, pa.nulls(len(left), with_tags.type)]),
        }
    )
    return table.sort_by([(IMAGE_ID, "ascending"), ("path", "ascending")])


@dataclass(frozen=True)
class PictureParquet:
    """Parquet files with ``image_id``, encoded pictures and tags. Files or folders named train* and
    test* are those parts."""

    root: str
    options: PictureOptions
    id_name: str
    tags_name: str
    units: tuple[RowGroupSlice, ...] = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)

    @property
    def num_rows(self) -> int:
        return self.starts[-1]

    @staticmethod
    def open(path: str, options: PictureOptions) -> PictureParquet:
        """Read the footers.

        Raises:
            InputError: no Parquet, or columns are missing or of a wrong type.
        """
        filesystem, files = list_files(path, "--input")
        units: list[RowGroupSlice] = []
        names: tuple[str, str] | None = None
        for address, name, size in files:
            metadata, schema = read_footer(filesystem, address, name, size)
            if options.image_column not in schema.names:
                raise InputError(
                    f"{address}: no column {options.image_column!r} with encoded pictures; it has "
                    f"{', '.join(schema.names)}; name the right one with --image_column"
                )
            kind = schema.field(options.image_column).type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise InputError(
                    f"{address}: column {options.image_column!r} is {kind}; it must be binary"
                )
            here = (
                pick_column(schema.names, options.id_column, _ID_NAMES, "id", address),
                pick_column(schema.names, options.tags_column, _TAG_NAMES, "tags", address),
            )
            names = names or here
            if here != names:
                raise InputError(
                    f"{address}: its columns {here} differ from {names} of the first file; "
                    "name them with --id_column and --tags_column"
                )
            units += units_of(address, metadata)
        if names is None or not units:
            raise InputError(f"{path}: no rows; give --input at least one picture")
        starts = np.cumsum([0, *(unit.rows for unit in units)]).tolist()
        return PictureParquet(path, options, *names, tuple(units), tuple(starts))

    def read(self, start: int, rows: int) -> Chunk:
        stop = min(start + rows, self.num_rows)
        parts: list[pa.Table] = []
        splits: list[str | None] = []
        out: list[Rejection] = []
        for _, unit in units_in_range(self.units, self.starts, start, stop):
            table = read_table(unit, [self.id_name, self.options.image_column, self.tags_name])
            ids = table.column(self.id_name).combine_chunks().cast(pa.string())
            image = table.column(self.options.image_column).combine_chunks()
            bad = pc.or_(pc.equal(pc.fill_null(ids, ""), ""), pc.is_null(image))
            for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)):
                reason = "image_id is null or empty" if not ids[row].as_py() else "picture is null"
                where = f"{unit.path} row {unit.file_row + row}"
                out.append((ids[row].as_py() or None, where, reason))
            tags = tag_lists(table.column(self.tags_name).combine_chunks(), self.options.separator)
            good = pc.invert(bad)
            part = pa.table({IMAGE_ID: ids, "image": image.cast(pa.binary()), TAGS: tags})
            part = part.filter(good)
            parts.append(part)
            splits += [_split_of(unit.path, self.root)] * len(part)
        table = pa.concat_tables(parts)
        return Chunk(table.append_column(SPLIT, pa.array(splits, pa.string())), rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "images", "input": self.root}


def _split_of(address: str, root: str) -> str | None:
    """train or test where the file, or a folder below the input, is named so."""
    tail = address[len(root.rstrip("/")) :] if address.startswith(root) else address
    for part in reversed(PurePosixPath(tail or Path(address).name).parts):
        for name in ("train", "test"):
            if part.lower().startswith(name):
                return name
    return None


def open_pictures(path: str, options: PictureOptions) -> PictureFolder | PictureParquet:
    """By what lies there: Parquet files hold pictures themselves, anything else is a folder."""
    filesystem, root = resolve(path)
    if options.tags is not None:
        return PictureFolder.open(path, options)
    try:
        info = filesystem.get_file_info(root)
        inside = (
            [name for name, _ in list_tree(filesystem, root).files]
            if info.type == pafs.FileType.Directory
            else [root]
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"{path}: no such file or folder; give --input pictures")
    if any(name.endswith(".parquet") for name in inside):
        return PictureParquet.open(path, options)
    return PictureFolder.open(path, options)
