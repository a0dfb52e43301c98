"""One pass over a store: validation of every row, vocabulary, counts and feature statistics.

``survey_unit`` looks at one unit wherever it runs; ``merge_surveys`` adds the answers up. The
outcome does not depend on how rows lie in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.columns import Columns, sibling_option
from distributed.data.feature_store import (
    FeatureStore,
    RowGroupSlice,
    RowSelection,
    flat_tags,
    read_table,
)
from distributed.data.feature_sums import feature_sums
from distributed.runtime.tasks import map_units
from distributed.storage.files import one_line
from drel_core.errors import InputError

OnBadRow = Literal["fail", "skip"]
BadRow = tuple[int, str]


@dataclass(frozen=True)
class Validation:
    """The share of rows held out by a hash of (seed, image_id): the same at any file layout."""

    fraction: float
    seed: int


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
    validation: np.ndarray
    look_again: Callable[..., UnitSurvey]
    """``survey_unit`` with the same arguments; takes ``known_bad``"""


def hash_ids(image_id: np.ndarray, seed: int = 0) -> np.ndarray:
    import pandas as pd  # slow to import, and training workers hash nothing

    key = f"{seed:016d}"[-16:]
    return pd.util.hash_array(image_id, hash_key=key, categorize=False)


def _check_text(column: pa.Array, name: str, unit: RowGroupSlice) -> None:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{unit.path}: rows from {unit.file_row}: column {name!r} holds text that is not UTF-8 "
            f"({one_line(error)}); write the file again"
        ) from error


def survey_unit(
    unit: RowGroupSlice,
    columns: Columns,
    image_dim: int,
    validation: Validation | None = None,
    statistics: bool = True,
    power: float = 1.0,
    known_bad: Sequence[BadRow] = (),
) -> UnitSurvey:
    """Check and count one unit.

    Args:
        unit: which rows.
        image_dim: the store's D.
        validation: rows to hold out, or None.
        statistics: sum up the features of the training rows.
        power: the sums are of ``sign(x)|x|^power``, which is what the model standardises.
        known_bad: rows that other units show to be bad.

    Raises:
        InputError: the unit cannot be read. Bad rows are no error here, see ``merge_surveys``.
    """
    table = read_table(unit, [columns.image_id, columns.features, columns.tags])
    again = partial(survey_unit, unit, columns, image_dim, validation, statistics, power)
    return survey_table(
        table, unit, columns, image_dim, validation, statistics, power, known_bad, again
    )


def survey_table(
    table: pa.Table,
    unit: RowGroupSlice,
    columns: Columns,
    image_dim: int,
    validation: Validation | None,
    statistics: bool,
    power: float,
    known_bad: Sequence[BadRow],
    look_again: Callable[..., UnitSurvey],
) -> UnitSurvey:
    """``survey_unit`` of a unit that has been read."""
    image_id, features, tags = (
        pa.concat_arrays(table.column(name).chunks)
        if table.column(name).num_chunks != 1
        else table.column(name).chunk(0)
        for name in (columns.image_id, columns.features, columns.tags)
    )
    _check_text(image_id, columns.image_id, unit)
    _check_text(tags, columns.tags, unit)
    features, reason = columns.decode(features)
    reason.update((row - unit.file_row, text) for row, text in known_bad)

    def mark(bad_B: np.ndarray, text: str) -> None:
        for row in np.flatnonzero(bad_B):
            reason.setdefault(int(row), text)

    mark(image_id.is_null().to_numpy(zero_copy_only=False), "image_id is null")
    mark(
        pc.fill_null(pc.equal(image_id, ""), False).to_numpy(zero_copy_only=False),
        "image_id is empty",
    )
    id_B = pc.fill_null(image_id, "").to_numpy(zero_copy_only=False).astype(object, copy=False)
    tag_flat, offsets = flat_tags(tags)
    row_of_tag = np.repeat(np.arange(unit.rows), np.diff(offsets))
    unusable = pc.fill_null(pc.equal(tag_flat, ""), True).to_numpy(zero_copy_only=False)
    bad_tag_B = np.bincount(row_of_tag[unusable], minlength=unit.rows) > 0
    tagless_B = np.diff(offsets) == 0
    held_B = np.zeros(unit.rows, dtype=bool)
    if validation is not None and validation.fraction > 0:
        held_B = hash_ids(id_B, validation.seed + 1) / 2.0**64 < validation.fraction

    mark(features.is_null().to_numpy(zero_copy_only=False), "features are null")
    length = pc.fill_null(pc.list_value_length(features), image_dim).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(length != image_dim):
        reason.setdefault(
            int(row), f"features have D = {length[row]}, the store has D = {image_dim}"
        )
    dense_B = features.is_valid().to_numpy(zero_copy_only=False) & (length == image_dim)
    dense = features if dense_B.all() else features.filter(pa.array(dense_B))
    values = dense.flatten()
    value_bD = values.to_numpy(zero_copy_only=False).reshape(-1, image_dim)
    bad_B = bad_tag_B.copy()
    bad_B[list(reason)] = True
    train_B = ~bad_B & ~tagless_B & ~held_B
    # Checks the values and, over the rows that nothing else speaks against, sums them.
    sums = feature_sums(value_bD, train_B[dense_B] if statistics else None, power)
    place = np.flatnonzero(dense_B)
    for dense_row, position, value in sums.bad:
        if np.isnan(value):
            missing = values.null_count and not values[dense_row * image_dim + position].is_valid
            found = "a null" if missing else "NaN"
        else:
            found = "Inf" if np.isinf(value) else f"{value:g}, beyond float32,"
        reason.setdefault(int(place[dense_row]), f"features hold {found} at position {position}")
    mark(bad_tag_B, "tags hold a null or an empty string")

    bad_B[list(reason)] = True
    tagless_B &= ~bad_B
    usable_B = ~bad_B & ~tagless_B
    held_B &= usable_B
    train_B = usable_B & ~held_B

    encoded = pc.dictionary_encode(pc.fill_null(tag_flat, ""))
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary
    pair = np.unique((row_of_tag * max(len(names), 1) + code)[train_B[row_of_tag]])
    count = np.bincount(pair % max(len(names), 1), minlength=len(names))
    return UnitSurvey(
        unit=unit,
        tag=names.filter(pa.array(count > 0)),
        tag_count=count[count > 0],
        feature_sum_D=sums.sum_D,
        feature_square_D=sums.square_D,
        train_rows=int(train_B.sum()),
        id_hash=hash_ids(id_B),
        bad=[(unit.file_row + row, text) for row, text in sorted(reason.items())],
        bad_or_tagless=unit.file_row + np.flatnonzero(~usable_B),
        tagless=int(tagless_B.sum()),
        validation=unit.file_row + np.flatnonzero(held_B),
        look_again=look_again,
    )


@dataclass
class StoreSurvey:
    """What a whole store holds. ``names`` are in alphabetical order.

    Attributes:
        names: pa.StringArray ``[T]``, tags of training rows.
        count_T: int64, training images with each tag.
        mean_D, std_D: float64 statistics of training features (std 1 where a feature is constant).
        train, validation: what to read, each unit with the rows to leave out.
        skipped: (file, row, reason) of every bad row left out.
        tagless: rows without tags, left out.
        image_dim, item_bytes: D, and bytes of a feature in memory.
    """

    image_dim: int
    item_bytes: int
    names: pa.Array
    count_T: np.ndarray
    mean_D: np.ndarray
    std_D: np.ndarray
    train: list[RowSelection]
    validation: list[RowSelection]
    skipped: list[tuple[str, int, str]]
    tagless: int

    @property
    def train_rows(self) -> int:
        return sum(selection.take for selection in self.train)

    @property
    def validation_rows(self) -> int:
        return sum(selection.take for selection in self.validation)

    @property
    def num_bytes(self) -> int:
        """Of the training rows' features in memory."""
        return self.train_rows * self.image_dim * self.item_bytes


