"""Features that exist already: a tags table joined with an array file, or Parquet that holds both.

What a row's id, tags and split decide is settled when a source is opened; features are read, and
checked, range by range. Shapes: B rows, D feature size, F rows of the array.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.feature_store import RowGroupSlice, read_table, units_in_range, units_of
from distributed.data.parquet_files import common_length, list_files, read_footer
from distributed.data.plain_types import is_list, is_number, is_text
from distributed.ingest.sources.array_files import ARRAY_SUFFIXES, ArrayFile
from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from distributed.ingest.sources.tag_files import (
    TABLE_SUFFIXES,
    check_columns,
    read_text_table,
    table_suffix,
    tag_lists,
)
from drel_core.errors import InputError

_OK, _NO_ID, _AGAIN, _NO_FEATURES, _NO_TAGS, _NO_SPLIT = range(6)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Where ids, tags, features and the split lie."""

    features_file: str = ""
    """.npy, .npz, .mat or HDF5 file with the features; empty: the Parquet files hold them"""
    id_column: str = "image_id"
    """column with the image ids"""
    tags_column: str = "tags"
    """column with the tags, a list or a separated string"""
    features_column: str = "features"
    """column with the features, where Parquet holds them"""
    separator: str = ","
    """between tags in a string"""
    features_array: str = ""
    """name of the array in an .npz, .mat or HDF5 file; empty: the only one with rows and columns"""
    ids_array: str = ""
    """name of an array of image ids in that file, one a row: rows are joined by id"""
    row_column: str = ""
    """column of the table with the row in the array, from 0; empty: rows of both lie side by side"""
    split: str = "none"
    """none: all train; else a column that says train or test; empty: not said"""


