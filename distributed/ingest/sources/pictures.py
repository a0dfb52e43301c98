"""Folders of encoded pictures with a tags file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from distributed.data.plain_types import check_text, is_text, plain_table
from distributed.ingest.sources.annotations import Annotations, read_coco, read_open_images
from distributed.ingest.sources.base import IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from distributed.ingest.sources.match import match
from distributed.ingest.sources.picture_options import (
    ID_NAMES,
    PATH_NAMES,
    TAG_NAMES,
    PictureOptions,
    pick_column,
)
from distributed.ingest.sources.picture_parquet import PictureParquet
from distributed.ingest.sources.table_facts import one_array, text_ids
from distributed.ingest.sources.tag_files import (
    TABLE_SUFFIXES,
    column_names,
    read_text_table,
    table_suffix,
)
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm, joined_lists
from distributed.runtime.progress import counted
from distributed.storage.files import READ_ERRORS, address_below, one_line, resolve
from distributed.storage.listing import is_hidden, list_tree
from drel_core.errors import InputError

_KINDS = ("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "tif", "tiff", "webp", "avif", "jp2")
SUFFIXES = frozenset(f".{kind}" for kind in (*_KINDS, "ppm", "pgm", "tga", "ico"))
_OTHER_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw")
)
"""Pictures that are not read. Where the tags file names one, its row says why it is rejected."""


def read_tags_file(
    path: str, options: PictureOptions, pictures: str
) -> tuple[pa.Array, pa.Array, str | None]:
    """Names of pictures, and their tags (list<string>), of a CSV, TSV, JSON lines or Parquet file; and a line
    where its separator is in doubt.

    Args:
        pictures: the folder of pictures.

    Raises:
        InputError: the file cannot be read, lacks a column or has one of a wrong type, or its tags are
            separated otherwise.
    """
    _check_there(path, pictures)
    known = ID_NAMES + PATH_NAMES
    if table_suffix(path) == ".parquet":
        filesystem, name = resolve(path)
        try:
            with filesystem.open_input_file(name) as source:
                file = pq.ParquetFile(source)
                names = file.schema_arrow.names
                key = pick_column(names, options.id_column, known, "id", path)
                tags = pick_column(names, options.tags_column, TAG_NAMES, "tags", path)
                table = plain_table(file.read(columns=[key, tags]))
        except READ_ERRORS as error:
            raise InputError(
                f"{path}: the tags file cannot be read ({one_line(error)}); "
                "it must be CSV with a header, JSON lines or Parquet"
            ) from error
    else:
        names = column_names(path)
        key = pick_column(names, options.id_column, known, "id", path)
        tags = pick_column(names, options.tags_column, TAG_NAMES, "tags", path)
        table = read_text_table(path, {key: "--id_column", tags: "--tags_column"})
    kind = table.schema.field(key).type
    if not (is_text(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{path}: column {key!r} is {kind}; it must be text or whole numbers")
    TagForm.check(path, tags, table.schema.field(tags).type)
    for name, column in zip(table.schema.names, table.columns, strict=True):
        check_text(column, name, path, 0)
    column = one_array(table.column(tags))
    check = SeparatorCheck(options.separator)
    check.add(column)
    lists = TagForm(options.separator).lists(column, path)
    return text_ids(table.column(key)), lists, check.finish(path)


def _check_there(path: str, pictures: str) -> None:
    """A name without its folder is looked for where the command runs, not beside the pictures."""
    if "://" in path or "://" in pictures or Path(path).expanduser().exists():
        return
    beside = Path(pictures) / Path(path).name
    if beside.is_file():
        raise InputError(
            f"{path}: no such file in this folder, but in that of the pictures; give --tags {beside}"
        )


@dataclass(frozen=True)
class PictureFolder:
    """A folder or ``s3://`` prefix of pictures, joined with a tags file by id or by path.

    Attributes:
        rows: ``image_id``, ``path`` (null where the tags file names a picture that is not there),
            ``tags`` (null where a picture is not in the tags file), sorted by id.
        unreadable: paths of pictures that are not UTF-8, as they can be printed.
        notes: what a user should look at.
    """

    root: str
    options: PictureOptions
    rows: pa.Table = field(repr=False)
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
        key, tags, note = read_tags_file(options.tags, options, path)
        return _opened(path, options, options.tags, Annotations(key, tags, (note,) if note else ()))

    @staticmethod
    def open_annotated(
        path: str, kind: Literal["coco", "openimages"], options: PictureOptions
    ) -> PictureFolder:
        """The same with an annotation file, which may name pictures that are not in the folder.

        Raises:
            InputError: no folder, no picture in it, or no such annotations.
        """
        if options.tags is None:
            raise InputError(f"{path}: --source {kind} needs --tags FILE with the annotations")
        _check_there(options.tags, path)
        if kind == "coco":
            said = read_coco(options.tags)
        else:
            said = read_open_images(options.tags, options.classes, options.confidence)
        return _opened(path, options, options.tags, said, partial=True)

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
        full = [address_below(self.root, name) for name in good.column("path").to_pylist()]
        table = pa.table(
            {
                IMAGE_ID: good.column(IMAGE_ID),
                "path": pa.array(full, pa.string()),
                TAGS: good.column(TAGS),
            }
        )
        return Chunk(table.append_column(SPLIT, pa.nulls(len(table), pa.string())), rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "images", "input": self.root, "tags": self.options.tags}


def _opened(
    path: str, options: PictureOptions, file: str, said: Annotations, partial: bool = False
) -> PictureFolder:
    """
    Args:
        partial: names without a picture are told once, and are no rejected rows.
    """
    pictures, others, unreadable = _list_pictures(path)
    base = path if "://" in path else str(Path(path).expanduser().absolute())
    rows, unmatched = _join(pictures, others, base, file, said.names, said.tags)
    notes = [*said.notes, *([unmatched] if unmatched else [])]
    if partial:
        rows = rows.filter(pc.is_valid(rows.column("path")))
    return PictureFolder(path, options, rows, unreadable, tuple(notes))


def _list_pictures(path: str) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Pictures and other files relative to the folder, sorted; and pictures whose names are not UTF-8."""
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
    names = [name[cut:] for name, _ in listing.files if not is_hidden(name[cut:])]
    pictures = [name for name in names if _is_picture(name)]
    others = [name for name in names if not _is_picture(name) and not name.endswith(TABLE_SUFFIXES)]
    unreadable = tuple(name for name in listing.unreadable if _is_picture(name))
    if not pictures and not unreadable and not others:
        raise InputError(
            f"{path}: no picture in it (looked for {', '.join(sorted(SUFFIXES))}); "
            "give --input a folder of pictures"
        )
    return pictures, others, unreadable


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _join(
    pictures: list[str], others: list[str], root: str, tags_file: str, key: pa.Array, tags: pa.Array
) -> tuple[pa.Table, str | None]:
    """Pictures with their tags, those of several rows together; and a line where many are without the other.

    Args:
        pictures, others: files by their suffix, relative to the folder. A file of another kind is a picture
            where the tags file names it.
    """
    names = key.dictionary_encode()
    name_K = names.dictionary.to_pylist()
    picture_K = match(name_K, pictures, root, tags_file, SUFFIXES)
    lone = [place for place, picture in enumerate(picture_K) if picture < 0]
    if lone and others:
        found = match(
            [name_K[k] for k in lone], others, root, tags_file, SUFFIXES | _OTHER_SUFFIXES
        )
        for place, other in zip(lone, found, strict=True):
            picture_K[place] = -1 if other < 0 else len(pictures) + other
    files = pictures + others
    lone = [place for place, picture in enumerate(picture_K) if picture < 0]
    if name_K and len(lone) == len(name_K):
        raise InputError(
            f"{tags_file}: names no picture that is in {root}: it has {name_K[0]!r}, the folder "
            f"{files[0] if files else None!r}; name the right column with --id_column, or mend the names"
        )
    group_K = np.array(picture_K, np.int64)
    group_K[lone] = len(files) + np.arange(len(lone))
    code_B = names.indices.to_numpy(zero_copy_only=False)
    lists = joined_lists(tags, group_K[code_B], len(files) + len(lone))
    named = dict(zip(reversed(group_K.tolist()), reversed(name_K), strict=True))
    shown = [*range(len(pictures)), *(g for g in sorted(named) if g >= len(pictures))]
    bare = [g for g in range(len(pictures)) if g not in named]
    wanted = pa.array([g if g in named else None for g in shown], pa.int64())
    table = pa.table(
        {
            IMAGE_ID: pa.array(
                [named.get(g) or files[g] if g < len(files) else named[g] for g in shown]
            ),
            "path": pa.array([files[g] if g < len(files) else None for g in shown], pa.string()),
            TAGS: lists.take(wanted),
        }
    )
    note = None
    if lone:
        note = f"{tags_file}: {counted(len(lone), 'name')} without a picture (such as {name_K[lone[0]]!r})"
    if lone and bare:
        unnamed = counted(len(bare), "picture")
        note = f"{note}, and {unnamed} that it does not name (such as {pictures[bare[0]]!r})"
    return table.sort_by([(IMAGE_ID, "ascending"), ("path", "ascending")]), note


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
    if any(name.endswith("/dataset_info.json") for name in inside):
        raise InputError(
            f"{path}: Arrow files, as save_to_disk of Hugging Face datasets writes them; write Parquet "
            "instead: load_from_disk(...).to_parquet(...)"
        )
    return PictureFolder.open(path, options)
