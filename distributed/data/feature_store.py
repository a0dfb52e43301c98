"""The feature store: Parquet files of image ids, features and tags, local or on S3.

Opening a store reads footers only. Rows are read in units (a range of one row group), each of which
any process can read by itself. Shapes: B rows, D feature size, nnz (image, tag) pairs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.columns import Columns
from distributed.data.parquet_files import (
    check_schema,
    common_length,
    has_length,
    list_files,
    read_footer,
)
from distributed.data.plain_types import plain_table
from distributed.storage.files import READ_ERRORS, cannot_be_read, past_short_errors, resolve
from distributed.storage.s3 import is_s3
from drel_core.errors import InputError

_PARTS = {
    **dict.fromkeys(("--data.train", "--data.new", "--data.replay"), "train"),
    "--data.test": "test",
}
_FOOTERS = 256
_footers: dict[tuple[str, int], pq.FileMetaData] = {}


@dataclass(frozen=True)
class RowGroupSlice:
    """Rows ``[start, start + rows)`` of one row group; ``file_row`` is the first one's row in the file."""

    path: str
    row_group: int
    start: int
    rows: int
    file_row: int


@dataclass(frozen=True)
class RowSelection:
    """A unit less its dropped rows (sorted row numbers of the file), and of the rest a range."""

    unit: RowGroupSlice
    dropped: np.ndarray
    skip: int
    take: int

    @staticmethod
    def of(unit: RowGroupSlice, rows: np.ndarray) -> RowSelection:
        """Some rows of a unit, by their (sorted) row numbers of the file."""
        gone = np.ones(unit.rows, dtype=bool)
        gone[rows - unit.file_row] = False
        return RowSelection(unit, np.flatnonzero(gone) + unit.file_row, 0, len(rows))

    @staticmethod
    def without(unit: RowGroupSlice, dropped: np.ndarray) -> RowSelection:
        """All rows of a unit but some, by their (sorted) row numbers of the file."""
        return RowSelection(unit, dropped, 0, unit.rows - len(dropped))

    def rows(self) -> np.ndarray:
        """Row numbers of the file, int64 ``[take]``, rising."""
        there = np.ones(self.unit.rows, dtype=bool)
        there[self.dropped - self.unit.file_row] = False
        return np.flatnonzero(there)[self.skip : self.skip + self.take] + self.unit.file_row

    def only(self, keep: np.ndarray) -> RowSelection:
        """Those rows for which ``keep`` (bool ``[take]``) is true."""
        return RowSelection.of(self.unit, self.rows()[keep])


@dataclass(frozen=True)
class FeatureBatch:
    """``features_BD`` in stored dtype (a view of Arrow's memory); tags as flat strings + offsets."""

    image_id_B: pa.Array
    features_BD: np.ndarray
    tag_values: pa.Array
    tag_offsets: np.ndarray


@dataclass
class FeatureStore:
    """Footers of a store. ``open`` checks them all and raises ``InputError`` on the first fault."""

    path: str
    columns: Columns
    dims: tuple[int, ...]
    """D of each features column"""
    dtype: np.dtype
    """the widest type of features in any file"""
    units: list[RowGroupSlice] = field(repr=False)
    option: str = "--data.train"
    """the option that named the store, for messages"""

    @property
    def image_dim(self) -> int:
        """D, of all features columns together."""
        return sum(self.dims)

    @property
    def num_rows(self) -> int:
        return sum(unit.rows for unit in self.units)

    @property
    def num_bytes(self) -> int:
        """Of all features in memory."""
        return self.num_rows * self.image_dim * self.dtype.itemsize

    @staticmethod
    def open(
        path: str,
        columns: Columns | None = None,
        option: str = "--data.train",
        tags_needed: bool = True,
        part: str | None = None,
    ) -> FeatureStore:
        """Read every footer (in a small thread pool) and check columns, types and D.

        Args:
            tags_needed: False for images that are yet to be annotated.
            part: train or test, where the path is the whole of what jobs.ingest wrote, or of files that are
                named so; empty: both; None: as the option says.

        Raises:
            InputError: the path does not exist or holds no row; a file is no Parquet, lacks a
                column, or differs from the first one in D.
        """
        columns = columns or Columns()
        part = _PARTS.get(option, "") if part is None else part
        filesystem, files = list_files(path, option, part)
        with ThreadPoolExecutor(min(16, len(files))) as threads:
            footers = list(threads.map(lambda file: read_footer(filesystem, *file), files))
        units: list[RowGroupSlice] = []
        blocks = [_Block(name, columns.said_of(i)) for i, name in enumerate(columns.blocks)]
        for (address, name, _), (metadata, schema) in zip(files, footers, strict=True):
            kinds = check_schema(address, schema, columns, option, tags_needed)
            for block, (dim, dtype) in zip(blocks, kinds, strict=True):
                if dim is None and block.dim and has_length(metadata, block.column, block.dim):
                    dim = block.dim
                elif dim is None and metadata.num_rows:
                    dim = common_length(filesystem, name, address, block.column)
                if dim is not None:
                    block.see(address, dim, dtype)
            units += units_of(address, metadata, columns.unit_rows)
        if not units:
            raise InputError(f"{path}: the store holds no rows; give {option} at least one image")
        for block in blocks:
            if not block.dim:
                raise InputError(
                    f"{path}: {block.said}no row has features; write the store again with features"
                )
        dims = tuple(block.dim for block in blocks)
        dtype = np.result_type(*(block.dtype for block in blocks))
        return FeatureStore(path, columns, dims, dtype, units, option)


