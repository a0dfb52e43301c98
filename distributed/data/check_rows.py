"""Checks and counts of the rows of one unit, wherever it is read. ``survey`` adds the answers up.

Shapes: B rows of the unit, n of them with D values, D feature size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.canonical_tags import CanonicalTags, RuledPairs
from distributed.data.columns import Columns
from distributed.data.feature_store import (
    RowGroupSlice,
    feature_matrix,
    flat_tags,
    one_chunk,
    read_table,
)
from distributed.data.feature_sums import FeatureSums, feature_sums
from distributed.data.plain_types import check_text
from distributed.data.row_hash import hash_ids, is_drawn
from distributed.data.tag_values import TagCodes, sorted_unique
from drel_core.bundle.tag_rules import TagRules

BadRow = tuple[int, str]
"""Row number of the file and what is wrong with it."""
Faults = dict[int, str]
"""What is wrong, by place in the unit; of several faults of a row the one that was found first."""


@dataclass(frozen=True)
class Validation:
    """The share of rows held out by a hash of (seed, image_id): the same at any file layout."""

    fraction: float
    seed: int


@dataclass(frozen=True)
class WatchSample:
    """Rows that are scored while a model is trained, to see how good it is; nothing follows from them.

    Attributes:
        share: of the rows of a unit, drawn by a hash of (seed, image_id).
        held_out: the model is not trained on them. Vocabulary and counts know them: no tag is lost.
    """

    share: float
    seed: int
    held_out: bool


@dataclass(frozen=True)
class SurveyOptions:
    """How the rows of a store are looked at.

    Attributes:
        columns: of the store.
        image_dim: the store's D.
        dims: D of each features column, where there are several.
        validation: rows to hold out, or None.
        watch: rows to score while training, or None.
        statistics: sum up the features of the training rows.
        power: the sums are of ``sign(x)|x|^power``, which is what the model standardises; one number, or one
            for each feature.
    """

    columns: Columns
    image_dim: int
    validation: Validation | None = None
    statistics: bool = True
    power: float | np.ndarray = 1.0
    watch: WatchSample | None = None
    dims: tuple[int, ...] = ()


@dataclass(frozen=True)
class UnitSurvey:
    """What one unit holds; row numbers are the file's."""

    unit: RowGroupSlice
    tag: pa.Array
    tag_count: np.ndarray
    feature_sum_D: np.ndarray
    feature_square_D: np.ndarray
    train_rows: int
    id_hash: np.ndarray
    bad: list[BadRow]
    bad_or_tagless: np.ndarray
    tagless: int
    undecided: dict[str, np.ndarray]
    """tag that is split to the rows that have it and none of its parts"""
    validation: np.ndarray
    watch: np.ndarray
    options: SurveyOptions
    """how it was looked at"""
    content: bytes
    """hash of ids, features and tags, in order"""