@dataclass(frozen=True)
class TableSource:
    """A ``Source`` over a table with features beside it or in it.

    Attributes:
        rows: id and tags of all rows, where they come with an array file; else None.
        half: features are float16, in all files; else they become float32.
        units, starts: ranges of the Parquet files and the first row of each, else empty.
        fault_B: what is known to be wrong with each row.
        array_row_B: each row's row of the array; None where they are the same.
        test_bits: test rows, packed eight to a byte; None where there are none.
    """

    path: str
    options: TableOptions
    dim: int
    half: bool
    num_rows: int
    rows: pa.Table | None = field(repr=False)
    array: ArrayFile | None
    units: tuple[RowGroupSlice, ...] = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)
    fault_B: np.ndarray = field(repr=False)
    array_row_B: np.ndarray | None = field(repr=False)
    test_bits: np.ndarray | None = field(repr=False)

    @staticmethod
    def open(path: str, options: TableOptions | None = None) -> TableSource:
        """Read ids, tags and split of all rows, and the shape of the features.

        Args:
            path: a tags table (CSV, TSV, JSON lines or Parquet) when ``options.features_file`` names
                the features; else a Parquet file or folder that holds everything.

        Raises:
            InputError: something is missing, unreadable or of a wrong type, or table and array do
                not fit each other.
        """
        options = options or TableOptions()
        _check_options(path, options)
        if options.features_file:
            return _open_joined(path, options)
        return _open_parquet(path, options)

    def read(self, start: int, rows: int) -> Chunk:
        """Rows ``[start, start + rows)``."""
        stop = min(start + rows, self.num_rows)
        if start >= stop:
            nothing = pa.table({IMAGE_ID: _no_texts(), TAGS: _no_texts()})
            none_BD = np.zeros((0, self.dim), self._dtype)
            return Chunk(self._table(nothing, none_BD, start, np.zeros(0, int)), rejected([]))
        if self.rows is not None:
            return self._read_range(self.rows.slice(start, stop - start), start)
        wanted = list(_parquet_columns(self.options, features=True))
        pieces = [
            self._read_range(read_table(unit, wanted), at)
            for at, unit in units_in_range(self.units, self.starts, start, stop)
        ]
        return Chunk(
            pa.concat_tables([piece.table for piece in pieces]),
            pa.concat_tables([piece.rejected for piece in pieces]),
        )

    def _read_range(self, table: pa.Table, start: int) -> Chunk:
        """Rows of one table, of which ``start`` is the first one's number."""
        fault_B = self.fault_B[start : start + len(table)]
        ids = _ids(table.column(self.options.id_column))
        table = pa.table(
            {
                IMAGE_ID: ids,
                TAGS: _one_array(table.column(self.options.tags_column)),
                **(
                    {FEATURES: _one_array(table.column(self.options.features_column))}
                    if self.array is None
                    else {}
                ),
            }
        )
        reasons = {row: self._reason(start + row) for row in np.flatnonzero(fault_B).tolist()}
        good = np.flatnonzero(fault_B == _OK)
        if self.array is not None:
            taken = good + start if self.array_row_B is None else self.array_row_B[good + start]
            value_BD, bad = _finite(self.array.take(taken), self._dtype)
        else:
            lists = table.column(FEATURES).take(pa.array(good))
            value_BD, bad = _from_lists(lists, self.dim, self._dtype)
        reasons |= {int(good[place]): reason for place, reason in bad.items()}
        keep = np.ones(len(good), dtype=bool)
        keep[list(bad)] = False
        out = rejected(
            [
                (ids[row].as_py() or None, self._where(start + row), reasons[row])
                for row in sorted(reasons)
            ]
        )
        return Chunk(self._table(table, value_BD[keep], start, good[keep]), out)

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.float16 if self.half else np.float32)

    def _table(
        self, table: pa.Table, feature_BD: np.ndarray, start: int, row_B: np.ndarray
    ) -> pa.Table:
        take = pa.array(row_B, pa.int64())
        flat = pa.array(feature_BD.reshape(-1))
        split: pa.Array
        if not self.options.split:
            split = pa.nulls(len(row_B), pa.string())
        elif self.test_bits is None:
            split = pa.array(["train"] * len(row_B), pa.string())
        else:
            place_B = row_B + start
            test_B = (self.test_bits[place_B // 8] >> (7 - place_B % 8)) & 1
            split = pa.array(np.where(test_B, "test", "train").tolist(), pa.string())
        return pa.table(
            {
                IMAGE_ID: _one_array(table.column(IMAGE_ID)).take(take),
                FEATURES: pa.FixedSizeListArray.from_arrays(flat, self.dim),
                TAGS: tag_lists(_one_array(table.column(TAGS)).take(take), self.options.separator),
                SPLIT: split,
            }
        )

    def _where(self, row: int) -> str:
        if not self.units:
            return f"{self.path} row {row}"
        place = bisect_right(self.starts, row) - 1
        unit = self.units[place]
        return f"{unit.path} row {unit.file_row + row - self.starts[place]}"

    def _reason(self, row: int) -> str:
        fault = self.fault_B[row]
        if fault == _NO_FEATURES:
            assert self.array is not None
            if self.options.ids_array:
                return f"no features: the id is not in {self.array.path}"
            return f"no features: {self.array.path} has rows 0 to {self.array.rows - 1}"
        return {
            _NO_ID: "image_id is null or empty",
            _AGAIN: "image_id occurs already",
            _NO_TAGS: "no tags",
            _NO_SPLIT: f"column {self.options.split!r} is neither train nor test",
        }[int(fault)]

    def describe(self) -> dict[str, Any]:
        # The seed stays: a store made before is known again by it.
        options = {**asdict(self.options), "seed": 0}
        return {"kind": "table", "input": self.path, "D": self.dim, "options": options}


# ---- opening


def _check_options(path: str, options: TableOptions) -> None:
    if not options.separator:
        raise InputError("--separator is empty; give the text between two tags")
    if options.ids_array and options.row_column:
        raise InputError("--ids_array and --row_column both say which row is whose; give one")
    if options.features_file:
        if not table_suffix(path) and Path(path).is_file():
            raise InputError(
                f"{path}: not a table by its name; it must end in {', '.join(TABLE_SUFFIXES)}"
            )
        return
    for name in ("features_array", "ids_array", "row_column"):
        if getattr(options, name):
            raise InputError(f"--{name} needs --features_file FILE")
    if table_suffix(path) not in ("", ".parquet"):
        raise InputError(
            f"{path}: a table without features; name them with --features_file FILE "
            f"({', '.join(ARRAY_SUFFIXES)})"
        )


def _split_column(options: TableOptions) -> str | None:
    return None if options.split in ("", "none") else options.split


def _parquet_columns(options: TableOptions, features: bool) -> dict[str, str]:
    """The option that named it, by the name of each column to be read."""
    columns = {options.id_column: "--id_column", options.tags_column: "--tags_column"}
    if features:
        columns[options.features_column] = "--features_column"
    return columns


def _open_joined(path: str, options: TableOptions) -> TableSource:
    array = ArrayFile.open(options.features_file, options.features_array)
    columns = _parquet_columns(options, features=False)
    if options.row_column:
        columns[options.row_column] = "--row_column"
    if split := _split_column(options):
        columns[split] = "--split"
    units: tuple[RowGroupSlice, ...] = ()
    starts: tuple[int, ...] = ()
    if table_suffix(path) in ("", ".parquet"):
        units, _, _ = _footers(path, options, columns)
        starts = _starts(units)
        rows = pa.concat_tables(
            [read_table(unit, list(columns)) for unit in units], promote_options="permissive"
        )
    else:
        rows = read_text_table(path, columns)
    _check_types(path, rows.schema, options)
    facts = _Facts(path, options)
    facts.add(rows)
    count = len(rows)
    if not count:
        raise InputError(f"{path}: no rows; the table must have at least one image")
    array_row_B = None
    if options.row_column:
        array_row_B = _row_numbers(path, rows.column(options.row_column), options.row_column)
        array_row_B[array_row_B >= array.rows] = -1
    elif options.ids_array:
        array_row_B = _rows_by_id(path, facts.ids(), array, options.ids_array)
    elif count != array.rows:
        raise InputError(
            f"{path} has {count} rows, but {array.path} has {array.rows}; they must agree, or be "
            "joined with --ids_array or --row_column"
        )
    fault_B = facts.faults(None if array_row_B is None else array_row_B >= 0)
    rows = rows.select([options.id_column, options.tags_column])
    return TableSource(
        path,
        options,
        array.dim,
        array.half,
        count,
        rows,
        array,
        units,
        starts,
        fault_B,
        array_row_B,
        facts.test_bits(),
    )


def _open_parquet(path: str, options: TableOptions) -> TableSource:
    columns = _parquet_columns(options, features=True)
    facts_columns = _parquet_columns(options, features=False)
    if split := _split_column(options):
        columns[split] = facts_columns[split] = "--split"
    units, dim, half = _footers(path, options, columns)
    if dim is None:
        raise InputError(f"{path}: no row has features; write the files again with features")
    facts = _Facts(path, options)
    for unit in units:
        facts.add(read_table(unit, list(facts_columns)))
    fault_B = facts.faults(None)
    starts = _starts(units)
    count = starts[-1] + units[-1].rows
    return TableSource(
        path, options, dim, half, count, None, None, units, starts, fault_B, None, facts.test_bits()
    )


def _footers(
    path: str, options: TableOptions, columns: dict[str, str]
) -> tuple[tuple[RowGroupSlice, ...], int | None, bool]:
    """Units of Parquet files whose columns are there and of fitting types; where they hold the
    features, D, and whether all are float16."""
    filesystem, files = list_files(path, "--input")
    units: list[RowGroupSlice] = []
    first: tuple[int, str] | None = None
    half = True
    for address, name, size in files:
        metadata, schema = read_footer(filesystem, address, name, size)
        check_columns(address, schema.names, columns)
        _check_types(address, schema, options)
        units += units_of(address, metadata)
        if options.features_file or not metadata.num_rows:
            continue
        kind = schema.field(options.features_column).type
        if not is_list(kind) or not is_number(kind.value_type):
            raise InputError(
                f"{address}: column {options.features_column!r} is {kind}; "
                "it must be a list of numbers, the same many in every row"
            )
        half &= bool(pa.types.is_float16(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            dim: int | None = kind.list_size
        else:
            dim = common_length(filesystem, name, address, options.features_column)
        if dim == 0:
            raise InputError(f"{address}: features have D = 0; every row needs at least one value")
        if dim is not None and first is not None and dim != first[0]:
            raise InputError(
                f"{address}: features have D = {dim}, but {first[1]} has D = {first[0]}; "
                "all files must agree"
            )
        if dim is not None and first is None:
            first = (dim, address)
    if not units:
        raise InputError(f"{path}: no rows; the table must have at least one image")
    return tuple(units), first[0] if first else None, half


def _starts(units: tuple[RowGroupSlice, ...]) -> tuple[int, ...]:
    return tuple(np.cumsum([0, *(unit.rows for unit in units[:-1])]).tolist())


def _check_types(path: str, schema: pa.Schema, options: TableOptions) -> None:
    """Types of the ids, tags and split; text files have been read as text where they could be."""
    ids, tags = schema.field(options.id_column).type, schema.field(options.tags_column).type
    if not (is_text(ids) or pa.types.is_integer(ids)):
        raise InputError(
            f"{path}: column {options.id_column!r} is {ids}; it must be text or whole numbers"
        )
    inner = tags.value_type if is_list(tags) else tags
    if not (
        is_text(inner) or (is_list(tags) and (pa.types.is_integer(inner) or inner == pa.null()))
    ):
        raise InputError(
            f"{path}: column {options.tags_column!r} is {tags}; "
            "it must be lists of text, or text with a separator"
        )
    if (split := _split_column(options)) and not is_text(schema.field(split).type):
        raise InputError(
            f"{path}: column {split!r} is {schema.field(split).type}; it must say train or test"
        )


class _Facts:
    """Ids, whether there are tags, and the split, of all rows in order."""

    def __init__(self, path: str, options: TableOptions) -> None:
        self.path, self.options = path, options
        self._ids: list[pa.Array] = []
        self._tagged: list[np.ndarray] = [np.zeros(0, dtype=bool)]
        self._split: list[np.ndarray] = [np.zeros(0, dtype=np.int8)]

    def add(self, table: pa.Table) -> None:
        column = _split_column(self.options)
        for batch in table.to_batches(max_chunksize=1 << 16):
            self._ids.append(_ids(pa.chunked_array([batch.column(self.options.id_column)])))
            tags = tag_lists(batch.column(self.options.tags_column), self.options.separator)
            self._tagged.append(pc.list_value_length(tags).to_numpy(zero_copy_only=False) > 0)
            if column is not None:
                text = pc.utf8_lower(
                    pc.utf8_trim_whitespace(batch.column(column).cast(pa.string()))
                )
                place = pc.index_in(text, value_set=pa.array(["train", "test"]))
                self._split.append(
                    pc.fill_null(place, 2).to_numpy(zero_copy_only=False).astype(np.int8)
                )

    def ids(self) -> pa.ChunkedArray:
        return pa.chunked_array(self._ids, pa.string())

    def faults(self, has_features_B: np.ndarray | None) -> np.ndarray:
        """The first reason against each row, 0 where there is none."""
        tagged_B = np.concatenate(self._tagged)
        fault_B = np.full(len(tagged_B), _OK, dtype=np.int8)
        fault_B[~tagged_B] = _NO_TAGS
        if _split_column(self.options):
            split_B = np.concatenate(self._split)
            if (split_B == 2).all():
                raise InputError(
                    f"{self.path}: column {self.options.split!r} says train or test in no row; "
                    "write train or test, or name the right column with --split"
                )
            fault_B[(split_B == 2) & tagged_B] = _NO_SPLIT
        if has_features_B is not None:
            fault_B[~has_features_B] = _NO_FEATURES
        ids = self.ids()
        code_B = ids.dictionary_encode().combine_chunks().indices.to_numpy(zero_copy_only=False)
        _, first = np.unique(code_B, return_index=True)
        again_B = np.ones(len(code_B), dtype=bool)
        again_B[first] = False
        fault_B[again_B] = _AGAIN
        fault_B[pc.equal(ids, "").to_numpy().astype(bool)] = _NO_ID
        return fault_B

    def test_bits(self) -> np.ndarray | None:
        """Test rows, packed; None where no column says which they are."""
        if not _split_column(self.options):
            return None
        return np.packbits(np.concatenate(self._split) == 1)


def _row_numbers(path: str, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """int64 rows of the array; -1 where there is no whole number."""
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"{path}: column {name!r} is {column.type}; it must hold whole numbers")
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    fits = pc.match_substring_regex(text, r"^\d{1,18}$")
    number = pc.if_else(fits, text, pa.scalar("-1")).cast(pa.int64())
    rows: np.ndarray = pc.fill_null(number, -1).to_numpy().copy()
    return rows


def _rows_by_id(path: str, ids: pa.ChunkedArray, array: ArrayFile, ids_array: str) -> np.ndarray:
    """int64 rows of the array for the table's ids; -1 where an id is not there. Of ids that the
    array has twice the first counts."""
    known = array.ids(ids_array)
    found = pc.index_in(ids, value_set=known)
    if found.null_count == len(found):
        raise InputError(
            f"{path}: no image_id is in {ids_array!r} of {array.path}; the table has "
            f"{ids[0].as_py()!r}, the array file {known[0].as_py() if len(known) else None!r}"
        )
    rows: np.ndarray = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return rows


# ---- columns and values


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _ids(column: pa.ChunkedArray) -> pa.Array:
    """Ids as strings without spaces around them; empty where null."""
    return pc.fill_null(pc.utf8_trim_whitespace(_one_array(column).cast(pa.string())), "")


def _no_texts() -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([], pa.string())])


def _finite(value_BD: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, dict[int, str]]:
    """Values as stored, and a reason for each row that cannot be."""
    with np.errstate(over="ignore"):
        stored_BD = value_BD.astype(dtype, copy=False)
    bad: dict[int, str] = {}
    for row in np.flatnonzero(~np.isfinite(stored_BD).all(axis=1)).tolist():
        place = int(np.flatnonzero(~np.isfinite(stored_BD[row]))[0])
        value = value_BD[row, place]
        if np.isfinite(value):
            bad[row] = f"features hold {value:g}, beyond float32, at position {place}"
        else:
            what = "NaN" if np.isnan(value) else "Inf"
            bad[row] = f"features hold {what} at position {place}"
    return stored_BD, bad


def _from_lists(
    column: pa.ChunkedArray | pa.Array, dim: int, dtype: np.dtype
) -> tuple[np.ndarray, dict[int, str]]:
    """``[B, D]`` of a list column; rows with a reason against them are zero."""
    lists = _one_array(column)
    count_B = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    count_B = np.where(lists.is_null().to_numpy(zero_copy_only=False), -1, count_B)
    bad = {
        row: "features are null"
        if count_B[row] < 0
        else f"features have D = {count_B[row]}, the others have D = {dim}"
        for row in np.flatnonzero(count_B != dim).tolist()
    }
    right = np.flatnonzero(count_B == dim)
    flat = lists.take(pa.array(right)).flatten()
    for place in np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False)).tolist():
        bad.setdefault(int(right[place // dim]), f"features hold a null at position {place % dim}")
    value_RD = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    stored_RD, wrong = _finite(value_RD, dtype)
    for row, reason in wrong.items():
        bad.setdefault(int(right[row]), reason)
    if len(right) == len(lists):
        return stored_RD, bad
    value_BD = np.zeros((len(lists), dim), dtype)
    value_BD[right] = stored_RD
    return value_BD, bad