def _duplicates(surveys: list[UnitSurvey]) -> dict[int, list[BadRow]]:
    """Second and later rows of an image id by survey; each names the first one's place.

    Ids are compared by 64-bit hash: in a store of 10^8 rows, one in 3000 such stores would have a
    pair of different ids that looks like a duplicate.
    """
    found: dict[int, list[BadRow]] = {}
    if not surveys:
        return found
    hashes = np.concatenate([survey.id_hash for survey in surveys])
    starts = np.cumsum([0, *(len(survey.id_hash) for survey in surveys)])
    usable = np.ones(len(hashes), dtype=bool)  # a row that is bad already is no duplicate
    for survey, start in zip(surveys, starts[:-1], strict=True):
        usable[[start + row - survey.unit.file_row for row, _ in survey.bad]] = False
    order = np.argsort(hashes, kind="stable")
    order = order[usable[order]]
    new = np.ones(len(order), dtype=bool)
    new[1:] = hashes[order][1:] != hashes[order][:-1]
    group_start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    for again, first in zip(order[~new], order[group_start[~new]], strict=True):
        place, other_place = np.searchsorted(starts, [again, first], side="right") - 1
        unit, other = surveys[place].unit, surveys[other_place].unit
        row = unit.file_row + int(again - starts[place])
        other_row = other.file_row + int(first - starts[other_place])
        found.setdefault(int(place), []).append(
            (row, f"image_id occurs already in {other.path} row {other_row}")
        )
    return found


