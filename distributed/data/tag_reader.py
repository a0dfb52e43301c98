"""The tags of a store without its features: how often each occurs, and which occur together.

Only the tags column is read, so that a store of any kind and size is looked at in seconds.
Shapes: B rows of a unit, T tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from distributed.data.canonical_tags import encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import RowGroupSlice, flat_tags, one_chunk, read_table, units_of
from distributed.data.parquet_files import check_tags, list_files, read_footer
from distributed.data.plain_types import check_text
from distributed.data.tag_values import clean_values, places, sorted_unique


@dataclass(frozen=True)
class TagCounts:
    """Tags of a store.

    Attributes:
        names: alphabetical, clean.
        count_T: int64, images that carry each.
        images: rows.
        tagless: rows without a tag.
    """

    names: tuple[str, ...]
    count_T: np.ndarray
    images: int
    tagless: int


@dataclass(frozen=True)
class TagReader:
    """The tags column of a store.

    Attributes:
        path: as it was given.
        files: address and number of rows of each file.
        units: ranges of rows that are read at a time.
    """

    path: str
    column: str
    files: tuple[tuple[str, int], ...]
    units: tuple[RowGroupSlice, ...]

    @property
    def images(self) -> int:
        return sum(rows for _, rows in self.files)

    @staticmethod
    def open(path: str, columns: Columns | None = None, option: str = "--data") -> TagReader:
        """Read every footer.

        Raises:
            InputError: nothing is there, or a file is no Parquet or has no tags column.
        """
        column = (columns or Columns()).tags
        filesystem, files = list_files(path, option)
        with ThreadPoolExecutor(min(16, len(files))) as threads:
            footers = list(threads.map(lambda file: read_footer(filesystem, *file), files))
        units: list[RowGroupSlice] = []
        found = []
        for (address, _, _), (metadata, schema) in zip(files, footers, strict=True):
            check_tags(address, schema, column, option)
            units += units_of(address, metadata)
            found.append((address, metadata.num_rows))
        return TagReader(path, column, tuple(found), tuple(units))

    def read(self) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Of each unit flat clean tags and int64 offsets ``[B + 1]``.

        Raises:
            InputError: a file cannot be read, or holds text that is not UTF-8.
        """
        for unit in self.units:
            column = one_chunk(read_table(unit, [self.column]).column(0))
            check_text(column, self.column, unit.path, unit.file_row)
            values, offset_B = flat_tags(column)
            yield clean_values(values), offset_B

    def counts(self) -> TagCounts:
        """How often each tag occurs; a tag counts once an image."""
        found, tagless = [], 0
        for values, offset_B in self.read():
            encoded = values.dictionary_encode()
            code = places(encoded.indices)
            row = np.repeat(np.arange(len(offset_B) - 1), np.diff(offset_B))
            names = encoded.dictionary.cast(pa.large_string())
            empty = pc.equal(names, "").to_numpy(zero_copy_only=False)
            real = (code >= 0) & ~np.append(empty, True)[code]
            size = max(1, len(names))
            key = sorted_unique(row[real] * size + code[real])
            tagless += len(offset_B) - 1 - len(sorted_unique(key // size))
            count = np.bincount(key % size, minlength=len(names))
            found.append(pa.table({"tag": names, "count": count}))
        if not found:
            return TagCounts((), np.zeros(0, dtype=np.int64), 0, 0)
        table = pa.concat_tables(found).group_by("tag").aggregate([("count", "sum")])
        table = table.filter(pc.greater(table.column("count_sum"), 0)).sort_by("tag")
        count_T = table.column("count_sum").to_numpy().astype(np.int64)
        return TagCounts(tuple(table.column("tag").to_pylist()), count_T, self.images, tagless)

    def matrices(self, names: pa.Array, every: int = 1) -> Iterator[sparse.csr_array]:
        """Of each unit ``[B, T]``: 1 where an image carries a tag.

        Args:
            every: of so many units one.
        """
        for values, offset_B in TagReader(
            self.path, self.column, self.files, self.units[::every]
        ).read():
            tag_n, offset = encode_tags(values, offset_B, names)
            shape = (len(offset) - 1, len(names))
            yield sparse.csr_array(
                (np.ones(len(tag_n), dtype=np.int32), tag_n, offset), shape=shape
            )
