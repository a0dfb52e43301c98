"""What is known of all rows of a table before their features are read: ids, tags or none, the split, and
which rows are of one image.

Shapes: B rows, R rows that repeat an id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.plain_types import check_text
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm, joined_lists
from drel_core.errors import InputError

OK, NO_ID, AGAIN, NO_FEATURES, NO_TAGS, NO_SPLIT, JOINED = range(7)
"""JOINED: the row's tags went to the first row of its image; it is in neither the store nor the rejected."""


def text_ids(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Ids as strings without spaces around them; empty where null."""
    return pc.fill_null(pc.utf8_trim_whitespace(one_array(column).cast(pa.string())), "")


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def digests(rows: Iterable[Any]) -> np.ndarray:
    """int64 of each row's bytes, from 0 up: of different rows equal once in 2^63 pairs; -1 for None."""
    found = [
        -1 if row is None else int.from_bytes(hashlib.blake2b(row, digest_size=8).digest()) >> 1
        for row in rows
    ]
    return np.array(found, np.int64)


def _adds(lists: pa.Array, first_R: np.ndarray, again_R: np.ndarray) -> np.ndarray:
    """bool ``[R]``: row ``again`` of some lists has a tag that its row ``first`` has not."""
    encoded = lists.flatten().dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(lists)), counts)
    first_S = np.arange(len(lists))
    first_S[again_R] = first_R
    key = first_S[row] * max(len(encoded.dictionary), 1) + code
    is_again_S = np.zeros(len(lists), dtype=bool)
    is_again_S[again_R] = True
    again = is_again_S[row]
    new = ~np.isin(key[again], key[~again])
    return np.bincount(row[again][new], minlength=len(lists))[again_R] > 0


@dataclass(frozen=True)
class JoinedTags:
    """Tags of images that several rows name.

    Attributes:
        row_G: the first row of each such image, rising.
        tags: list<string> ``[G]``: of all its rows together.
    """

    row_G: np.ndarray
    tags: pa.Array

    def put_into(self, lists: pa.Array, row_B: np.ndarray) -> pa.Array:
        """Tags of rows ``row_B``, of which each row's own are given."""
        if not len(self.row_G):
            return lists
        at_B = np.searchsorted(self.row_G, row_B)
        found_B = self.row_G[np.minimum(at_B, len(self.row_G) - 1)] == row_B
        place_B = np.where(found_B, len(lists) + at_B, np.arange(len(lists)))
        return pa.concat_arrays([lists, self.tags]).take(pa.array(place_B))


NONE_JOINED = JoinedTags(np.zeros(0, np.int64), pa.array([], pa.list_(pa.string())))


