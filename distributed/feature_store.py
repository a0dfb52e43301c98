"""The feature store: Parquet files of image ids, features and tags, local or on S3.

Opening a store reads footers only. Rows are read in units (a range of one row group), each of which
any process can read by itself. Shapes: B rows, D feature size, nnz (image, tag) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from drel_core.errors import InputError

MAX_UNIT_ROWS = 65536
_FLOATS = (pa.float16(), pa.float32(), pa.float64())


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the store's columns."""

    image_id: str = "image_id"
    """string, not null, different for every row of a store"""
    features: str = "features"
    """fixed_size_list of D float16, float32 or float64 (or list, all rows of one length)"""
    tags: str = "tags"
    """list of string"""


@dataclass(frozen=True)
class StoreUnit:
    """Rows ``[start, start + rows)`` of one row group; ``file_row`` is the first one's row in the file."""

    path: str
    row_group: int
    start: int
    rows: int
    file_row: int


@dataclass(frozen=True)
class ReadUnit:
    """A unit less its dropped rows (sorted row numbers of the file), and of the rest a range."""

    unit: StoreUnit
    dropped: np.ndarray
    skip: int
    take: int


@dataclass(frozen=True)
class FeatureBatch:
    """``features_BD`` in stored dtype (a view of Arrow's memory); tags as flat strings + offsets."""

    image_id_B: pa.Array
    features_BD: np.ndarray
    tag_values: pa.Array
    tag_offsets: np.ndarray