@dataclass
class _Block:
    """What the files of a store say of a features column, until they are all seen."""

    column: str
    said: str
    """what messages of it begin with"""
    dim: int = 0
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float16))
    first: str = ""
    """the first file that says D"""

    def see(self, address: str, dim: int, dtype: np.dtype) -> None:
        """Raises:
        InputError: D is 0 or differs from another file's.
        """
        if dim == 0:
            raise InputError(
                f"{address}: {self.said}features have D = 0; every row needs at least one value"
            )
        if self.dim and dim != self.dim:
            raise InputError(
                f"{address}: {self.said}features have D = {dim}, but {self.first} has D = {self.dim}; "
                "all files of a store must agree"
            )
        self.dtype = np.promote_types(self.dtype, dtype) if self.dim else dtype
        self.dim, self.first = dim, self.first or address


def units_of(name: str, metadata: pq.FileMetaData, most: int = 65536) -> Iterator[RowGroupSlice]:
    """A file's rows in units of at most ``most`` rows of one row group."""
    file_row = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        for start in range(0, rows, most):
            count = min(most, rows - start)
            yield RowGroupSlice(name, group, start, count, file_row + start)
        file_row += rows


def units_in_range(
    units: Sequence[RowGroupSlice], starts: Sequence[int], start: int, stop: int
) -> Iterator[tuple[int, RowGroupSlice]]:
    """The parts of units that hold rows ``[start, stop)``, each with the number of its first row.

    Args:
        starts: number of each unit's first row, ascending from 0.
    """
    at = start
    while at < stop:
        place = bisect_right(starts, at) - 1
        unit, skip = units[place], at - starts[place]
        count = min(stop - at, unit.rows - skip)
        yield (
            at,
            RowGroupSlice(
                unit.path, unit.row_group, unit.start + skip, count, unit.file_row + skip
            ),
        )
        at += count


def read_table(unit: RowGroupSlice, columns: list[str]) -> pa.Table:
    """The rows of a unit as they stand in the file, in plain types.

    Raises:
        InputError: the file is gone or out of reach, or its data pages cannot be decoded.
    """
    filesystem, name = resolve(unit.path)

    def read() -> pa.Table:
        with filesystem.open_input_file(name) as source:
            file = _parquet_file(source, unit.path)
            if unit.rows == file.metadata.row_group(unit.row_group).num_rows:
                table = file.read_row_group(unit.row_group, columns=columns)
            else:
                table = _range_of_group(file, unit, columns)
            return plain_table(table.combine_chunks())

    try:
        table = past_short_errors(read)
    except pa.ArrowMemoryError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{unit.path}: the file is gone since the store was opened; put it back"
        ) from error
    except (*READ_ERRORS, IndexError) as error:
        said = cannot_be_read(error, "if the file is damaged, write it again or remove it")
        raise InputError(f"{unit.path}: rows from {unit.file_row} {said}") from error
    if table.num_rows != unit.rows:
        raise InputError(
            f"{unit.path}: {table.num_rows} rows from row {unit.file_row}, but its footer says "
            f"{unit.rows}; the file is damaged or has changed: write it again or remove it"
        )
    return table


