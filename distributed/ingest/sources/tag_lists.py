"""The tags of images as Arrow lists, out of a column of lists, of texts with separators or of numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.plain_types import is_list, is_text
from distributed.data.tag_values import clean_values
from distributed.ingest.sources.written_lists import MAY_BE_A_LIST, read_list
from drel_core.errors import InputError

_OTHERS = {",": "','", ";": "';'", "|": "'|'", "\t": "$'\\t'", "\n": "$'\\n'"}
"""What people separate tags by, as it is typed in a shell."""
_NOTHING = r"^\s*(?i:nan|null|none|n/a|<na>)\s*$"
"""What programs write where there is nothing: tags as well, since a name may be that."""


@dataclass(frozen=True)
class TagForm:
    """How a column says the tags of an image.

    Attributes:
        separator: between the tags of a text.
        class_names: what the numbers of a column mean, where its file says so.
    """

    separator: str = ","
    class_names: tuple[str, ...] = ()

    def lists(self, column: pa.Array, where: str = "", first: int = 0) -> pa.Array:
        """list<string>, each tag in the form of ``clean_tag``.

        Empty tags and nulls go; a null row has no tags. A text that is a list by its brackets or quotes
        (Python, JSON, numpy, Postgres) is that list.

        Args:
            column: of a type that ``check`` accepts.
            where, first: the file, and the number of its row that the column begins with, for messages.

        Raises:
            InputError: a text is a list that cannot be read, or a number has no name.
        """
        if is_text(column.type):
            column = self._split(column, where, first)
        elif pa.types.is_null(column.type):
            column = column.cast(pa.list_(pa.string()))
        elif pa.types.is_integer(column.type):
            column = pa.ListArray.from_arrays(np.arange(len(column) + 1, dtype=np.int32), column)
        values = column.flatten()
        counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(column)), counts)
        if self.class_names and pa.types.is_integer(values.type):
            values = self._named(values, row, where, first)
        flat = clean_values(pc.fill_null(values.cast(pa.string()), ""))
        keep = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)
        return _lists(row[keep], len(column), flat.filter(pa.array(keep)))

    @staticmethod
    def check(path: str, name: str, kind: pa.DataType) -> None:
        """
        Raises:
            InputError: a column of this (plain) type holds no tags.
        """
        inner = kind.value_type if is_list(kind) else kind
        if not (is_text(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner)):
            raise InputError(
                f"{path}: column {name!r} is {kind}; it must be lists of text, text with a separator, or "
                "whole numbers"
            )

    def _split(self, column: pa.Array, where: str, first: int) -> pa.Array:
        lists = pc.split_pattern(column, self.separator)
        written: list[list[str]] = []
        places: list[int] = []
        may_be = pc.fill_null(pc.match_substring_regex(column, MAY_BE_A_LIST), False)
        for row in np.flatnonzero(may_be.to_numpy(zero_copy_only=False)).tolist():
            text = column[row].as_py()
            try:
                found = read_list(text, self.separator)
            except ValueError as error:
                raise InputError(
                    f"{where} row {first + row}: tags are {_shown(text)}: {error}; write lists as JSON, "
                    f"or the tags with {self.separator!r} between them"
                ) from None
            if found is not None:
                places.append(row)
                written.append(found)
        if not places:
            return lists
        place_B = np.arange(len(column))
        place_B[places] = len(column) + np.arange(len(places))
        together = pa.concat_arrays([lists, pa.array(written, lists.type)])
        return together.take(pa.array(place_B))

    def _named(self, number: pa.Array, row: np.ndarray, where: str, first: int) -> pa.Array:
        """Names of classes; -1, by which Hugging Face says that there is no label, becomes null."""
        names = pa.array(self.class_names, pa.string())
        wrong = pc.or_(pc.less(number, -1), pc.greater_equal(number, len(names)))
        wrong_at = np.flatnonzero(pc.fill_null(wrong, False).to_numpy(zero_copy_only=False))
        if len(wrong_at):
            place = int(wrong_at[0])
            raise InputError(
                f"{where} row {first + int(row[place])}: label {number[place]} has no name; the file "
                f"names {len(names)} classes, from 0"
            )
        there = pc.if_else(pc.equal(number, -1), pa.scalar(None, number.type), number)
        return names.take(there)


@dataclass
class SeparatorCheck:
    """Whether tags are separated by something else than was said: over all texts of a column.

    Attributes:
        rows: texts with something in them that are no written lists.
        found: how many of them hold each separator.
        example: (row, text) of the first that holds each.
        nothing: how often a text is one of those that programs write for nothing.
    """

    separator: str
    rows: int = 0
    found: Counter[str] = field(default_factory=Counter)
    example: dict[str, tuple[int, str]] = field(default_factory=dict)
    nothing: Counter[str] = field(default_factory=Counter)

    def add(self, column: pa.Array, first: int = 0) -> None:
        if not is_text(column.type):
            return
        plain_B = pc.invert(pc.match_substring_regex(column, MAY_BE_A_LIST))
        plain_B = pc.fill_null(pc.and_(plain_B, pc.match_substring_regex(column, r"\S")), False)
        self.rows += pc.sum(plain_B).as_py() or 0
        empty = column.filter(pc.fill_null(pc.match_substring_regex(column, _NOTHING), False))
        for entry in pc.value_counts(empty).to_pylist():
            self.nothing[entry["values"].strip()] += entry["counts"]
        trimmed = pc.utf8_trim_whitespace(
            column
        )  # the line break at a text's end separates nothing
        for separator in {self.separator, *_OTHERS}:
            holds = pc.and_(plain_B, pc.match_substring(trimmed, separator))
            count = pc.sum(holds).as_py() or 0
            if count and separator not in self.example:
                row = pc.index(holds, True).as_py()
                self.example[separator] = (first + row, column[row].as_py())
            self.found[separator] += count

    def finish(self, path: str) -> str | None:
        """A line where some texts look as if they were separated otherwise, or as if they meant nothing.

        Raises:
            InputError: no text holds the separator, and most of them hold another one.
        """
        other, count = max(
            ((s, self.found[s]) for s in _OTHERS if s != self.separator), key=lambda pair: pair[1]
        )
        own, most = self.found[self.separator], count * 2 > self.rows
        empty = None
        if self.nothing:
            (word, times), *_ = self.nothing.most_common(1)
            says = f"{times} rows have {word!r} for their tags"
            empty = f"{path}: {says}; if it means none, leave the field empty"
        if not count or (own and not (most and count >= 10 * own)):
            return empty
        row, text = self.example[other]
        said = (
            f"{path}: {f'{own} of {self.rows} rows have' if own else 'no row has'} {self.separator!r} "
            f"between tags, but {count} of {self.rows} have {other!r} (row {row}: {_shown(text)})"
        )
        if most and not own:
            raise InputError(f"{said}; give --separator {_OTHERS[other]}")
        return (
            f"{said}; if it separates tags, give --separator {_OTHERS[other]}"
            if count > 1
            else empty
        )


def joined_lists(lists: pa.Array, group_B: np.ndarray, groups: int) -> pa.Array:
    """The tags of rows that belong together, each once, in the order in which they come.

    Args:
        lists: list<string> ``[B]``.
        group_B: the group of each row, below ``groups``; -1 for a row of none.
    """
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    group = np.repeat(group_B, counts)
    encoded = lists.flatten().dictionary_encode()
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    pair = group * max(len(encoded.dictionary), 1) + code
    _, first = np.unique(pair, return_index=True)
    first = np.sort(first[group[first] >= 0])
    order = first[np.argsort(group[first], kind="stable")]
    return _lists(group[order], groups, encoded.dictionary.take(pa.array(code[order])))


def lists_from_matrix(has_tag_BT: np.ndarray, name_T: pa.Array) -> pa.Array:
    """list<string> of a boolean matrix with a column a tag."""
    row, tag = np.nonzero(has_tag_BT)
    return _lists(row, len(has_tag_BT), name_T.take(pa.array(tag)))


def _lists(row: np.ndarray, rows: int, values: pa.Array) -> pa.Array:
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(np.bincount(row, minlength=rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
