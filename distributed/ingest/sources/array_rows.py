"""Which row of an array file is whose: by its number or by its id, and which rows are equal. B rows of a
table, F of the array, S some rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.plain_types import is_text
from distributed.ingest.sources.array_files import ArrayFile
from distributed.ingest.sources.table_facts import digests
from drel_core.errors import InputError


def row_numbers(path: str, column: pa.ChunkedArray, name: str) -> np.ndarray:
    """int64 rows of the array; -1 where there is no whole number."""
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"{path}: column {name!r} is {column.type}; it must hold whole numbers")
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    fits = pc.match_substring_regex(text, r"^\d{1,18}$")
    number = pc.if_else(fits, text, pa.scalar("-1")).cast(pa.int64())
    rows: np.ndarray = pc.fill_null(number, -1).to_numpy().copy()
    return rows


def rows_by_id(path: str, ids: pa.ChunkedArray, array: ArrayFile, ids_array: str) -> np.ndarray:
    """int64 rows of the array for the table's ids; -1 where an id is not there.

    Accents may be composed or not, unless an id is there as it is written. Of ids that the array has twice,
    with equal features, the first counts.

    Raises:
        InputError: no id is there, or rows of one id have different features.
    """
    known = array.ids(ids_array)
    found = pc.index_in(ids, value_set=known)
    if found.null_count:
        composed = pc.utf8_normalize(known, "NFC")
        found = pc.coalesce(found, pc.index_in(pc.utf8_normalize(ids, "NFC"), value_set=composed))
    if found.null_count == len(found):
        raise InputError(
            f"{path}: no image_id is in {ids_array!r} of {array.path}; the table has "
            f"{ids[0].as_py()!r}, the array file {known[0].as_py() if len(known) else None!r}"
        )
    rows: np.ndarray = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    code_F = known.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first, inverse_F = np.unique(code_F, return_index=True, return_inverse=True)
    first_F = first[inverse_F]
    again = np.flatnonzero(first_F != np.arange(len(code_F)))
    again = again[np.isin(first_F[again], rows)]
    differ = equal_rows(array, again) != equal_rows(array, first_F[again])
    if differ.any():
        row = int(again[differ][0])
        raise InputError(
            f"{array.path}: {ids_array!r} has {known[row].as_py()!r} in rows {first_F[row]} and {row}, with "
            "other features; keep one of them"
        )
    return rows


def equal_rows(array: ArrayFile, row_S: np.ndarray) -> np.ndarray:
    """A number for each row of an array file, equal where the features are; -1 where there is no such row."""
    digest_S = np.full(len(row_S), -1, np.int64)
    there = np.flatnonzero(row_S >= 0)
    for low in range(0, len(there), 4096):
        some = there[low : low + 4096]
        digest_S[some] = digests(np.ascontiguousarray(array.take(row_S[some]) + 0.0))
    return digest_S
