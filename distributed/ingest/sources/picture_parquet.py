"""Parquet files that hold encoded pictures and their tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.feature_store import RowGroupSlice, read_table, units_in_range, units_of
from distributed.data.parquet_files import list_files, read_footer
from distributed.data.plain_types import is_text
from distributed.ingest.sources.base import IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from distributed.ingest.sources.picture_options import (
    ID_NAMES,
    TAG_NAMES,
    PictureOptions,
    pick_column,
)
from distributed.ingest.sources.table_facts import (
    JOINED,
    JoinedTags,
    TableFacts,
    digests,
    one_array,
    text_ids,
)
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm
from drel_core.errors import InputError


@dataclass(frozen=True)
class PictureParquet:
    """Parquet files with ``image_id``, encoded pictures and tags. Files or folders named train* and
    test* are those parts.

    Attributes:
        joined: tags of pictures that several rows hold.
        joined_bits: the rows whose tags went to an earlier row, packed eight to a byte.
        notes: what a user should look at.
    """

    root: str
    options: PictureOptions
    id_name: str
    tags_name: str
    units: tuple[RowGroupSlice, ...] = field(repr=False)
    starts: tuple[int, ...] = field(repr=False)
    form: TagForm
    joined: JoinedTags = field(repr=False)
    joined_bits: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.starts[-1]

    @staticmethod
    def open(path: str, options: PictureOptions) -> PictureParquet:
        """Read the footers.

        Raises:
            InputError: no Parquet, or columns are missing or of a wrong type.
        """
        filesystem, files = list_files(path, "--input")
        units: list[RowGroupSlice] = []
        names: tuple[str, str] | None = None
        for address, name, size in files:
            metadata, schema = read_footer(filesystem, address, name, size)
            if options.image_column not in schema.names:
                raise InputError(
                    f"{address}: no column {options.image_column!r} with encoded pictures; it has "
                    f"{', '.join(schema.names)}; name the right one with --image_column"
                )
            kind = schema.field(options.image_column).type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise InputError(
                    f"{address}: column {options.image_column!r} is {kind}; it must be binary"
                )
            here = (
                pick_column(schema.names, options.id_column, ID_NAMES, "id", address),
                pick_column(schema.names, options.tags_column, TAG_NAMES, "tags", address),
            )
            kind = schema.field(here[0]).type
            if not (is_text(kind) or pa.types.is_integer(kind)):
                raise InputError(
                    f"{address}: column {here[0]!r} is {kind}; it must be text or whole numbers"
                )
            TagForm.check(address, here[1], schema.field(here[1]).type)
            names = names or here
            if here != names:
                raise InputError(
                    f"{address}: its columns {here} differ from {names} of the first file; "
                    "name them with --id_column and --tags_column"
                )
            units += units_of(address, metadata)
        if names is None or not units:
            raise InputError(f"{path}: no rows; give --input at least one picture")
        starts = np.cumsum([0, *(unit.rows for unit in units)]).tolist()
        form = TagForm(options.separator)
        facts = TableFacts(path, *names, None, form, SeparatorCheck(options.separator))
        for unit in units:
            facts.add(read_table(unit, list(names)), unit.path, unit.file_row)
        note = facts.separators.finish(path)

        def read(row_S: np.ndarray) -> tuple[pa.Array, np.ndarray]:
            tags, digest_S = [], np.full(len(row_S), -1, np.int64)
            for unit, start in zip(units, starts[:-1], strict=True):
                low, high = np.searchsorted(row_S, [start, start + unit.rows])
                if low < high:
                    table = read_table(unit, [names[1], options.image_column])
                    table = table.take(pa.array(row_S[low:high] - start))
                    tags.append(form.lists(one_array(table.column(0))))
                    digest_S[low:high] = digests(table.column(1).to_pylist())
            return pa.concat_arrays(tags), digest_S

        def where(row: int) -> str:
            place = int(np.searchsorted(starts, row, side="right")) - 1
            return f"{units[place].path} row {units[place].file_row + row - starts[place]}"

        fault_B = facts.faults(None)
        joined = facts.join_repeats(fault_B, read, where)
        return PictureParquet(
            path,
            options,
            *names,
            tuple(units),
            tuple(starts),
            form,
            joined,
            np.packbits(fault_B == JOINED),
            (note,) if note else (),
        )

    def read(self, start: int, rows: int) -> Chunk:
        stop = min(start + rows, self.num_rows)
        parts: list[pa.Table] = []
        splits: list[str | None] = []
        out: list[Rejection] = []
        for at, unit in units_in_range(self.units, self.starts, start, stop):
            table = read_table(unit, [self.id_name, self.options.image_column, self.tags_name])
            ids = text_ids(table.column(self.id_name))
            image = one_array(table.column(self.options.image_column))
            row_B = np.arange(at, at + unit.rows)
            joined_B = (self.joined_bits[row_B // 8] >> (7 - row_B % 8)) & 1 == 1
            bad = pc.and_(pc.or_(pc.equal(ids, ""), pc.is_null(image)), pa.array(~joined_B))
            for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)):
                reason = "image_id is null or empty" if not ids[row].as_py() else "picture is null"
                where = f"{unit.path} row {unit.file_row + row}"
                out.append((ids[row].as_py() or None, where, reason))
            tags = self.form.lists(one_array(table.column(self.tags_name)))
            tags = self.joined.put_into(tags, row_B)
            good = pc.invert(pc.or_(bad, pa.array(joined_B)))
            part = pa.table({IMAGE_ID: ids, "image": image.cast(pa.binary()), TAGS: tags})
            part = part.filter(good)
            parts.append(part)
            splits += [_split_of(unit.path, self.root)] * len(part)
        table = pa.concat_tables(parts)
        return Chunk(table.append_column(SPLIT, pa.array(splits, pa.string())), rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "images", "input": self.root}


def _split_of(address: str, root: str) -> str | None:
    """train or test where the file, or a folder below the input, is named so."""
    tail = address[len(root.rstrip("/")) :] if address.startswith(root) else address
    for part in reversed(PurePosixPath(tail or Path(address).name).parts):
        for name in ("train", "test"):
            if part.lower().startswith(name):
                return name
    return None
