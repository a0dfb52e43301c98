"""Parquet files that hold encoded pictures and their tags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.feature_store import RowGroupSlice, read_table, units_in_range, units_of
from distributed.data.named_parts import split_of
from distributed.data.parquet_files import list_files, read_footer
from distributed.data.plain_types import is_text
from distributed.ingest.sources.base import IMAGE, IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from distributed.ingest.sources.nested_columns import class_names, column_of, type_of
from distributed.ingest.sources.picture_options import (
    ID_NAMES,
    TAG_NAMES,
    PictureOptions,
    pick_column,
)
from distributed.ingest.sources.table_facts import (
    JOINED,
    NONE_JOINED,
    JoinedTags,
    TableFacts,
    digests,
    one_array,
    text_ids,
)
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm
from distributed.runtime.progress import counted
from distributed.storage.files import name_below
from drel_core.errors import InputError

_IMAGE_NAMES = ("image", "img", "picture", "jpg", "png")
_NO_ID = ""


@dataclass(frozen=True)
class _Names:
    """Where a row's values lie, see ``nested_columns``.

    Attributes:
        id: empty where no column says it.
        image: encoded pictures.
        path: of each picture, beside its bytes; empty where nothing says it.
        tags: lists, text or numbers.
    """

    id: str
    image: str
    path: str
    tags: str

    @staticmethod
    def of(address: str, schema: pa.Schema, options: PictureOptions) -> _Names:
        """
        Raises:
            InputError: a column is missing or of a wrong type.
        """
        image = options.image_column
        if type_of(schema, image) is None and image == PictureOptions.image_column:
            image = next((name for name in _IMAGE_NAMES if name in schema.names), image)
        kind, path = type_of(schema, image), ""
        if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            path = f"{image}.path" if kind.get_field_index("path") >= 0 else ""
            image = f"{image}.bytes"
            kind = type_of(schema, image)
        if kind is None:
            raise InputError(
                f"{address}: no column {image!r} with encoded pictures; it has "
                f"{', '.join(schema.names)}; name the right one with --image_column"
            )
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{address}: column {image!r} is {kind}; it must be binary, or a struct of bytes and path"
            )
        tags = options.tags_column
        if type_of(schema, tags) is None:
            tags = pick_column(schema.names, tags, TAG_NAMES, "tags", address)
        TagForm.check(address, tags, type_of(schema, tags))
        key = options.id_column
        if not key and not {name.lower() for name in schema.names} & set(ID_NAMES):
            return _Names(_NO_ID, image, path, tags)
        if type_of(schema, key) is None:
            key = pick_column(schema.names, key, ID_NAMES, "id", address)
        kind = type_of(schema, key)
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise InputError(
                f"{address}: column {key!r} is {kind}; it must be text or whole numbers"
            )
        return _Names(key, image, path, tags)


@dataclass(frozen=True)
class PictureParquet:
    """Parquet files with encoded pictures and tags. Files or folders named train* and test* are those parts.

    Attributes:
        named_by: names of columns; ``id`` is empty where pictures are named by file and row.
        form: how tags are said.
        joined: tags of pictures that several rows hold.
        joined_bits: the rows whose tags went to an earlier row, packed eight to a byte.
        notes: what a user should look at.
    """

    root: str
    options: PictureOptions
    named_by: _Names
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
        """Read footers, ids and tags.

        Raises:
            InputError: no Parquet, or columns are missing or of a wrong type.
        """
        filesystem, files = list_files(path, "--input")
        units: list[RowGroupSlice] = []
        seen: tuple[_Names, tuple[str, ...], str] | None = None
        for address, name, size in files:
            metadata, schema = read_footer(filesystem, address, name, size)
            names = _Names.of(address, schema, options)
            classes = class_names(schema, names.tags)
            seen = seen or (names, classes, address)
            if names != seen[0]:
                raise InputError(
                    f"{address}: its columns {names} differ from {seen[0]} of {seen[2]}; "
                    "name them with --id_column, --image_column and --tags_column"
                )
            if classes != seen[1]:
                raise InputError(
                    f"{address}: names other classes than {seen[2]} in {names.tags!r}; give one at a time"
                )
            units += units_of(address, metadata)
        if seen is None or not units:
            raise InputError(f"{path}: no rows; give --input at least one picture")
        names, notes = seen[0], []
        form = TagForm(options.separator, seen[1])
        if not names.id and names.path and _tell_apart(units, names.path):
            names = replace(names, id=names.path)
        if not names.id:
            notes.append(f"{path}: no column of ids; pictures are named by file and row")
        starts = np.cumsum([0, *(unit.rows for unit in units)]).tolist()
        unread = PictureParquet(
            path,
            options,
            names,
            tuple(units),
            tuple(starts),
            form,
            NONE_JOINED,
            np.zeros(0, np.uint8),
        )
        facts = TableFacts(path, IMAGE_ID, TAGS, None, form, SeparatorCheck(options.separator))
        for unit in units:
            facts.add(unread.columns(unit, (IMAGE_ID, TAGS)), unit.path, unit.file_row)
        notes.append(facts.separators.finish(path) or "")
        notes.append(unsaid_note(path, [_below(unit.path, path) for unit in units]) or "")
        fault_B = facts.faults(None)
        return replace(
            unread,
            joined=facts.join_repeats(fault_B, unread.tags_and_digests, unread.where),
            joined_bits=np.packbits(fault_B == JOINED),
            notes=tuple(note for note in notes if note),
        )

    def columns(self, unit: RowGroupSlice, wanted: tuple[str, ...]) -> pa.Table:
        """Some of ``image_id``, ``image`` and ``tags`` of a unit, as they stand in the file."""
        names = self.named_by
        of = {IMAGE_ID: names.id, IMAGE: names.image, TAGS: names.tags}
        given = {one: of[one] for one in wanted if of[one]}
        # A struct of bytes and path is read as far as it is needed.
        tops = [
            name if name in (names.image, names.path) else name.partition(".")[0]
            for name in given.values()
        ]
        table = read_table(unit, [*given.values(), *tops])
        made = {one: column_of(table, name) for one, name in given.items()}
        if IMAGE_ID in wanted and not names.id:
            base = _below(unit.path, self.root).removesuffix(".parquet")
            made[IMAGE_ID] = pa.array(
                [f"{base}-{row}" for row in range(unit.file_row, unit.file_row + unit.rows)]
            )
        return pa.table({one: made[one] for one in wanted})

    def tags_and_digests(self, row_S: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Tags of some rows, and a number for each one's picture; see ``TableFacts.join_repeats``."""
        tags, digest_S = [], np.full(len(row_S), -1, np.int64)
        for unit, start in zip(self.units, self.starts[:-1], strict=True):
            low, high = np.searchsorted(row_S, [start, start + unit.rows])
            if low < high:
                table = self.columns(unit, (TAGS, IMAGE)).take(pa.array(row_S[low:high] - start))
                tags.append(self.form.lists(one_array(table.column(TAGS))))
                digest_S[low:high] = digests(table.column(IMAGE).to_pylist())
        return pa.concat_arrays(tags), digest_S

    def where(self, row: int) -> str:
        """File and row of a row of all."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        unit = self.units[place]
        return f"{unit.path} row {unit.file_row + row - self.starts[place]}"

    def read(self, start: int, rows: int) -> Chunk:
        stop = min(start + rows, self.num_rows)
        parts: list[pa.Table] = []
        splits: list[str | None] = []
        out: list[Rejection] = []
        for at, unit in units_in_range(self.units, self.starts, start, stop):
            table = self.columns(unit, (IMAGE_ID, IMAGE, TAGS))
            ids = text_ids(table.column(IMAGE_ID))
            image = one_array(table.column(IMAGE))
            row_B = np.arange(at, at + unit.rows)
            joined_B = (self.joined_bits[row_B // 8] >> (7 - row_B % 8)) & 1 == 1
            bad = pc.and_(pc.or_(pc.equal(ids, ""), pc.is_null(image)), pa.array(~joined_B))
            for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)):
                reason = "image_id is null or empty" if not ids[row].as_py() else "picture is null"
                where = f"{unit.path} row {unit.file_row + row}"
                out.append((ids[row].as_py() or None, where, reason))
            tags = self.form.lists(one_array(table.column(TAGS)))
            tags = self.joined.put_into(tags, row_B)
            good = pc.invert(pc.or_(bad, pa.array(joined_B)))
            part = pa.table({IMAGE_ID: ids, IMAGE: image.cast(pa.binary()), TAGS: tags})
            part = part.filter(good)
            parts.append(part)
            splits += [train_or_test(_below(unit.path, self.root))] * len(part)
        table = pa.concat_tables(parts)
        return Chunk(table.append_column(SPLIT, pa.array(splits, pa.string())), rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "images", "input": self.root}


def _tell_apart(units: list[RowGroupSlice], name: str) -> bool:
    """Whether a column of text is different in every row."""
    values: list[str | None] = []
    for unit in units:
        values += column_of(read_table(unit, [name]), name).to_pylist()
    return all(values) and len(set(values)) == len(values)


def _below(address: str, path: str) -> str:
    """The name of a file below the input; its own name where it is the input itself."""
    whole = unquote(path.partition("?")[0]) if "://" in path else path
    return name_below(address, path) or whole.rstrip("/").rpartition("/")[2]


def train_or_test(name: str) -> str | None:
    """Where a file below the input, or a folder of it, is named so. Rows for validation are training rows."""
    split = split_of(name)
    return None if split == "validation" else split


def unsaid_note(path: str, names: Iterable[str]) -> str | None:
    """A line where some files say train or test and others, such as validation, do not."""
    of = {name: train_or_test(name) for name in names}
    unsaid = [name for name, split in of.items() if split is None]
    if not unsaid or len(unsaid) == len(of):
        return None
    return (
        f"{path}: {counted(len(unsaid), 'file')} named neither train nor test (such as {unsaid[0]}); "
        "these rows are training rows as well"
    )