def survey_unit(
    unit: RowGroupSlice,
    options: SurveyOptions,
    known_bad: Sequence[BadRow] = (),
    canonical: CanonicalTags | None = None,
) -> UnitSurvey:
    """Read, check and count one unit.

    Args:
        unit: which rows.
        known_bad: rows that other units show to be bad.
        canonical: what the rules make of tags; a row that loses all of them has none. A row with a tag that
            is split and none of its parts is left out: every tag that a row does not name is irrelevant to
            it, and it would teach that it has no part.

    Raises:
        InputError: the unit cannot be read. Bad rows are no error here, see ``merge_surveys``.
    """
    columns = options.columns
    table = read_table(unit, [columns.image_id, *columns.blocks, columns.tags])
    image_id, tags, *stored = (
        one_chunk(table.column(name))  # the table has the file's order
        for name in (columns.image_id, columns.tags, *columns.blocks)
    )
    check_text(image_id, columns.image_id, unit.path, unit.file_row)
    check_text(tags, columns.tags, unit.path, unit.file_row)
    features, faults = _decoded(stored, columns)
    faults.update((row - unit.file_row, text) for row, text in known_bad)
    id_B = _check_ids(image_id, faults)
    dims = options.dims or (options.image_dim,)
    dense, dense_B = _check_lengths(features, columns, dims, faults)
    tag_values, offsets = flat_tags(tags)
    codes = TagCodes.of(tag_values)
    row_n = np.repeat(np.arange(unit.rows), np.diff(offsets))
    bad_tag_B = np.zeros(unit.rows, dtype=bool)
    bad_tag_B[row_n[codes.is_empty_n]] = True
    found = (canonical or CanonicalTags(TagRules())).pairs(codes, row_n)
    undecided_B, tagless_B = np.zeros(unit.rows, dtype=bool), np.ones(unit.rows, dtype=bool)
    for row in found.undecided.values():
        undecided_B[row] = True
    tagless_B[found.row_m] = False
    tagless_B &= ~undecided_B & ~bad_tag_B
    held_B = np.zeros(unit.rows, dtype=bool)
    validation = options.validation
    if validation is not None and validation.fraction > 0:
        held_B = is_drawn(id_B, validation.fraction, "validation", validation.seed)

    # Checks the values and, over the rows that nothing else speaks against, sums them.
    left_out_B = bad_tag_B | tagless_B | undecided_B
    train_B = ~(_has_fault(faults, unit.rows) | left_out_B | held_B)
    chosen_B = train_B if options.statistics else None
    value_nD = feature_matrix(dense).reshape(-1, sum(dims))
    sums = feature_sums(value_nD, None if chosen_B is None else chosen_B[dense_B], options.power)
    _note_values(sums, dense, columns, dims, dense_B, faults)
    _note(faults, bad_tag_B, "tags hold a null or an empty string")

    bad_B = _has_fault(faults, unit.rows)
    tagless_B &= ~bad_B
    usable_B = ~bad_B & ~tagless_B & ~undecided_B
    held_B &= usable_B
    train_B = usable_B & ~held_B
    names, count = _count_tags(found, train_B)
    watch_B = np.zeros(unit.rows, dtype=bool)
    if (watch := options.watch) is not None:
        watch_B = train_B & is_drawn(id_B, watch.share, "watch", watch.seed)
    id_hash = hash_ids(id_B)
    return UnitSurvey(
        unit=unit,
        tag=names,
        tag_count=count,
        feature_sum_D=sums.sum_D,
        feature_square_D=sums.square_D,
        train_rows=int(train_B.sum()),
        id_hash=id_hash,
        bad=[(unit.file_row + row, text) for row, text in sorted(faults.items())],
        bad_or_tagless=unit.file_row + np.flatnonzero(~usable_B),
        tagless=int(tagless_B.sum()),
        undecided={tag: unit.file_row + row[~bad_B[row]] for tag, row in found.undecided.items()},
        validation=unit.file_row + np.flatnonzero(held_B),
        watch=unit.file_row + np.flatnonzero(watch_B),
        options=options,
        content=_content(id_hash, value_nD, codes.values, offsets),
    )


def _content(
    id_hash: np.ndarray, value_nD: np.ndarray, tag_values: pa.Array, offsets: np.ndarray
) -> bytes:
    """The same wherever the rows are read, and other when any of them is other: sha256."""
    state = hashlib.sha256()
    for part in (id_hash, value_nD.reshape(-1), offsets):
        state.update(np.ascontiguousarray(part).data)
    text = pc.fill_null(tag_values, "").cast(pa.large_string())
    ends = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    state.update((ends - ends[:1]).data)
    if len(text):
        state.update(memoryview(text.buffers()[2] or b"")[ends[0] : ends[-1]])
    return state.digest()