def _parquet_file(source: pa.NativeFile, address: str) -> pq.ParquetFile:
    """On S3 the footer is fetched once a process and columns that lie together by one request."""
    if not is_s3(address):
        return pq.ParquetFile(source, page_checksum_verification=True)
    known = (address, source.size())
    file = pq.ParquetFile(
        source, metadata=_footers.get(known), pre_buffer=True, page_checksum_verification=True
    )
    if known not in _footers:
        while len(_footers) >= _FOOTERS:
            _footers.pop(next(iter(_footers)), None)
        _footers[known] = file.metadata
    return file


def _range_of_group(file: pq.ParquetFile, unit: RowGroupSlice, columns: list[str]) -> pa.Table:
    """Parquet cannot start in the middle of a row group: what lies before is decoded and dropped."""
    parts, at, end = [], 0, unit.start + unit.rows
    for batch in file.iter_batches(8192, row_groups=[unit.row_group], columns=columns):
        low, high = max(at, unit.start), min(at + len(batch), end)
        if low < high:
            parts.append(batch.slice(low - at, high - low))
        at += len(batch)
        if at >= end:
            break
    return pa.Table.from_batches(parts, None if parts else file.schema_arrow)


def read_unit(selection: RowSelection, columns: Columns) -> FeatureBatch:
    """The kept rows of a unit, in file order."""
    unit = selection.unit
    table = read_table(unit, [columns.image_id, *columns.blocks, columns.tags])
    if len(selection.dropped):
        table = table.take(pa.array(selection.rows() - unit.file_row))
    else:
        table = table.slice(selection.skip, selection.take)
    values, offsets = flat_tags(one_chunk(table.column(columns.tags)))
    return FeatureBatch(
        one_chunk(table.column(columns.image_id)),
        feature_matrix([columns.decode(one_chunk(table.column(b)))[0] for b in columns.blocks]),
        values,
        offsets,
    )


def has_negatives(store: FeatureStore, units: int = 8, rows: int = 1024) -> list[bool]:
    """Of each features column whether a value is below 0 in a sample: the first rows of ``units`` units at
    most, evenly spread."""
    step = -(-len(store.units) // units)
    found = dict.fromkeys(store.columns.blocks, False)
    for unit in store.units[::step]:
        if all(found.values()):
            break
        part = replace(unit, rows=min(unit.rows, rows))
        table = read_table(part, [name for name, signed in found.items() if not signed])
        for name in table.column_names:
            decoded, _ = store.columns.decode(one_chunk(table.column(name)))
            found[name] = bool((decoded.flatten().to_numpy(zero_copy_only=False) < 0).any())
    return list(found.values())


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if not column.num_chunks:
        return pa.array([], column.type)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def feature_matrix(columns: Sequence[pa.Array]) -> np.ndarray:
    """``[B, D]`` of list columns without nulls, each with rows of one length; several are put one after
    another, a single one is not copied. All features columns are joined here and nowhere else."""
    parts = [_dense(column) for column in columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _dense(column: pa.Array) -> np.ndarray:
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(column):
        return values.reshape(len(column), -1)
    kind = column.type
    return values.reshape(0, kind.list_size if pa.types.is_fixed_size_list(kind) else 0)


def feature_columns(
    features: pa.Array, columns: Columns, dims: Sequence[int]
) -> dict[str, pa.Array]:
    """What ``feature_matrix`` joined, as columns again.

    Args:
        features: fixed_size_list of all values of a row.
        dims: D of each column; of a single one it need not be given.
    """
    if len(columns.blocks) == 1:
        return {columns.features: features}
    value_BD = _dense(features)
    parts = np.split(value_BD, np.cumsum(dims)[:-1], axis=1)
    return {
        name: pa.FixedSizeListArray.from_arrays(pa.array(part_Bd.reshape(-1)), part_Bd.shape[1])
        for name, part_Bd in zip(columns.blocks, parts, strict=True)
    }


def flat_tags(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Flat values and int64 offsets ``[B + 1]`` of a list column; a null list counts as empty.

    A column whose type is null, or lists of it, is what pyarrow makes where no row has a tag.
    """
    if pa.types.is_null(column.type):
        column = column.cast(pa.list_(pa.string()))
    if pa.types.is_null(column.type.value_type):
        column = column.cast(pa.list_(pa.string()))
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return column.flatten(), offsets
