"""Features that exist already: a tags table joined with an array file, or Parquet that holds both.

What a row's id, tags and split decide is settled when a source is opened; features are read, and
checked, range by range. Shapes: B rows, D feature size, F rows of the array.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distributed.data.feature_store import RowGroupSlice, read_table, units_in_range, units_of
from distributed.data.parquet_files import common_length, folder_columns, list_files, read_footer
from distributed.data.plain_types import is_list, is_number, is_text
from distributed.ingest.sources.array_files import ARRAY_SUFFIXES, ArrayFile
from distributed.ingest.sources.array_rows import equal_rows, row_numbers, rows_by_id
from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from distributed.ingest.sources.feature_values import finite_rows, list_rows
from distributed.ingest.sources.nested_columns import class_names
from distributed.ingest.sources.table_facts import (
    AGAIN,
    JOINED,
    NO_FEATURES,
    NO_ID,
    NO_SPLIT,
    NO_TAGS,
    OK,
    JoinedTags,
    TableFacts,
    digests,
    one_array,
    text_ids,
)
from distributed.ingest.sources.tag_files import (
    TABLE_SUFFIXES,
    check_columns,
    read_text_table,
    table_suffix,
)
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm
from drel_core.errors import InputError


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
        form: how the tags of Parquet files are said.
        rows: id and tags (list<string>) of all rows, where they come with an array file; else None.
        half: features are float16, in all files; else they become float32.
        units, starts: ranges of the Parquet files and the first row of each, else empty.
        fault_B: what is known to be wrong with each row.
        array_row_B: each row's row of the array; None where they are the same.
        test_bits: test rows, packed eight to a byte; None where there are none.
        joined: tags of images that several rows name.
        notes: what a user should look at.
    """

    path: str
    options: TableOptions
    form: TagForm
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
    joined: JoinedTags = field(repr=False)
    notes: tuple[str, ...] = ()

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
        if not options.split and table_suffix(path) in ("", ".parquet") and _split_by_folders(path):
            options = replace(options, split="split")
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
            self._read_range(_read(unit, self.path, wanted), at)
            for at, unit in units_in_range(self.units, self.starts, start, stop)
        ]
        return Chunk(
            pa.concat_tables([piece.table for piece in pieces]),
            pa.concat_tables([piece.rejected for piece in pieces]),
        )

    def _read_range(self, table: pa.Table, start: int) -> Chunk:
        """Rows of one table, of which ``start`` is the first one's number."""
        fault_B = self.fault_B[start : start + len(table)]
        if self.rows is None:
            names = (self.options.id_column, self.options.tags_column, self.options.features_column)
            ids, tags, features = (one_array(table.column(name)) for name in names)
            table = pa.table({IMAGE_ID: text_ids(ids), TAGS: tags, FEATURES: features})
        ids = table.column(IMAGE_ID)
        wrong = np.flatnonzero((fault_B != OK) & (fault_B != JOINED))
        reasons = {row: self._reason(start + row) for row in wrong.tolist()}
        good = np.flatnonzero(fault_B == OK)
        if self.array is not None:
            taken = good + start if self.array_row_B is None else self.array_row_B[good + start]
            value_BD, bad = finite_rows(self.array.take(taken), self._dtype)
        else:
            lists = table.column(FEATURES).take(pa.array(good))
            value_BD, bad = list_rows(lists, self.dim, self._dtype)
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
        tags = one_array(table.column(TAGS)).take(take)
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
                IMAGE_ID: one_array(table.column(IMAGE_ID)).take(take),
                FEATURES: pa.FixedSizeListArray.from_arrays(flat, self.dim),
                TAGS: self.joined.put_into(self.form.lists(tags), row_B + start),
                SPLIT: split,
            }
        )

    def _where(self, row: int) -> str:
        return _place(self.path, self.units, self.starts, row)

    def _reason(self, row: int) -> str:
        fault = self.fault_B[row]
        if fault == NO_FEATURES:
            assert self.array is not None
            if self.options.ids_array:
                return f"no features: the id is not in {self.array.path}"
            return f"no features: {self.array.path} has rows 0 to {self.array.rows - 1}"
        return {
            NO_ID: "image_id is null or empty",
            AGAIN: "image_id occurs already",
            NO_TAGS: "no tags",
            NO_SPLIT: f"column {self.options.split!r} is neither train nor test",
        }[int(fault)]

    def describe(self) -> dict[str, Any]:
        # The seed stays: a store made before is known again by it.
        options = {**asdict(self.options), "seed": 0}
        return {"kind": "table", "input": self.path, "D": self.dim, "options": options}


