"""The files of a feature store: where they lie, their footers, and whether their columns fit.

Nothing here reads rows, except for D of files whose lists have no fixed size.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from distributed.data.columns import Columns, sibling_option
from distributed.data.delta_log import live_files
from distributed.data.named_parts import named_part
from distributed.data.plain_types import is_list, is_text, plain, plain_schema
from distributed.storage.files import (
    READ_ERRORS,
    address_below,
    cannot_be_read,
    name_below,
    one_line,
    past_short_errors,
    resolve,
)
from distributed.storage.listing import list_tree
from distributed.storage.s3 import is_s3, reach
from drel_core.did_you_mean import near_path
from drel_core.errors import InputError

WRITING = "_writing.json"
"""In a folder on S3 whose store is being written: there a folder cannot appear as a whole."""
_PARQUET = ds.ParquetFileFormat()
_INGESTED = {"manifest.json", "rejected.parquet", "vocabulary.parquet"}
"""What jobs.ingest writes beside the parts of a store."""
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""By which Spark and Hive name the folder of rows whose value is null."""


_KEPT_ROWS = "/reservoir.parquet"  # of a bundle, which a training folder holds


def list_files(
    path: str, option: str, part: str = ""
) -> tuple[pafs.FileSystem, list[tuple[str, str, int]]]:
    """Filesystem, and of each file its address (see ``resolve``), path in the filesystem, bytes.

    Args:
        part: train or test, of a folder that jobs.ingest made or whose files are named so; empty: all rows.

    Raises:
        InputError: nothing there, no Parquet, or no such part.
    """
    filesystem, root = resolve(path)
    if is_s3(path):
        reach(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise InputError(
                f"{path}: no such file or folder; give {option} a Parquet file or folder"
                + ("" if is_s3(path) else near_path(Path(root)))
            )
        if info.type == pafs.FileType.File:
            return filesystem, [(_address(path, root, info.path), info.path, info.size or 0)]
        found = list_tree(filesystem, root).files
        _check_written(path, filesystem, root, [name for name, _ in found])
        if any(name.endswith(_KEPT_ROWS) for name, _ in found):
            raise InputError(
                f"{path}: holds a model, not a store; give {option} the Parquet file or folder of the images"
            )
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); check {option} and the access rights"
        ) from error
    files = [
        (name, size)
        for name, size in found
        if name.endswith(".parquet")
        and not any(part[:1] in "._" for part in name[len(root) :].strip("/").split("/"))
    ]
    cut = len(root.rstrip("/")) + 1
    try:
        live = live_files(filesystem, root, [name[cut:] for name, _ in found])
    except (*READ_ERRORS, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: the log of this Delta table cannot be read ({one_line(error)})"
        ) from error
    if live is not None:
        files = [(name, size) for name, size in found if name[cut:] in live]
    if {name[cut:] for name, _ in found} >= _INGESTED:
        files = [(name, size) for name, size in files if name[cut:] not in _INGESTED]
        if part:
            wanted = [(name, size) for name, size in files if name[cut:].startswith(f"{part}/")]
            if not wanted:
                raise InputError(
                    f"{path}: jobs.ingest made no {part} part of it (--split says how); "
                    f"for all its rows give {option} {path.rstrip('/')}/train"
                )
            files = wanted
    elif part and files:
        belongs = named_part(path, option, part, [name[cut:] for name, _ in files])
        files = [file for file, is_wanted in zip(files, belongs, strict=True) if is_wanted]
    if not files:
        raise InputError(
            f"{path}: the folder holds no .parquet file; give {option} a feature store"
        )
    return filesystem, [(_address(path, root, name), name, size) for name, size in files]


def _check_written(path: str, filesystem: pafs.FileSystem, root: str, names: list[str]) -> None:
    """Raises:
    InputError: ``jobs.ingest`` has begun the store, or the one that it is a part of, and not ended.
    """
    above = root.rstrip("/").rpartition("/")[0]
    if not is_s3(path):
        return
    begun = f"{root.rstrip('/')}/{WRITING}" in names
    if begun or (
        "/" in above and filesystem.get_file_info(f"{above}/{WRITING}").type == pafs.FileType.File
    ):
        raise InputError(
            f"{path}: jobs.ingest is writing this store, or was stopped while it did; wait, or "
            "repeat its command"
        )


def _address(path: str, root: str, name: str) -> str:
    """A file of a store in the store's own form: host, bucket and ``?options`` of a URI stay."""
    if "://" not in path:
        return name
    below = name[len(root.rstrip("/")) :].lstrip("/")
    return address_below(path, below) if below else path


