"""The rows that a report shows, read from the store: ids, tags as they stand, pictures. Only these rows are
read, of large stores too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.columns import Columns
from distributed.data.feature_store import RowGroupSlice, flat_tags, one_chunk, read_table
from distributed.data.picture_columns import bytes_and_paths, read_once
from distributed.data.plain_types import plain
from distributed.data.tag_values import clean_texts
from distributed.storage.files import READ_ERRORS, one_line, resolve
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

_BUFFER = 1 << 20
_PICTURES = 16  # rows of a picture column that are decoded at a time

Place = tuple[str, int]
"""File and row of a row."""


@dataclass(frozen=True)
class ShownRow:
    """
    Attributes:
        image_id: as the store has it.
        tags: its tags in their clean form, each once, in the store's order.
    """

    image_id: str
    tags: tuple[str, ...]


def place_of(unit: RowGroupSlice) -> Place:
    return unit.path, unit.file_row


def read_rows(units: Iterable[RowGroupSlice], columns: Columns) -> dict[Place, ShownRow]:
    """Ids and tags of single rows.

    Args:
        units: one row each.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[Place, ShownRow] = {}
    for group in _by_group(units):
        low = min(unit.start for unit in group)
        rows = max(unit.start for unit in group) + 1 - low
        first = min(unit.file_row for unit in group)
        table = read_table(
            replace(group[0], start=low, rows=rows, file_row=first),
            [columns.image_id, columns.tags],
        )
        table = table.take(pa.array([unit.start - low for unit in group]))
        ids = one_chunk(table.column(columns.image_id)).to_pylist()
        values, offsets = flat_tags(one_chunk(table.column(columns.tags)))
        names = clean_texts(values).to_pylist()
        for unit, image_id, start, stop in zip(group, ids, offsets[:-1], offsets[1:], strict=True):
            tags = dict.fromkeys(filter(None, names[start:stop]))
            found[place_of(unit)] = ShownRow(str(image_id), tuple(tags))
    return found


def read_pictures(units: Iterable[RowGroupSlice], column: str) -> dict[Place, bytes]:
    """The encoded pictures of single rows, where they have one.

    A column of pictures may be gigabytes: it is read as a stream, and no row group is held.

    Args:
        units: one row each.
        column: encoded pictures, paths, or a struct of both.

    Raises:
        InputError: a file cannot be read.
    """
    found: dict[Place, bytes] = {}
    for group in _by_group(units):
        wanted = {unit.start: unit for unit in group}
        path = group[0].path
        filesystem, name = resolve(path)
        try:
            with filesystem.open_input_file(name) as source:
                for start, encoded in _encoded(source, group[0].row_group, column, set(wanted)):
                    found[place_of(wanted[start])] = encoded
        except READ_ERRORS as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    return found


def _by_group(units: Iterable[RowGroupSlice]) -> list[list[RowGroupSlice]]:
    """Different rows by their row group, each in order."""
    groups: dict[tuple[str, int], dict[int, RowGroupSlice]] = {}
    for unit in units:
        groups.setdefault((unit.path, unit.row_group), {})[unit.start] = unit
    return [[group[start] for start in sorted(group)] for group in groups.values()]


def _encoded(
    source: pa.NativeFile, row_group: int, column: str, wanted: set[int]
) -> Iterator[tuple[int, bytes]]:
    """Place in the row group and bytes of the wanted pictures that are there."""
    file = pq.ParquetFile(source, buffer_size=_BUFFER)
    at, last = 0, max(wanted)
    for batch in file.iter_batches(_PICTURES, row_groups=[row_group], columns=[column]):
        here = [start for start in range(at, at + len(batch)) if start in wanted]
        for start in here:
            data = picture_bytes(batch.column(0).slice(start - at, 1))
            if data is not None:
                yield start, data
        at += len(batch)
        if at > last:
            return


def picture_bytes(cell: pa.Array) -> bytes | None:
    """The encoded picture of one row; None where it has none, or none that can be had."""
    data, path = bytes_and_paths(plain(cell))
    if data is not None and data[0].is_valid:
        return bytes(data[0].as_py())
    named = None if path is None else path[0].as_py()
    try:
        return read_once(named) if named else None  # a report goes on without it
    except (*READ_ERRORS, BadPicture, InputError, ValueError):
        return None


def rows_of_ids(
    path: str, ids: set[str], columns: Columns, files: Iterable[tuple[str, str]]
) -> dict[str, RowGroupSlice]:
    """Where the rows with some ids are in a store; the ids alone are read, a row group at a time.

    Args:
        path: of the store, for messages.
        files: address of each file, and its path in the file system.

    Raises:
        InputError: a file cannot be read, or has no column of ids.
    """
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, RowGroupSlice] = {}
    for address, name in files:
        filesystem, _ = resolve(path)
        try:
            with filesystem.open_input_file(name) as source:
                file = pq.ParquetFile(source)
                if columns.image_id not in file.schema_arrow.names:
                    raise InputError(
                        f"{address}: no column {columns.image_id!r}, by which its pictures could be "
                        "found; name one with --columns.image_id"
                    )
                at = 0
                for group in range(file.num_row_groups):
                    column = one_chunk(
                        file.read_row_group(group, [columns.image_id]).column(0)
                    ).cast(pa.string())
                    for start in pc.indices_nonzero(pc.is_in(column, wanted)).to_pylist():
                        row = RowGroupSlice(address, group, start, 1, at + start)
                        found.setdefault(column[start].as_py(), row)
                    at += len(column)
                    if len(found) == len(ids):
                        return found
        except READ_ERRORS as error:
            raise InputError(f"{address}: cannot be read ({one_line(error)})") from error
    return found