# ---- opening


def _split_by_folders(path: str) -> bool:
    """Whether files lie in folders like split=train, as Spark and Hive write parts."""
    _, files = list_files(path, "--input")
    return any("split" in folder_columns(address, path) for address, _, _ in files)


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
    classes: tuple[str, ...] = ()
    pieces: list[tuple[pa.Table, str, int]] = []
    if table_suffix(path) in ("", ".parquet"):
        units, _, _, classes = _footers(path, options, columns)
        pieces = [(_read(unit, path, list(columns)), unit.path, unit.file_row) for unit in units]
    else:
        pieces = [(read_text_table(path, columns), path, 0)]
    facts = _facts(path, options, classes)
    parts = []
    for table, where, first in pieces:
        _check_types(where, table.schema, options)
        lists = facts.add(table, where, first)  # its checks come first
        part = {IMAGE_ID: text_ids(table.column(options.id_column)), TAGS: lists}
        if options.row_column:
            part["row"] = pa.array(
                row_numbers(path, table.column(options.row_column), options.row_column)
            )
        parts.append(pa.table(part))
    rows = pa.concat_tables(parts)
    count = len(rows)
    if not count:
        raise InputError(f"{path}: no rows; the table must have at least one image")
    note = facts.separators.finish(path)
    array_row_B = None
    if options.row_column:
        array_row_B = rows.column("row").to_numpy().copy()
        array_row_B[array_row_B >= array.rows] = -1
    elif options.ids_array:
        array_row_B = rows_by_id(path, facts.ids(), array, options.ids_array)
    elif count != array.rows:
        raise InputError(
            f"{path} has {count} rows, but {array.path} has {array.rows}; they must agree, or be "
            "joined with --ids_array or --row_column"
        )
    fault_B = facts.faults(None if array_row_B is None else array_row_B >= 0)
    tags = one_array(rows.column(TAGS))

    def read(row_S: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        array_row_S = row_S if array_row_B is None else array_row_B[row_S]
        return tags.take(pa.array(row_S)), equal_rows(array, array_row_S)

    starts = _starts(units)
    joined = facts.join_repeats(fault_B, read, lambda row: _place(path, units, starts, int(row)))
    return TableSource(
        path,
        options,
        TagForm(),
        array.dim,
        array.half,
        count,
        rows.select([IMAGE_ID, TAGS]),
        array,
        units,
        starts,
        fault_B,
        array_row_B,
        facts.test_bits(),
        joined,
        (note,) if note else (),
    )


def _open_parquet(path: str, options: TableOptions) -> TableSource:
    columns = _parquet_columns(options, features=True)
    facts_columns = _parquet_columns(options, features=False)
    if split := _split_column(options):
        columns[split] = facts_columns[split] = "--split"
    units, dim, half, classes = _footers(path, options, columns)
    if dim is None:
        raise InputError(f"{path}: no row has features; write the files again with features")
    facts = _facts(path, options, classes)
    for unit in units:
        facts.add(_read(unit, path, list(facts_columns)), unit.path, unit.file_row)
    note = facts.separators.finish(path)
    fault_B = facts.faults(None)
    starts = _starts(units)

    def read(row_S: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        tags, digest_S = [], np.full(len(row_S), -1, np.int64)
        for unit, start in zip(units, starts, strict=True):
            low, high = np.searchsorted(row_S, [start, start + unit.rows])
            if low == high:
                continue
            table = _read(unit, path, [options.tags_column, options.features_column])
            table = table.take(pa.array(row_S[low:high] - start))
            tags.append(facts.form.lists(one_array(table.column(0))))
            value_BD, bad = list_rows(table.column(1), dim, np.dtype(np.float32))
            digest_S[low:high] = digests(value_BD + 0.0)  # -0.0 is 0.0
            digest_S[[low + row for row in bad]] = -1
        return pa.concat_arrays(tags), digest_S

    joined = facts.join_repeats(fault_B, read, lambda row: _place(path, units, starts, int(row)))
    return TableSource(
        path,
        options,
        facts.form,
        dim,
        half,
        starts[-1] + units[-1].rows,
        None,
        None,
        units,
        starts,
        fault_B,
        None,
        facts.test_bits(),
        joined,
        (note,) if note else (),
    )


def _facts(path: str, options: TableOptions, classes: tuple[str, ...]) -> TableFacts:
    form = TagForm(options.separator, classes)
    check = SeparatorCheck(options.separator)
    return TableFacts(
        path, options.id_column, options.tags_column, _split_column(options), form, check
    )


def _place(path: str, units: Sequence[RowGroupSlice], starts: Sequence[int], row: int) -> str:
    """File and row of a row of the whole."""
    if not units:
        return f"{path} row {row}"
    place = bisect_right(starts, row) - 1
    unit = units[place]
    return f"{unit.path} row {unit.file_row + row - starts[place]}"


def _footers(
    path: str, options: TableOptions, columns: dict[str, str]
) -> tuple[tuple[RowGroupSlice, ...], int | None, bool, tuple[str, ...]]:
    """Units of Parquet files whose columns are there and of fitting types; where they hold the
    features, D, and whether all are float16; and what numbers mean in the tags column."""
    filesystem, files = list_files(path, "--input")
    units: list[RowGroupSlice] = []
    first: tuple[int, str] | None = None
    half = True
    named: tuple[str, tuple[str, ...]] | None = None
    for address, name, size in files:
        metadata, schema = read_footer(filesystem, address, name, size)
        folders = folder_columns(address, path)
        fields = [field for field in schema if field.name not in folders]
        schema = pa.schema(
            [*fields, *(pa.field(name, pa.string()) for name in folders)], schema.metadata
        )
        check_columns(address, schema.names, columns)
        _check_types(address, schema, options)
        classes = class_names(schema, options.tags_column)
        named = named or (address, classes)
        if classes != named[1]:
            raise InputError(
                f"{address}: names other classes than {named[0]} in {options.tags_column!r}; "
                "ingest them one at a time"
            )
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
    return tuple(units), first[0] if first else None, half, named[1] if named else ()


def _read(unit: RowGroupSlice, path: str, columns: list[str]) -> pa.Table:
    """Columns of a unit, from its file or from the names of the folders in which it lies."""
    folders = folder_columns(unit.path, path)
    table = read_table(unit, [name for name in columns if name not in folders])
    for name in (name for name in columns if name in folders):
        table = table.append_column(name, pa.array([folders[name]] * unit.rows, pa.string()))
    return table.select(columns)


def _starts(units: tuple[RowGroupSlice, ...]) -> tuple[int, ...]:
    return tuple(np.cumsum([0, *(unit.rows for unit in units[:-1])]).tolist())


def _check_types(path: str, schema: pa.Schema, options: TableOptions) -> None:
    """Types of the ids, tags and split; text files have been read as text where they could be."""
    ids, tags = schema.field(options.id_column).type, schema.field(options.tags_column).type
    if not (is_text(ids) or pa.types.is_integer(ids)):
        raise InputError(
            f"{path}: column {options.id_column!r} is {ids}; it must be text or whole numbers"
        )
    TagForm.check(path, options.tags_column, tags)
    if (split := _split_column(options)) and not is_text(schema.field(split).type):
        raise InputError(
            f"{path}: column {split!r} is {schema.field(split).type}; it must say train or test"
        )


def _no_texts() -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([], pa.string())])