def folder_columns(address: str, path: str) -> dict[str, str | None]:
    """Values by which Spark and Hive name folders: {"split": "train"} of ``split=train/part-0.parquet``; None
    where they say that there is none.

    Args:
        address: of a file, see ``list_files``.
        path: the folder that was listed; its own name and those above it do not count.
    """
    folders = name_below(address, path).split("/")[:-1]
    parts = [unquote(folder).partition("=") for folder in folders]
    return {
        key: None if value == _NULL_FOLDER else value for key, mark, value in parts if key and mark
    }


def read_footer(
    filesystem: pafs.FileSystem, address: str, name: str, size: int
) -> tuple[pq.FileMetaData, pa.Schema]:
    """Metadata and schema (of plain types) of a file, or an ``InputError`` that says why there is none."""
    if size == 0:
        raise InputError(f"{address}: the file is empty (0 bytes); write it again or remove it")

    def read() -> tuple[pq.FileMetaData, pa.Schema]:
        # Told the size, Arrow needs one request a file on S3.
        file = _PARQUET.make_fragment(name, filesystem, file_size=size)
        schema = file.physical_schema
        _ = schema.names  # decodes the names, here where that may fail
        return file.metadata, plain_schema(schema)

    try:
        return past_short_errors(read)
    except pa.ArrowMemoryError:
        raise
    except READ_ERRORS as error:
        if "AWS Error" in str(error):
            raise InputError(f"{address}: {cannot_be_read(error, '')}") from error
        raise InputError(
            f"{address}: {_fault(filesystem, name)} ({one_line(error)}); write it again or remove it"
        ) from error


def _fault(filesystem: pafs.FileSystem, name: str) -> str:
    """What is wrong with a file that has no footer."""
    try:
        with filesystem.open_input_file(name) as source:
            begins = source.read_at(4, 0)
    except READ_ERRORS:
        return "cannot be read"
    return "truncated or damaged" if begins == b"PAR1" else "not a Parquet file"


def check_schema(
    name: str, schema: pa.Schema, columns: Columns, option: str, tags_needed: bool = True
) -> list[tuple[int | None, np.dtype]]:
    """Of each features column D (None where the type does not tell) and the type of its values."""
    needed = [("image_id", columns.image_id), *(("features", block) for block in columns.blocks)]
    for role, column in [*needed, *([("tags", columns.tags)] if tags_needed else [])]:
        _check_there(name, schema, role, column, option)
    ids = schema.field(columns.image_id).type
    if not is_text(ids):
        raise InputError(f"{name}: column {columns.image_id!r} is {ids}; it must be string")
    found = [columns.check(name, block, schema.field(block).type) for block in columns.blocks]
    if tags_needed:
        check_tags(name, schema, columns.tags, option)
    return found


def check_tags(name: str, schema: pa.Schema, column: str, option: str) -> None:
    """
    Raises:
        InputError: a file has no tags column, or it holds something else.
    """
    _check_there(name, schema, "tags", column, option)
    tags = schema.field(column).type
    untagged = pa.types.is_null(tags) or (is_list(tags) and pa.types.is_null(tags.value_type))
    if not untagged and not (is_list(tags) and is_text(tags.value_type)):
        raise InputError(f"{name}: column {column!r} is {tags}; it must be list<string>")


def _check_there(name: str, schema: pa.Schema, role: str, column: str, option: str) -> None:
    if column not in schema.names:
        raise InputError(
            f"{name}: no column {column!r}; it has {', '.join(schema.names) or 'none'}; "
            f"name the right one with {sibling_option(option, 'columns')}.{role}"
        )
    if schema.names.count(column) > 1:
        raise InputError(f"{name}: two columns are named {column!r}; rename one of them")


def has_length(metadata: pq.FileMetaData, features: str, dim: int) -> bool:
    """Whether a footer's count of a column's values fits lists of ``dim``, so that no row need be read to
    know it."""
    values = 0
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if column.path_in_schema.startswith(features + "."):
                values += column.num_values
    return values > 0 and values == metadata.num_rows * dim


def common_length(
    filesystem: pafs.FileSystem, name: str, address: str, features: str
) -> int | None:
    """D of a column whose lists have no fixed size: the commonest length of the file's first rows.

    Not the first row's: that one may be the bad row.
    """
    try:
        with filesystem.open_input_file(name) as source:
            for batch in pq.ParquetFile(source).iter_batches(1024, columns=[features]):
                lengths = pc.drop_null(pc.list_value_length(plain(batch.column(0)))).to_numpy()
                length, count = np.unique(lengths[lengths > 0], return_counts=True)
                if len(length):
                    return int(length[count.argmax()])
    except pa.ArrowMemoryError:
        raise
    except READ_ERRORS as error:
        raise InputError(
            f"{address}: cannot be read ({one_line(error)}); write it again or remove it"
        ) from error
    return None