@dataclass
class TableFacts:
    """Filled by ``add`` with all rows in order.

    Attributes:
        split: name of the column that says train or test; None without.
    """

    path: str
    id_column: str
    tags_column: str
    split: str | None
    form: TagForm
    separators: SeparatorCheck
    _ids: list[pa.Array] = field(default_factory=list)
    _tagged: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, dtype=bool)])
    _split: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, dtype=np.int8)])
    _rows: int = 0

    def add(self, table: pa.Table, where: str, first: int) -> pa.ChunkedArray:
        """Look at the next rows.

        Args:
            where, first: the file, and which of its rows comes first, for messages.

        Returns:
            their tags, list<string>.
        """
        lists = []
        for batch in table.to_batches(max_chunksize=1 << 16):
            for name, part in zip(batch.schema.names, batch.columns, strict=True):
                check_text(part, name, where, first)
            self._ids.append(text_ids(batch.column(self.id_column)))
            column = batch.column(self.tags_column)
            self.separators.add(column, self._rows)
            tags = self.form.lists(column, where, first)
            lists.append(tags)
            self._tagged.append(pc.list_value_length(tags).to_numpy(zero_copy_only=False) > 0)
            if self.split is not None:
                text = pc.utf8_lower(
                    pc.utf8_trim_whitespace(batch.column(self.split).cast(pa.string()))
                )
                place = pc.index_in(text, value_set=pa.array(["train", "test"]))
                self._split.append(
                    pc.fill_null(place, 2).to_numpy(zero_copy_only=False).astype(np.int8)
                )
            first += len(batch)
            self._rows += len(batch)
        return pa.chunked_array(lists, pa.list_(pa.string()))

    def ids(self) -> pa.ChunkedArray:
        return pa.chunked_array(self._ids, pa.string())

    def faults(self, has_features_B: np.ndarray | None) -> np.ndarray:
        """The first reason against each row, 0 where there is none."""
        tagged_B = np.concatenate(self._tagged)
        fault_B = np.full(len(tagged_B), OK, dtype=np.int8)
        fault_B[~tagged_B] = NO_TAGS
        if self.split is not None:
            split_B = np.concatenate(self._split)
            if (split_B == 2).all():
                raise InputError(
                    f"{self.path}: column {self.split!r} says train or test in no row; "
                    "write train or test, or name the right column with --split"
                )
            fault_B[(split_B == 2) & tagged_B] = NO_SPLIT
        if has_features_B is not None:
            fault_B[~has_features_B] = NO_FEATURES
        again_R, _ = self.repeats()
        fault_B[again_R] = AGAIN
        fault_B[pc.equal(self.ids(), "").to_numpy().astype(bool)] = NO_ID
        return fault_B

    def repeats(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``[R]`` whose id occurred before, and the first row of each one's id."""
        ids = self.ids()
        code_B = ids.dictionary_encode().combine_chunks().indices.to_numpy(zero_copy_only=False)
        _, first, inverse_B = np.unique(code_B, return_index=True, return_inverse=True)
        first_B = first[inverse_B]
        named_B = pc.not_equal(ids, "").to_numpy().astype(bool)
        row_R = np.flatnonzero((first_B != np.arange(len(code_B))) & named_B)
        return row_R, first_B[row_R]

    def join_repeats(
        self,
        fault_B: np.ndarray,
        read: Callable[[np.ndarray], tuple[pa.Array, np.ndarray]],
        where: Callable[[int], str],
    ) -> JoinedTags:
        """Give the first row of an image the tags of all its rows, where they have the same features.

        A row that adds no tag stays a repeated one.

        Args:
            fault_B: of ``faults``; changed.
            read: tags (list<string>) of some rows, and a number for each one's features, equal where they
                are; -1 for features that cannot be used.
            where: names a row.

        Raises:
            InputError: a row would lose its tags: its features are others; or one row says train, another
                test.
        """
        again_R, first_R = self.repeats()
        if not len(again_R):
            return NONE_JOINED
        row_S = np.union1d(again_R, first_R)
        lists, same_S = read(row_S)
        again_at, first_at = np.searchsorted(row_S, again_R), np.searchsorted(row_S, first_R)
        joined_R = (same_S[again_at] == same_S[first_at]) & (same_S[again_at] >= 0)
        if self.split is not None:
            split_B = np.concatenate(self._split)
            torn = joined_R & (split_B[again_R] + split_B[first_R] == 1)
            if torn.any():
                place = int(np.flatnonzero(torn)[0])
                raise InputError(
                    f"{where(first_R[place])} and {where(again_R[place])}: one image, "
                    f"{self._id(again_R[place])!r}, once train and once test in {self.split!r}; mend one"
                )
        row_G = np.unique(first_R)
        group_S = np.full(len(row_S), -1, np.int64)
        group_S[np.searchsorted(row_S, row_G)] = np.arange(len(row_G))
        group_S[again_at[joined_R]] = np.searchsorted(row_G, first_R[joined_R])
        tags = joined_lists(lists, group_S, len(row_G))
        for place in np.flatnonzero(~joined_R & (same_S[again_at] >= 0)).tolist():
            kept = set(tags[int(np.searchsorted(row_G, first_R[place]))].as_py())
            lost = set(lists[int(again_at[place])].as_py()) - kept
            if lost:
                raise InputError(
                    f"{where(first_R[place])} and {where(again_R[place])}: both are image "
                    f"{self._id(again_R[place])!r}, with other features and other tags "
                    f"({min(lost)!r}); keep one of them, or give each image an id of its own"
                )
        adds_R = _adds(lists, first_at, again_at)
        fault_B[again_R[joined_R & adds_R]] = JOINED
        tagged_G = pc.list_value_length(tags).to_numpy(zero_copy_only=False) > 0
        now_tagged_G = row_G[tagged_G & (fault_B[row_G] == NO_TAGS)]
        fault_B[now_tagged_G] = OK
        if self.split is not None:
            fault_B[now_tagged_G[split_B[now_tagged_G] == 2]] = NO_SPLIT
        return JoinedTags(row_G, tags)

    def _id(self, row: int) -> str:
        return str(self.ids()[int(row)].as_py())

    def test_bits(self) -> np.ndarray | None:
        """Test rows, packed; None where no column says which they are."""
        if self.split is None:
            return None
        return np.packbits(np.concatenate(self._split) == 1)
