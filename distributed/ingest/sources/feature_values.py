"""Features as they are stored, ``[B, D]``, and what is wrong with a row's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingest.sources.table_facts import one_array


def finite_rows(value_BD: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, dict[int, str]]:
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


def list_rows(
    column: pa.ChunkedArray | pa.Array, dim: int, dtype: np.dtype
) -> tuple[np.ndarray, dict[int, str]]:
    """``[B, D]`` of a list column; rows with a reason against them are zero."""
    lists = one_array(column)
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
    stored_RD, wrong = finite_rows(value_RD, dtype)
    for row, reason in wrong.items():
        bad.setdefault(int(right[row]), reason)
    if len(right) == len(lists):
        return stored_RD, bad
    value_BD = np.zeros((len(lists), dim), dtype)
    value_BD[right] = stored_RD
    return value_BD, bad