def resolve(path: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a local path or URI. Endpoint and credentials come the standard way."""
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    try:
        return pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable location ({_short(error)})") from error


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _list_files(path: str, option: str) -> tuple[pafs.FileSystem, list[tuple[str, int]]]:
    filesystem, root = resolve(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise InputError(
                f"{path}: no such file or folder; give {option} a Parquet file or folder"
            )
        if info.type == pafs.FileType.File:
            return filesystem, [(info.path, info.size or 0)]
        found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_short(error)})") from error
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
    return filesystem, files


@dataclass
class FeatureStore:
    """Footers of a store. ``open`` checks them all and raises ``InputError`` on the first fault."""

    path: str
    columns: Columns
    image_dim: int
    dtype: np.dtype
    units: list[StoreUnit] = field(repr=False)

    @property
    def num_rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    @staticmethod
    def open(
        path: str, columns: Columns | None = None, option: str = "--data.train"
    ) -> FeatureStore:
        """Read every footer (in a small thread pool) and check columns, types and D.

        Raises:
            InputError: the path does not exist, holds no row, is no Parquet or lacks a column.
        """
        columns = columns or Columns()
        filesystem, files = _list_files(path, option)
        with ThreadPoolExecutor(min(16, len(files))) as threads:
            footers = list(threads.map(lambda file: _read_footer(filesystem, *file), files))
        units: list[StoreUnit] = []
        first: tuple[str, int, np.dtype] | None = None
        for (name, _), (metadata, schema) in zip(files, footers, strict=True):
            dim, dtype = _check_schema(name, schema, columns)
            if metadata.num_rows and dim is None:
                dim = _first_length(filesystem, name, columns)
            if dim is not None and first is None:
                first = (name, dim, dtype)
            elif dim is not None and first is not None and dim != first[1]:
                raise InputError(
                    f"{name}: features have D = {dim}, but {first[0]} has D = {first[1]}; "
                    "all files of a store must agree"
                )
            units += _units_of(name, metadata)
        if not units or first is None:
            raise InputError(f"{path}: the store holds no rows; give {option} at least one image")
        uri = path.split("://")[0] + "://" if "://" in path else ""
        units = [StoreUnit(uri + u.path, u.row_group, u.start, u.rows, u.file_row) for u in units]
        return FeatureStore(path, columns, first[1], first[2], units)


def _read_footer(
    filesystem: pafs.FileSystem, name: str, size: int
) -> tuple[pq.FileMetaData, pa.Schema]:
    if size == 0:
        raise InputError(f"{name}: the file is empty (0 bytes); write it again or remove it")
    try:
        with filesystem.open_input_file(name) as source:
            start = source.read_at(4, 0)
            file = pq.ParquetFile(source)
            return file.metadata, file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        what = "truncated" if start == b"PAR1" else "not a Parquet file"
        raise InputError(
            f"{name}: {what} ({_short(error)}); write it again or remove it"
        ) from error


def _check_schema(name: str, schema: pa.Schema, columns: Columns) -> tuple[int | None, np.dtype]:
    for role in ("image_id", "features", "tags"):
        column = getattr(columns, role)
        if column not in schema.names:
            raise InputError(
                f"{name}: no column {column!r}; it has {', '.join(schema.names) or 'none'}; "
                f"name the right one with --data.columns.{role}"
            )
    ids, features, tags = (
        schema.field(c).type for c in (columns.image_id, columns.features, columns.tags)
    )
    if not (pa.types.is_string(ids) or pa.types.is_large_string(ids)):
        raise InputError(f"{name}: column {columns.image_id!r} is {ids}; it must be string")
    if not _is_list(features) or features.value_type not in _FLOATS:
        raise InputError(
            f"{name}: column {columns.features!r} is {features}; "
            "it must be fixed_size_list<float16|float32|float64>[D]"
        )
    if not _is_list(tags) or not (
        pa.types.is_string(tags.value_type) or pa.types.is_large_string(tags.value_type)
    ):
        raise InputError(f"{name}: column {columns.tags!r} is {tags}; it must be list<string>")
    dim = features.list_size if pa.types.is_fixed_size_list(features) else None
    return dim, np.dtype(features.value_type.to_pandas_dtype())


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _first_length(filesystem: pafs.FileSystem, name: str, columns: Columns) -> int | None:
    """D of a file whose lists have no fixed size: the length of the first row that has one."""
    with filesystem.open_input_file(name) as source:
        for batch in pq.ParquetFile(source).iter_batches(1024, columns=[columns.features]):
            lengths = pc.drop_null(pc.list_value_length(batch.column(0)))
            if len(lengths):
                return int(lengths[0].as_py())
    return None


def _units_of(name: str, metadata: pq.FileMetaData) -> Iterator[StoreUnit]:
    file_row = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        for start in range(0, rows, MAX_UNIT_ROWS):
            count = min(MAX_UNIT_ROWS, rows - start)
            yield StoreUnit(name, group, start, count, file_row + start)
        file_row += rows


def read_table(unit: StoreUnit, columns: list[str]) -> pa.Table:
    """The rows of a unit as they stand in the file.

    Raises:
        InputError: the data pages cannot be decoded.
    """
    filesystem, name = resolve(unit.path)
    try:
        with filesystem.open_input_file(name) as source:
            table = pq.ParquetFile(source).read_row_group(unit.row_group, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{unit.path}: rows from {unit.file_row} cannot be read, the file is damaged "
            f"({_short(error)}); write it again or remove it"
        ) from error
    return table.slice(unit.start, unit.rows).combine_chunks()


def read_unit(read: ReadUnit, columns: Columns) -> FeatureBatch:
    """The kept rows of a unit, in file order."""
    unit = read.unit
    table = read_table(unit, [columns.image_id, columns.features, columns.tags])
    if len(read.dropped):
        keep = np.ones(unit.rows, dtype=bool)
        keep[read.dropped - unit.file_row] = False
        table = table.take(pa.array(np.flatnonzero(keep)[read.skip : read.skip + read.take]))
    else:
        table = table.slice(read.skip, read.take)
    values, offsets = flat_tags(_one_chunk(table.column(columns.tags)))
    return FeatureBatch(
        _one_chunk(table.column(columns.image_id)),
        feature_matrix(_one_chunk(table.column(columns.features))),
        values,
        offsets,
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def feature_matrix(column: pa.Array) -> np.ndarray:
    """``[B, D]`` of a list column without nulls whose rows have one length (no copy)."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def flat_tags(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Flat values and int64 offsets ``[B + 1]`` of a list column; a null list counts as empty."""
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return column.flatten(), offsets


def lookup(tag_values: pa.Array, names: pa.Array) -> np.ndarray:
    """int64 ids of flat tag strings by one hash join; -1 for tags not in ``names``."""
    ids = pc.fill_null(pc.index_in(tag_values, value_set=names), -1)
    return ids.to_numpy(zero_copy_only=False).astype(np.int64)


def encode_tags(
    tag_values: pa.Array, tag_offsets: np.ndarray, names: pa.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Known tags as ids + offsets, each once a row and in rising order; unknown ones are left out."""
    ids = lookup(tag_values, names)
    row = np.repeat(np.arange(len(tag_offsets) - 1), np.diff(tag_offsets))
    key = np.unique((row * max(len(names), 1) + ids)[ids >= 0])
    row, ids = np.divmod(key, max(len(names), 1))
    offsets = np.zeros(len(tag_offsets), dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(tag_offsets) - 1), out=offsets[1:])
    return ids, offsets
