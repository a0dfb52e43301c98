"""Several features columns of one table: each is read like a source of its own, and rows are joined by image
id."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk
from distributed.ingest.sources.table import TableOptions, TableSource
from drel_core.errors import InputError

_TAKEN = (IMAGE_ID, TAGS, SPLIT)


@dataclass(frozen=True)
class SeveralColumns:
    """A ``Source`` whose rows have all of the columns; what one of them rejects is rejected.

    Attributes:
        names: of the columns, in their order.
        sources: of each column, over the same rows of the same table.
    """

    names: tuple[str, ...]
    sources: tuple[TableSource, ...] = field(repr=False)

    @staticmethod
    def open(path: str, named: dict[str, TableOptions]) -> SeveralColumns:
        """Open a source for each column.

        Args:
            named: by the name of each column its options.

        Raises:
            InputError: see ``TableSource.open``.
        """
        return SeveralColumns(
            tuple(named), tuple(TableSource.open(path, own) for own in named.values())
        )

    @property
    def num_rows(self) -> int:
        return self.sources[0].num_rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should look at."""
        return tuple(dict.fromkeys(note for source in self.sources for note in source.notes))

    def read(self, start: int, rows: int) -> Chunk:
        chunks = [source.read(start, rows) for source in self.sources]
        kept = chunks[0].table.column(IMAGE_ID).combine_chunks()
        for chunk in chunks[1:]:
            kept = kept.filter(pc.is_in(kept, value_set=_ids(chunk.table)))
        first = chunks[0].table
        table = first.take(pc.index_in(kept, value_set=_ids(first)))
        place = table.column_names.index(FEATURES)
        table = table.rename_columns(
            [self.names[0] if name == FEATURES else name for name in table.column_names]
        )
        for offset, (name, chunk) in enumerate(zip(self.names[1:], chunks[1:], strict=True), 1):
            here = chunk.table.take(pc.index_in(kept, value_set=_ids(chunk.table)))
            table = table.add_column(place + offset, name, here.column(FEATURES))
            table = _with_tags_of_both(table, here)
        return Chunk(table, self._rejected(chunks))

    def _rejected(self, chunks: list[Chunk]) -> pa.Table:
        """Each row once, with the first column's reason against it."""
        gone = chunks[0].rejected
        for name, chunk in zip(self.names, chunks, strict=True):
            reason = chunk.rejected.column("reason")
            of_column = pc.match_substring_regex(reason, "^(no )?features")
            named = pc.if_else(
                of_column, pc.binary_join_element_wise(f"{name}:", reason, " "), reason
            )
            told = chunk.rejected.set_column(2, "reason", named)
            if chunk is chunks[0]:
                gone = told
                continue
            new = pc.invert(pc.is_in(told.column("where"), value_set=_where(gone)))
            gone = pa.concat_tables([gone, told.filter(new)])
        return gone

    def describe(self) -> dict[str, Any]:
        about = self.sources[0].describe()
        each = {
            name: source.describe() for name, source in zip(self.names, self.sources, strict=True)
        }
        dims = {name: one["D"] for name, one in each.items()}
        options = {name: one["options"] for name, one in each.items()}
        return {**about, "D": sum(dims.values()), "columns": dims, "options": options}


def _with_tags_of_both(table: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of the first table, with the tags that both have. A row that repeats an image gives it tags
    only where it has all features: each column's source alone would take them from its own."""
    if table.column(TAGS).equals(other.column(TAGS)):
        return table
    pairs = zip(table.column(TAGS).to_pylist(), other.column(TAGS).to_pylist(), strict=True)
    both = [[tag for tag in one if tag in two] for one, two in pairs]
    place = table.column_names.index(TAGS)
    return table.set_column(place, TAGS, pa.array(both, pa.list_(pa.string())))


def _ids(table: pa.Table) -> pa.Array:
    return table.column(IMAGE_ID).combine_chunks()


def _where(gone: pa.Table) -> pa.Array:
    return gone.column("where").combine_chunks()


def _check_names(given: str, names: list[str]) -> None:
    if taken := [name for name in names if name in _TAKEN]:
        raise InputError(
            f"{given}: a store has a column {taken[0]!r} of its own; give the features another name"
        )


def named_options(options: TableOptions) -> dict[str, TableOptions]:
    """The options of each of several columns: ``--features_column a,b``, or
    ``--features_file a=FILE,b=FILE``. Empty where there is one alone.

    Raises:
        InputError: names are missing or there twice.
    """
    given = options.features_file
    if given and not Path(given).exists() and "," in given and "=" in given:
        pairs = [part.strip().partition("=") for part in given.split(",")]
        names = [name for name, _, _ in pairs]
        _check_names(f"--features_file {given}", names)
        if not all(name and path for name, _, path in pairs) or len(set(names)) < len(names):
            raise InputError(
                f"--features_file {given}: of several files each needs a name, and another one: "
                "NAME=FILE,NAME=FILE"
            )
        return {name: replace(options, features_file=path) for name, _, path in pairs}
    names = [name.strip() for name in options.features_column.split(",")]
    if options.features_file or len(names) == 1:
        return {}
    _check_names(f"--features_column {options.features_column}", names)
    if not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"--features_column {options.features_column}: give different names with commas between them"
        )
    return {name: replace(options, features_column=name) for name in names}
