"""One pass over a store: validation of every row, vocabulary, counts and feature statistics.

``survey_unit`` looks at one unit wherever it runs; ``merge_surveys`` adds the answers up. The
outcome does not depend on how rows lie in files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distributed.feature_store import (
    Columns,
    FeatureStore,
    ReadUnit,
    StoreUnit,
    flat_tags,
    read_table,
)
from drel_core.errors import InputError

OnBadRow = Literal["fail", "skip"]
_STATISTICS_ROWS = 4096  # rows summed at a time: a double copy of a block stays in cache


@dataclass(frozen=True)
class Validation:
    """The share of rows held out by a hash of (seed, image_id): the same at any file layout."""

    fraction: float
    seed: int


@dataclass(frozen=True)
class UnitSurvey:
    """What one unit holds; row numbers are the file's."""

    unit: StoreUnit
    tag: pa.Array
    tag_count: np.ndarray
    feature_sum_D: np.ndarray
    feature_square_D: np.ndarray
    train_rows: int
    id_hash: np.ndarray
    bad: list[tuple[int, str]]
    bad_or_tagless: np.ndarray
    tagless: int
    validation: np.ndarray


def _hash_ids(image_id: pa.Array, seed: int = 0) -> np.ndarray:
    values = image_id.to_numpy(zero_copy_only=False)
    key = f"{seed:016d}"[-16:]
    return pd.util.hash_array(
        np.where(pd.isna(values), "", values).astype(object), hash_key=key, categorize=False
    )


