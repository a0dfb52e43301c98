"""A tags column after edits of its vocabulary, by arrays: no row is looked at on its own.

Shapes: B rows, n (row, tag) pairs of a column, m pairs after the edits, C different texts of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.feature_store import flat_tags
from distributed.data.plain_types import plain
from distributed.data.tag_values import clean_texts, places

Becomes = Callable[[str], Sequence[str]]
"""What stands in place of a clean tag: itself, others, or nothing."""


@dataclass(frozen=True)
class Assigned:
    """Which images have which parts of a tag that is split.

    Attributes:
        image_id: different ids, as strings.
        start: int64 ``[ids + 1]``: the parts of id i are ``part[start[i]:start[i + 1]]``.
        part: names.
    """

    image_id: pa.Array
    start: np.ndarray
    part: tuple[str, ...]

    @staticmethod
    def of(image_id: pa.Array, part: Sequence[str]) -> Assigned:
        """Of one entry an (image, part) pair, in any order."""
        encoded = image_id.dictionary_encode()
        code = encoded.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(code, kind="stable")
        start = np.zeros(len(encoded.dictionary) + 1, dtype=np.int64)
        np.cumsum(np.bincount(code, minlength=len(encoded.dictionary)), out=start[1:])
        return Assigned(encoded.dictionary, start, tuple(part[place] for place in order))


@dataclass(frozen=True)
class EditedColumn:
    """A column after edits.

    Attributes:
        column: of the type that it had, where Arrow can make it; the column itself where nothing changed.
        changed_B: bool: rows whose tags are others now.
        unassigned_B: bool: rows that keep a tag that is split, because no part of it is assigned to them.
    """

    column: pa.Array
    changed_B: np.ndarray
    unassigned_B: np.ndarray


def edited_column(
    column: pa.Array,
    becomes: Becomes,
    image_id: pa.Array | None = None,
    split: Iterable[tuple[str, Assigned]] = (),
) -> EditedColumn:
    """Tags after edits. A tag that a row would have twice because of them is there once, in the first place.

    Args:
        column: lists of strings, of any type that a store may have; nulls in it stay.
        becomes: asked once for each different tag of the column.
        image_id: of the rows, where there is a split.
        split: tags whose place is taken by parts that images are assigned.
    """
    values, offset_B = flat_tags(plain(column))
    pairs = _Pairs.of(values, np.repeat(np.arange(len(column)), np.diff(offset_B)), becomes)
    unassigned_B = np.zeros(len(column), dtype=bool)
    for tag, assigned in split:
        assert image_id is not None
        unassigned_B |= pairs.assign(tag, assigned, image_id.cast(pa.string()), len(column))
    changed_B = np.zeros(len(column), dtype=bool)
    changed_B[pairs.row_n[pairs.edited_n]] = True
    if not changed_B.any():
        return EditedColumn(column, changed_B, unassigned_B)
    text, row_m = pairs.result(changed_B)
    count_B = np.bincount(row_m, minlength=len(column))
    # Rows that had all that their tags imply have what they had.
    lost_B = np.zeros(len(column), dtype=bool)
    lost_B[pairs.row_n[pairs.edited_n & ~pairs.stays_n]] = True
    changed_B &= lost_B | (count_B != np.diff(offset_B))
    if not changed_B.any():
        return EditedColumn(column, changed_B, unassigned_B)
    offset_B = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(count_B, out=offset_B[1:])
    missing = column.is_null() if column.null_count else None
    made = pa.LargeListArray.from_arrays(pa.array(offset_B), text, mask=missing)
    return EditedColumn(_as(made, column.type), changed_B, unassigned_B)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists of categories, for one
        return column.cast(pa.list_(pa.string()))


@dataclass
class _Pairs:
    """The pairs of a column, and what each becomes: ``pool[start_n:start_n + size_n]``."""

    row_n: np.ndarray
    code_n: np.ndarray
    names: list[str | None]
    """clean names of the texts that codes stand for"""
    pool: list[str | None]
    start_n: np.ndarray
    size_n: np.ndarray
    edited_n: np.ndarray
    stays_n: np.ndarray
    """what it becomes holds it as it was written"""

    @staticmethod
    def of(values: pa.Array, row_n: np.ndarray, becomes: Becomes) -> _Pairs:
        encoded = values.cast(pa.large_string()).dictionary_encode()
        texts: list[str | None] = [*encoded.dictionary.to_pylist(), None]  # a null keeps its place
        names: list[str | None] = [*clean_texts(encoded.dictionary).to_pylist(), None]
        code = pc.fill_null(encoded.indices, len(texts) - 1)
        code_n = code.to_numpy(zero_copy_only=False).astype(np.int64)
        after: list[Sequence[str | None]] = []
        for text, name in zip(texts, names, strict=True):
            found = (name,) if name is None else tuple(becomes(name))
            after.append((text,) if found == (name,) else found)  # as it was written
        size_C = np.array([*map(len, after)], dtype=np.int64)
        edited_C = np.array([found != (text,) for found, text in zip(after, texts, strict=True)])
        stays_C = np.array([text in found for found, text in zip(after, texts, strict=True)])
        start_C = np.cumsum(size_C) - size_C
        pool = [text for found in after for text in found]
        each = (start_C[code_n], size_C[code_n], edited_C[code_n], stays_C[code_n])
        return _Pairs(row_n, code_n, names, pool, *each)

    def assign(self, tag: str, assigned: Assigned, image_id: pa.Array, rows: int) -> np.ndarray:
        """Put an image's parts in place of a tag.

        Returns:
            bool ``[B]``: rows that have the tag and no part.
        """
        code = [place for place, name in enumerate(self.names) if name == tag]
        pair_n = np.flatnonzero(np.isin(self.code_n, code))
        row = self.row_n[pair_n]
        place_n = places(pc.index_in(image_id.take(pa.array(row)), value_set=assigned.image_id))
        unassigned_B = np.zeros(rows, dtype=bool)
        unassigned_B[row[place_n < 0]] = True
        pair_n, place_n = pair_n[place_n >= 0], place_n[place_n >= 0]
        self.start_n[pair_n] = len(self.pool) + assigned.start[place_n]
        self.size_n[pair_n] = assigned.start[place_n + 1] - assigned.start[place_n]
        self.edited_n[pair_n] = True
        self.stays_n[pair_n] = False
        self.pool += assigned.part
        return unassigned_B

    def result(self, changed_B: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Texts ``[m]`` and their rows, in order; of a changed row no text twice."""
        first = np.cumsum(self.size_n) - self.size_n
        within_m = np.arange(int(self.size_n.sum())) - np.repeat(first, self.size_n)
        pick_m = np.repeat(self.start_n, self.size_n) + within_m
        row_m = np.repeat(self.row_n, self.size_n)
        pool = pa.array(self.pool, pa.large_string())
        code = pc.fill_null(pool.dictionary_encode().indices, len(pool))
        code_m = code.to_numpy(zero_copy_only=False)[pick_m]
        # A row that did not change keeps what it had: each of its pairs counts as a text of its own.
        key_m = row_m * (len(pool) + 1) + code_m
        key_m = np.where(changed_B[row_m], key_m, -1 - np.arange(len(key_m)))
        _, kept = np.unique(key_m, return_index=True)
        kept.sort()
        return pool.take(pa.array(pick_m[kept])), row_m[kept]