def merge_surveys(
    store: FeatureStore, surveys: Iterable[UnitSurvey], on_bad_row: OnBadRow = "fail"
) -> StoreSurvey:
    """Add up the surveys of all units of a store, in any order.

    Args:
        on_bad_row: ``fail`` raises on bad rows; ``skip`` leaves them out and lists them. With skip,
            units that repeat an id of another row are surveyed again without those rows, here.

    Raises:
        InputError: bad rows with ``fail``; no row is left.
    """
    ordered = sorted(surveys, key=lambda s: (s.unit.path, s.unit.file_row))
    rows = sum(len(survey.id_hash) for survey in ordered)
    assert rows == store.num_rows, f"surveys of {rows} rows, the store has {store.num_rows}"
    duplicates = _duplicates(ordered)
    skipped = [(s.unit.path, row, text) for s in ordered for row, text in s.bad]
    skipped += [(ordered[i].unit.path, *bad) for i, bads in duplicates.items() for bad in bads]
    skipped.sort()
    if skipped and on_bad_row == "fail":
        path, row, text = skipped[0]
        more = len(skipped) - 1
        others = f" (and {more} more bad row{'s' if more > 1 else ''})" if more else ""
        raise InputError(
            f"{path}: row {row}: {text}{others}; mend the file, or leave bad rows out with "
            f"{sibling_option(store.option, 'on_bad_row')} skip"
        )
    for i, known_bad in duplicates.items():
        ordered[i] = ordered[i].look_again(known_bad=known_bad)
    train, validation = [], []
    for survey in ordered:
        unit = survey.unit
        held = survey.validation
        rest = np.union1d(survey.bad_or_tagless, held)
        if unit.rows > len(rest):
            train.append(RowSelection.without(unit, rest))
        if len(held):
            validation.append(RowSelection.of(unit, held))
    tagless = sum(survey.tagless for survey in ordered)
    if not train:
        raise InputError(
            f"{store.path}: no row is left to use: of {store.num_rows} rows {tagless} have no tags, "
            f"{len(skipped)} are bad, {sum(r.take for r in validation)} are held out for validation; give "
            f"{store.option} rows that have tags"
        )
    table = pa.table(
        {
            # Chunks, not one array: all units' tags together may pass the 2 GiB of a string array.
            "tag": pa.chunked_array([s.tag.cast(pa.string()) for s in ordered]),
            "count": pa.array(np.concatenate([s.tag_count for s in ordered])),
        }
    )
    table = table.group_by("tag").aggregate([("count", "sum")]).sort_by("tag")
    train_rows = sum(survey.train_rows for survey in ordered)
    mean_D = np.sum([survey.feature_sum_D for survey in ordered], axis=0) / train_rows
    square_D = np.sum([survey.feature_square_D for survey in ordered], axis=0) / train_rows
    std_D = np.sqrt(np.maximum(square_D - mean_D**2, 0.0))
    constant = std_D <= 1e-6 * np.maximum(1e-6, np.abs(mean_D))
    return StoreSurvey(
        image_dim=store.image_dim,
        item_bytes=store.dtype.itemsize,
        names=table.column("tag").combine_chunks(),
        count_T=table.column("count_sum").to_numpy().astype(np.int64),
        mean_D=mean_D,
        std_D=np.where(constant, 1.0, std_D),
        train=train,
        validation=validation,
        skipped=skipped,
        tagless=tagless,
    )


def survey_store(
    store: FeatureStore,
    on_bad_row: OnBadRow,
    validation: Validation | None = None,
    statistics: bool = True,
    power: float = 1.0,
    workers: int = 1,
) -> StoreSurvey:
    """One pass over a store, in this process or, where it is large, as Ray tasks.

    Args:
        workers: see ``map_units``.

    Raises:
        InputError: see ``merge_surveys``.
    """
    columns, dim = store.columns, store.image_dim

    def look(unit: Any) -> UnitSurvey:
        return survey_unit(unit, columns, dim, validation, statistics, power)

    return merge_surveys(store, map_units(look, store.units, store.num_bytes, workers), on_bad_row)