def survey_unit(
    unit: StoreUnit,
    columns: Columns,
    image_dim: int,
    validation: Validation | None = None,
    statistics: bool = True,
    power: float = 1.0,
) -> UnitSurvey:
    """Check and count one unit.

    Args:
        unit: which rows.
        image_dim: the store's D.
        validation: rows to hold out, or None.
        statistics: sum up the features of the training rows.
        power: the sums are of ``sign(x)|x|^power``, which is what the model standardises.
    """
    table = read_table(unit, [columns.image_id, columns.features, columns.tags])
    image_id, features, tags = (
        pa.concat_arrays(table.column(name).chunks)
        if table.column(name).num_chunks != 1
        else table.column(name).chunk(0)
        for name in (columns.image_id, columns.features, columns.tags)
    )
    reason: dict[int, str] = {}

    def mark(bad_B: np.ndarray, text: str) -> None:
        for row in np.flatnonzero(bad_B):
            reason.setdefault(int(row), text)

    mark(image_id.is_null().to_numpy(zero_copy_only=False), "image_id is null")
    mark(
        pc.fill_null(pc.equal(image_id, ""), False).to_numpy(zero_copy_only=False),
        "image_id is empty",
    )
    mark(features.is_null().to_numpy(zero_copy_only=False), "features are null")
    length = pc.fill_null(pc.list_value_length(features), image_dim).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(length != image_dim):
        reason.setdefault(
            int(row), f"features have D = {length[row]}, the store has D = {image_dim}"
        )
    good_B = np.ones(unit.rows, dtype=bool)
    good_B[list(reason)] = False
    dense = features if good_B.all() else features.filter(pa.array(good_B))
    flat = dense.flatten()
    value_BD = flat.to_numpy(zero_copy_only=False).reshape(-1, image_dim)
    # A row's sum is finite unless the row holds a NaN or Inf (or overflows): one cheap pass finds
    # suspects, and only those are looked at value by value.
    with np.errstate(over="ignore", invalid="ignore"):
        sums = value_BD.sum(1, dtype=np.float32 if value_BD.dtype == np.float16 else None)
    suspect = np.flatnonzero(~np.isfinite(sums))
    place = np.flatnonzero(good_B)
    for row in suspect:
        wrong = np.flatnonzero(~np.isfinite(value_BD[row]))
        if len(wrong):
            found = "NaN" if np.isnan(value_BD[row][wrong[0]]) else "Inf"
            reason.setdefault(int(place[row]), f"features hold {found} (at position {wrong[0]})")

    tag_flat, offsets = flat_tags(tags)
    row_of_tag = np.repeat(np.arange(unit.rows), np.diff(offsets))
    unusable = pc.fill_null(pc.equal(tag_flat, ""), True).to_numpy(zero_copy_only=False)
    for row in np.unique(row_of_tag[unusable]):
        reason.setdefault(int(row), "tags hold a null or an empty string")

    bad_B = np.zeros(unit.rows, dtype=bool)
    bad_B[list(reason)] = True
    tagless_B = (np.diff(offsets) == 0) & ~bad_B
    usable_B = ~bad_B & ~tagless_B
    held_B = np.zeros(unit.rows, dtype=bool)
    if validation is not None and validation.fraction > 0:
        share = _hash_ids(image_id, validation.seed + 1).astype(np.float64) / 2.0**64
        held_B = usable_B & (share < validation.fraction)
    train_B = usable_B & ~held_B

    encoded = pc.dictionary_encode(pc.fill_null(tag_flat, ""))
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary
    pair = np.unique((row_of_tag * max(len(names), 1) + code)[train_B[row_of_tag]])
    count = np.bincount(pair % max(len(names), 1), minlength=len(names))

    total, square = np.zeros(image_dim), np.zeros(image_dim)
    if statistics:
        chosen = train_B[place]
        kept_ND = value_BD if chosen.all() else value_BD[chosen]
        for start in range(0, len(kept_ND), _STATISTICS_ROWS):
            block = kept_ND[start : start + _STATISTICS_ROWS].astype(np.float64)
            if power != 1.0:
                block = np.copysign(np.abs(block) ** power, block)
            total += block.sum(0)
            square += np.einsum("bd,bd->d", block, block)
    return UnitSurvey(
        unit=unit,
        tag=names.filter(pa.array(count > 0)),
        tag_count=count[count > 0],
        feature_sum_D=total,
        feature_square_D=square,
        train_rows=int(train_B.sum()),
        id_hash=_hash_ids(image_id),
        bad=[(unit.file_row + row, text) for row, text in sorted(reason.items())],
        bad_or_tagless=unit.file_row + np.flatnonzero(~usable_B),
        tagless=int(tagless_B.sum()),
        validation=unit.file_row + np.flatnonzero(held_B),
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
    """

    image_dim: int
    names: pa.Array
    count_T: np.ndarray
    mean_D: np.ndarray
    std_D: np.ndarray
    train: list[ReadUnit]
    validation: list[ReadUnit]
    skipped: list[tuple[str, int, str]]
    tagless: int

    @property
    def train_rows(self) -> int:
        return sum(read.take for read in self.train)

    @property
    def validation_rows(self) -> int:
        return sum(read.take for read in self.validation)


def _mark_duplicates(surveys: list[UnitSurvey]) -> None:
    """Second and later rows of an image id become bad rows that name the first one's place."""
    if not surveys:
        return
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
        place = np.searchsorted(starts, [again, first], side="right") - 1
        survey, other = surveys[place[0]], surveys[place[1]]
        row = survey.unit.file_row + int(again - starts[place[0]])
        other_row = other.unit.file_row + int(first - starts[place[1]])
        survey.bad.append((row, f"image_id occurs already in {other.unit.path} row {other_row}"))


def merge_surveys(
    store: FeatureStore, surveys: Iterable[UnitSurvey], on_bad_row: OnBadRow = "fail"
) -> StoreSurvey:
    """Add up the surveys of all units of a store.

    Args:
        on_bad_row: ``fail`` raises on bad rows; ``skip`` leaves them out and lists them. With skip,
            duplicates stay in the tag counts and statistics of the pass that found them.

    Raises:
        InputError: bad rows with ``fail``; no row is left.
    """
    ordered = sorted(surveys, key=lambda s: (s.unit.path, s.unit.file_row))
    _mark_duplicates(ordered)
    skipped = [(s.unit.path, row, text) for s in ordered for row, text in s.bad]
    if skipped and on_bad_row == "fail":
        path, row, text = skipped[0]
        more = f" (and {len(skipped) - 1} more bad rows)" if len(skipped) > 1 else ""
        raise InputError(
            f"{path}: row {row}: {text}{more}; mend the file, or leave bad rows out with "
            "--data.on_bad_row skip"
        )
    train, validation = [], []
    for survey in ordered:
        unit = survey.unit
        bad = np.array([row for row, _ in survey.bad], dtype=np.int64)
        out = np.union1d(survey.bad_or_tagless, bad)
        held = np.setdiff1d(survey.validation, out)
        rest = np.union1d(out, held)
        if unit.rows > len(rest):
            train.append(ReadUnit(unit, rest, 0, unit.rows - len(rest)))
        if len(held):
            every = np.arange(unit.file_row, unit.file_row + unit.rows)
            validation.append(ReadUnit(unit, np.setdiff1d(every, held), 0, len(held)))
    tagless = sum(survey.tagless for survey in ordered)
    if not train:
        raise InputError(
            f"{store.path}: no row is left to use: of {store.num_rows} rows {tagless} have no tags, "
            f"{len(skipped)} are bad, {sum(r.take for r in validation)} are held out for validation"
        )
    table = pa.table(
        {
            "tag": pa.concat_arrays([s.tag.cast(pa.string()) for s in ordered]),
            "count": pa.array(np.concatenate([s.tag_count for s in ordered])),
        }
    )
    table = table.group_by("tag").aggregate([("count", "sum")]).sort_by("tag")
    rows = max(1, sum(survey.train_rows for survey in ordered))
    mean_D = np.sum([survey.feature_sum_D for survey in ordered], axis=0) / rows
    square_D = np.sum([survey.feature_square_D for survey in ordered], axis=0) / rows
    std_D = np.sqrt(np.maximum(square_D - mean_D**2, 0.0))
    constant = std_D <= 1e-6 * np.maximum(1e-6, np.abs(mean_D))
    return StoreSurvey(
        image_dim=store.image_dim,
        names=table.column("tag").combine_chunks(),
        count_T=table.column("count_sum").to_numpy().astype(np.int64),
        mean_D=mean_D,
        std_D=np.where(constant, 1.0, std_D),
        train=train,
        validation=validation,
        skipped=skipped,
        tagless=tagless,
    )
