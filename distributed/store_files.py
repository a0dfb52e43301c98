"""The files of a feature store: where they lie, their footers, and whether their columns fit.

Nothing here reads rows, except for D of files whose lists have no fixed size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from distributed.s3 import is_s3, open_s3, reach
from drel_core.errors import InputError

_FLOATS = (pa.float16(), pa.float32(), pa.float64())
# What Arrow raises for files that are damaged (UnicodeDecodeError: a name in the footer), gone or
# out of reach. ArrowMemoryError is caught before them and passes through: running out of memory is
# not the file's fault.
READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)
_PARQUET = ds.ParquetFileFormat()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the store's columns."""

    image_id: str = "image_id"
    """string, not null, different for every row of a store"""
    features: str = "features"
    """fixed_size_list of D float16, float32 or float64 (or list, all rows of one length)"""
    tags: str = "tags"
    """list of string"""
    image: str = "image"
    """encoded pictures (binary), for the methods cnn-*"""
    path: str = "path"
    """where the pictures lie (string), for the methods cnn-* where there is no image column"""

    def check(self, name: str, kind: pa.DataType) -> tuple[int | None, np.dtype]:
        """D (None where the type does not tell) and the element type of a features column.

        Raises:
            InputError: of a type that features cannot have.
        """
        if not _is_list(kind) or kind.value_type not in _FLOATS:
            raise InputError(
                f"{name}: column {self.features!r} is {kind}; "
                "it must be fixed_size_list<float16|float32|float64>[D]"
            )
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        return dim, np.dtype(kind.value_type.to_pandas_dtype())

    def decode(self, features: pa.Array) -> tuple[pa.Array, dict[int, str]]:
        """Lists of D numbers, null where there are none, and for some of the nulls the reason."""
        return features, {}

    @property
    def unit_rows(self) -> int:
        """Most rows that are read at a time."""
        return 65536


def sibling_option(option: str, name: str) -> str:
    """``--data.NAME`` where the store is ``--data.train``, ``--NAME`` where it is ``--data``."""
    return f"--data.{name}" if option.startswith("--data.") else f"--{name}"


def resolve(path: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a local path or URI. Endpoint and credentials come the standard way."""
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    if is_s3(path):
        return open_s3(path)
    try:
        return pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable location ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def list_files(path: str, option: str) -> tuple[pafs.FileSystem, list[tuple[str, str, int]]]:
    """Filesystem, and of each file its address (see ``resolve``), path in the filesystem, bytes."""
    filesystem, root = resolve(path)
    if is_s3(path):
        reach(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise InputError(
                f"{path}: no such file or folder; give {option} a Parquet file or folder"
            )
        if info.type == pafs.FileType.File:
            return filesystem, [(_address(path, root, info.path), info.path, info.size or 0)]
        found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); check {option} and the access rights"
        ) from error
    files = sorted(
        (entry.path, entry.size or 0)
        for entry in found
        if entry.is_file
        and entry.path.endswith(".parquet")
        and not any(part[:1] in "._" for part in entry.path[len(root) :].strip("/").split("/"))
    )
    if not files:
        raise InputError(
            f"{path}: the folder holds no .parquet file; give {option} a feature store"
        )
    return filesystem, [(_address(path, root, name), name, size) for name, size in files]


def _address(path: str, root: str, name: str) -> str:
    """A file of a store in the store's own form: host, bucket and ``?options`` of a URI stay."""
    if "://" not in path:
        return name
    base, mark, options = path.partition("?")
    return base.rstrip("/") + quote(name[len(root.rstrip("/")) :]) + mark + options


def read_footer(
    filesystem: pafs.FileSystem, address: str, name: str, size: int
) -> tuple[pq.FileMetaData, pa.Schema]:
    """Metadata and Arrow schema of a file, or an ``InputError`` that says why there is none."""
    if size == 0:
        raise InputError(f"{address}: the file is empty (0 bytes); write it again or remove it")
    try:
        # Told the size, Arrow needs one request a file on S3.
        file = _PARQUET.make_fragment(name, filesystem, file_size=size)
        schema = file.physical_schema
        _ = schema.names  # decodes the names, here where that may fail
        return file.metadata, schema
    except pa.ArrowMemoryError:
        raise
    except READ_ERRORS as error:
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
) -> tuple[int | None, np.dtype]:
    """D (None where the type does not tell) and the type of the features."""
    for role in ("image_id", "features", *(["tags"] if tags_needed else [])):
        column = getattr(columns, role)
        if column not in schema.names:
            raise InputError(
                f"{name}: no column {column!r}; it has {', '.join(schema.names) or 'none'}; "
                f"name the right one with {sibling_option(option, 'columns')}.{role}"
            )
        if schema.names.count(column) > 1:
            raise InputError(f"{name}: two columns are named {column!r}; rename one of them")
    ids, features = (schema.field(c).type for c in (columns.image_id, columns.features))
    if not (pa.types.is_string(ids) or pa.types.is_large_string(ids)):
        raise InputError(f"{name}: column {columns.image_id!r} is {ids}; it must be string")
    dim, dtype = columns.check(name, features)
    if not tags_needed:
        return dim, dtype
    tags = schema.field(columns.tags).type
    if not _is_list(tags) or not (
        pa.types.is_string(tags.value_type) or pa.types.is_large_string(tags.value_type)
    ):
        raise InputError(f"{name}: column {columns.tags!r} is {tags}; it must be list<string>")
    return dim, dtype


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def has_length(metadata: pq.FileMetaData, columns: Columns, dim: int) -> bool:
    """Whether a footer's count of values agrees with lists of ``dim``: saves a look at the rows."""
    values = 0
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if column.path_in_schema.startswith(columns.features + "."):
                values += column.num_values
    return values > 0 and values == metadata.num_rows * dim


def common_length(
    filesystem: pafs.FileSystem, name: str, address: str, columns: Columns
) -> int | None:
    """D of a file whose lists have no fixed size: the commonest length of its first rows.

    Not the first row's: that one may be the bad row.
    """
    try:
        with filesystem.open_input_file(name) as source:
            for batch in pq.ParquetFile(source).iter_batches(1024, columns=[columns.features]):
                lengths = pc.drop_null(pc.list_value_length(batch.column(0))).to_numpy()
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