def bad_rows(
    image_id: pa.Array,
    stored: Sequence[pa.Array],
    unit: RowGroupSlice,
    columns: Columns,
    dims: Sequence[int],
) -> tuple[list[BadRow], list[pa.Array]]:
    """The bad rows of images that are yet to be annotated, as training would find them; and the features
    columns decoded, null where there are none.

    Args:
        stored: the features columns as they are stored.
        dims: D of each.

    Raises:
        InputError: ids are no text.
    """
    check_text(image_id, columns.image_id, unit.path, unit.file_row)
    decoded, faults = _decoded(stored, columns)
    _check_ids(image_id, faults)
    dense, dense_B = _check_lengths(decoded, columns, dims, faults)
    sums = feature_sums(feature_matrix(dense).reshape(-1, sum(dims)), None)
    _note_values(sums, dense, columns, dims, dense_B, faults)
    return [(unit.file_row + row, text) for row, text in sorted(faults.items())], decoded


def _check_ids(image_id: pa.Array, faults: Faults) -> np.ndarray:
    """The ids as objects ``[B]``, empty where there is none."""
    _note(faults, image_id.is_null().to_numpy(zero_copy_only=False), "image_id is null")
    empty = pc.fill_null(pc.equal(image_id, ""), False)
    _note(faults, empty.to_numpy(zero_copy_only=False), "image_id is empty")
    return pc.fill_null(image_id, "").to_numpy(zero_copy_only=False).astype(object, copy=False)


def _decoded(stored: Sequence[pa.Array], columns: Columns) -> tuple[list[pa.Array], Faults]:
    decoded, faults = [], Faults()
    for column in stored:
        features, found = columns.decode(column)
        decoded.append(features)
        faults = found | faults
    return decoded, faults


def _check_lengths(
    features: Sequence[pa.Array], columns: Columns, dims: Sequence[int], faults: Faults
) -> tuple[list[pa.Array], np.ndarray]:
    """Of each column the rows that have their D values in all of them, and which of the unit's these are
    (bool ``[B]``)."""
    dense_B = np.ones(len(features[0]), dtype=bool)
    for block, (column, dim) in enumerate(zip(features, dims, strict=True)):
        said = columns.said_of(block)
        _note(faults, column.is_null().to_numpy(zero_copy_only=False), f"{said}features are null")
        length = pc.fill_null(pc.list_value_length(column), dim).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(length != dim):
            faults.setdefault(
                int(row), f"{said}features have D = {length[row]}, the store has D = {dim}"
            )
        dense_B &= column.is_valid().to_numpy(zero_copy_only=False) & (length == dim)
    if not dense_B.all():
        return [column.filter(pa.array(dense_B)) for column in features], dense_B
    return list(features), dense_B


def _note_values(
    sums: FeatureSums,
    dense: Sequence[pa.Array],
    columns: Columns,
    dims: Sequence[int],
    dense_B: np.ndarray,
    faults: Faults,
) -> None:
    """Note values that are no finite float32."""
    place, ends = np.flatnonzero(dense_B), np.cumsum(dims)
    for row, position, value in sums.bad:
        block = int(np.searchsorted(ends, position, side="right"))
        within = position - int(ends[block]) + dims[block]
        if np.isnan(value):
            values = dense[block].flatten()
            missing = values.null_count and not values[row * dims[block] + within].is_valid
            found = "a null" if missing else "NaN"
        else:
            found = "Inf" if np.isinf(value) else f"{value:g}, beyond float32,"
        said = f"{columns.said_of(block)}features hold {found} at position {within}"
        faults.setdefault(int(place[row]), said)


def _count_tags(found: RuledPairs, train_B: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Tags of training rows and in how many of them each is."""
    names, size = found.names, max(len(found.names), 1)
    key_m = found.row_m * size + found.id_m
    if not train_B.all():
        key_m = key_m[train_B[found.row_m]]
    count = np.bincount(sorted_unique(key_m) % size, minlength=len(names))
    return names.filter(pa.array(count > 0)), count[count > 0]


def _note(faults: Faults, wrong_B: np.ndarray, text: str) -> None:
    for row in np.flatnonzero(wrong_B):
        faults.setdefault(int(row), text)


def _has_fault(faults: Faults, rows: int) -> np.ndarray:
    bad_B = np.zeros(rows, dtype=bool)
    bad_B[list(faults)] = True
    return bad_B
