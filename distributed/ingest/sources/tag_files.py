"""Text files with a column of ids and one of tags: CSV, TSV and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.json

from distributed.ingest.sources.csv_files import BLOCK_BYTES, CsvFile
from distributed.ingest.sources.json_text import read_json
from distributed.storage.files import READ_ERRORS, one_line, resolve
from drel_core.errors import InputError

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_DELIMITER = {".csv": ",", ".tsv": "\t"}
_PEEK_LINES = 1000  # of JSON lines: they tell which columns are text and which are lists


def table_suffix(path: str) -> str:
    """``.csv`` of ``tags.csv`` and of ``tags.csv.gz``; empty where it is none of ``TABLE_SUFFIXES``."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path.partition("?")[0]).suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".zst"):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in TABLE_SUFFIXES else ""


def read_text_table(path: str, columns: dict[str, str]) -> pa.Table:
    """Columns of a CSV, TSV or JSON lines file, ids and numbers as they are written.

    Args:
        columns: the option that named it, by the name of each column wanted.

    Raises:
        InputError: the file cannot be read or parsed, or lacks a column.
    """
    with _text_file(path) as (filesystem, name, delimiter):
        if delimiter:
            file = CsvFile.open(filesystem, path, name, delimiter)
            check_columns(path, file.names, columns)
            return file.read(list(columns))
        if _begins_with(filesystem, name, b"["):
            return _read_json_array(filesystem, path, name, columns)
        return _read_json(filesystem, path, name, columns)


def column_names(path: str) -> list[str]:
    """Names of the columns of a CSV, TSV or JSON lines file (there: of the first line).

    Raises:
        InputError: the file cannot be read.
    """
    with _text_file(path) as (filesystem, name, delimiter):
        if delimiter:
            return CsvFile.open(filesystem, path, name, delimiter).names
        if _begins_with(filesystem, name, b"["):
            return list(_json_array(filesystem, path, name)[0])
        with filesystem.open_input_stream(name) as stream:
            return next((list(_json_row(path, n, line)) for n, line in _lines(stream)), [])


@contextmanager
def _text_file(path: str) -> Iterator[tuple[pafs.FileSystem, str, str]]:
    """Its file system, its name there, and what separates its columns (empty: JSON)."""
    filesystem, name = resolve(path)
    try:
        if filesystem.get_file_info(name).type != pafs.FileType.File:
            raise InputError(f"{path}: no such file; give a CSV, JSON lines or Parquet file")
        suffix = table_suffix(path)
        if suffix in _DELIMITER:
            yield filesystem, name, _DELIMITER[suffix]
        elif suffix in ("", ".txt") and not _begins_with(filesystem, name, b"{", b"["):
            yield filesystem, name, ","
        else:
            yield filesystem, name, ""
    except READ_ERRORS as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); check the file") from error


def check_columns(path: str, names: list[str], columns: dict[str, str]) -> None:
    """Every wanted column is there, and once."""
    for wanted, option in columns.items():
        if wanted not in names:
            raise InputError(
                f"{path}: no column {wanted!r}; it has {', '.join(names) or 'none'}; "
                f"name the right one with {option}"
            )
        if names.count(wanted) > 1:
            raise InputError(f"{path}: two columns are named {wanted!r}; rename one of them")


def _read_json(
    filesystem: pafs.FileSystem, path: str, name: str, columns: dict[str, str]
) -> pa.Table:
    """JSON lines. Column types come from the first lines, not from Arrow's guess: it would turn
    texts that look like a time into times."""
    kinds: dict[str, pa.DataType] = {}
    seen: dict[str, None] = {}
    with filesystem.open_input_stream(name) as stream:
        for number, line in _lines(stream):
            if number > _PEEK_LINES:
                break
            row = _json_row(path, number, line)
            seen.update(dict.fromkeys(row))
            for key in columns:
                kind = _json_kind(row.get(key))
                if kind is not None and (key not in kinds or kinds[key] == pa.int64()):
                    kinds[key] = kind
    if not seen:
        raise InputError(f"{path}: no rows; every line must be a JSON object")
    check_columns(path, list(seen), columns)
    schema = pa.schema([(key, kinds.get(key, pa.string())) for key in columns])
    try:
        with filesystem.open_input_stream(name) as stream:
            return pyarrow.json.read_json(
                stream,
                pyarrow.json.ReadOptions(block_size=BLOCK_BYTES),
                pyarrow.json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            ).select(list(columns))
    except pa.ArrowInvalid as error:
        with filesystem.open_input_stream(name) as stream:
            for number, line in _lines(stream):
                row = _json_row(path, number, line)
                for key in columns:
                    if _mixed(row.get(key)):
                        raise InputError(
                            f"{path} line {number}: {key!r} is {json.dumps(row[key])[:60]}, entries of "
                            "several types; write all of them as text"
                        ) from error
                    kind = _json_kind(row.get(key))
                    if kind is not None and kind != schema.field(key).type:
                        raise InputError(
                            f"{path} line {number}: {key!r} is {json.dumps(row[key])[:60]}, but "
                            f"{schema.field(key).type} in the lines before; make all lines alike"
                        ) from error
        raise InputError(f"{path}: {one_line(error)}; every line must be a JSON object") from error


def _begins_with(filesystem: pafs.FileSystem, name: str, *marks: bytes) -> bool:
    """Whether a text file begins with one of them, blanks and a byte order mark aside."""
    with filesystem.open_input_stream(name) as stream:
        head: bytes = stream.read(1 << 12)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(marks)


def _json_array(filesystem: pafs.FileSystem, path: str, name: str) -> list[dict[str, Any]]:
    """A whole file that is one array of objects."""
    with filesystem.open_input_stream(name) as stream:
        data = stream.read()
    try:
        rows = read_json(data)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({one_line(error)})") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path}: not an array of objects; write [{{"image_id": ...}}, ...]')
    found: list[dict[str, Any]] = rows
    return found


def _read_json_array(
    filesystem: pafs.FileSystem, path: str, name: str, columns: dict[str, str]
) -> pa.Table:
    rows = _json_array(filesystem, path, name)
    check_columns(path, list(dict.fromkeys(key for row in rows for key in row)), columns)
    found = {}
    for column in columns:
        try:
            found[column] = pa.array([row.get(column) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(
                f"{path}: {column!r} is not of one type in all objects ({one_line(error)}); make all alike"
            ) from error
    return pa.table(found)


def _lines(stream: Any) -> Any:
    """(number from 1, bytes) of lines that are not blank."""
    rest, number = b"", 0
    while more := stream.read(BLOCK_BYTES):
        *whole, rest = (rest + more).split(b"\n")
        for line in whole:
            number += 1
            if line.strip():
                yield number, line
    if rest.strip():
        yield number + 1, rest


def _json_row(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path} line {number}: not JSON ({one_line(error)})") from error
    if not isinstance(row, dict):
        raise InputError(f'{path} line {number}: not a JSON object; write {{"image_id": ...}}')
    return row


def _mixed(value: Any) -> bool:
    """Whether it is a list whose entries are of several types, as JSON has them."""
    return isinstance(value, list) and len({type(one) for one in value if one is not None}) > 1


def _json_kind(value: Any) -> pa.DataType | None:
    """Arrow's type for a value; None where the value does not determine it (null, empty list)."""
    if isinstance(value, list):
        inner = next((k for v in value if (k := _json_kind(v)) is not None), None)
        return None if inner is None else pa.list_(inner)
    if value is None:
        return None
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, dict):
        return pa.struct([])
    return pa.float64() if isinstance(value, float) else pa.string()
