"""One pass over a store: validation of every row, vocabulary, counts and feature statistics.

``check_rows.survey_unit`` looks at one unit wherever it runs; ``merge_surveys`` adds the answers up. The
outcome does not depend on how rows lie in files.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from distributed.data.canonical_tags import CanonicalTags, TagIndex
from distributed.data.check_rows import (
    BadRow,
    SurveyOptions,
    UnitSurvey,
    Validation,
    WatchSample,
    survey_unit,
)
from distributed.data.columns import sibling_option
from distributed.data.feature_store import FeatureStore, RowGroupSlice, RowSelection
from distributed.data.row_hash import is_short
from distributed.runtime.progress import Log, Progress, counted, saying
from distributed.runtime.tasks import INLINE_BYTES, map_units
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError, NoRowsError
from drel_core.tag_text import some_names

OnBadRow = Literal["fail", "skip"]
_NAMED_FILES = 1000
_NAMED_TAGS = 3


@dataclass
class StoreSurvey:
    """What a whole store holds. ``names`` are in alphabetical order.

    Names, counts and statistics are of the training rows and of those that are held out to be watched.

    Attributes:
        names: pa.StringArray ``[T]``, tags of training rows.
        count_T: int64, training images with each tag.
        mean_D, std_D: float64 statistics of training features (std 1 where a feature is constant).
        train, validation: what to read, each unit with the rows to leave out.
        watch: rows to score while training; training rows unless ``watch_held_out``.
        skipped: (file, row, reason) of every bad row left out.
        tagless: rows without tags, left out.
        image_dim, item_bytes: D, and bytes of a feature in memory.
        content: a hash of each file's rows, by its name below the store.
        dims: D of each features column; of one column D alone.
        rules: what tags of the store were made of; readers of its rows apply them as well.
        undecided: tag that is split to how many rows have it and none of its parts; they are left out.
        undecided_rows: how many rows that are.
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
    watch: list[RowSelection] = field(default_factory=list)
    watch_held_out: bool = False
    content: dict[str, str] = field(default_factory=dict)
    dims: tuple[int, ...] = ()
    rules: TagRules | None = None
    undecided: dict[str, int] = field(default_factory=dict)
    undecided_rows: int = 0

    def __post_init__(self) -> None:
        self.dims = self.dims or (self.image_dim,)

    @cached_property
    def index(self) -> TagIndex:
        """Which of ``names`` the texts of the store are."""
        return TagIndex(self.names, self.rules)

    @property
    def train_rows(self) -> int:
        return sum(selection.take for selection in self.train)

    @property
    def validation_rows(self) -> int:
        return sum(selection.take for selection in self.validation)

    @property
    def watch_rows(self) -> int:
        return sum(selection.take for selection in self.watch)

    @property
    def held_rows(self) -> int:
        """Rows that no step of training sees, of those that are scored while training."""
        return self.validation_rows + (self.watch_rows if self.watch_held_out else 0)

    def shortfall(self, share: float) -> str | None:
        """A line where clearly fewer rows are held out for validation than the share asks for."""
        held, rows = self.validation_rows, self.train_rows + self.validation_rows
        if not is_short(held, rows, share):
            return None
        return (
            f"data.validation {share} asks for about {round(share * rows)} of {rows} rows, but only "
            f"{held} are held out: figures of so few rows are coarse"
        )

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
    store: FeatureStore,
    surveys: Iterable[UnitSurvey],
    on_bad_row: OnBadRow = "fail",
    rules: TagRules | None = None,
) -> StoreSurvey:
    """Add up the surveys of all units of a store, in any order.

    Args:
        on_bad_row: ``fail`` raises on bad rows; ``skip`` leaves them out and lists them. With skip,
            units that repeat an id of another row are surveyed again without those rows, here.
        rules: with which the units were surveyed.

    Raises:
        InputError: bad rows with ``fail``.
        NoRowsError: no row is left.
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
    canonical = None if rules is None else CanonicalTags(rules)
    for i, known_bad in duplicates.items():
        ordered[i] = survey_unit(ordered[i].unit, ordered[i].options, known_bad, canonical)
    train, validation, watch = [], [], []
    watch_held_out = False
    for survey in ordered:
        unit = survey.unit
        held = survey.validation
        rest = np.union1d(survey.bad_or_tagless, held)
        if survey.options.watch is not None and survey.options.watch.held_out:
            watch_held_out = True
            rest = np.union1d(rest, survey.watch)
        if unit.rows > len(rest):
            train.append(RowSelection.without(unit, rest))
        if len(held):
            validation.append(RowSelection.of(unit, held))
        if len(survey.watch):
            watch.append(RowSelection.of(unit, survey.watch))
    tagless = sum(survey.tagless for survey in ordered)
    undecided, undecided_rows = Counter[str](), 0
    for survey in ordered:
        undecided.update({tag: len(rows) for tag, rows in survey.undecided.items() if len(rows)})
        undecided_rows += len(set().union(*(rows.tolist() for rows in survey.undecided.values())))
    if not train:
        held_rows = sum(selection.take for selection in validation)
        less = f", or less of {sibling_option(store.option, 'validation')}" if held_rows else ""
        raise NoRowsError(
            f"{store.path}: no row is left to use: of {store.num_rows} rows {tagless} have no tags, "
            + (f"{undecided_rows} a split tag and no part, " if undecided_rows else "")
            + f"{len(skipped)} are bad, {held_rows} are held out for validation; give "
            f"{store.option} rows that have tags{less}"
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
        watch=watch,
        watch_held_out=watch_held_out,
        content=_content(store.path, ordered),
        dims=store.dims,
        rules=rules,
        undecided=dict(undecided.most_common()),
        undecided_rows=undecided_rows,
    )


def undecided_line(store: str, survey: StoreSurvey) -> str | None:
    """Of a store with rows that nobody has said the part of a split tag of: how many, and what to do."""
    if not survey.undecided_rows or survey.rules is None:
        return None
    split = survey.rules.split
    several = [
        f"{rows:,} with {tag!r} (now {some_names(split[tag])})"
        for tag, rows in list(survey.undecided.items())[:_NAMED_TAGS]
    ]
    if (more := len(survey.undecided) - len(several)) > 0:
        several.append(f"others with {counted(more, 'more tag')}")
    tag = next(iter(survey.undecided))
    edit = shlex.quote(f"{tag}={','.join(split[tag])}")
    return (
        f"WARNING: {store}: {counted(survey.undecided_rows, 'row')} left out for a split tag without any "
        f"of its parts: {', '.join(several)}. Say which part each has: python -m jobs.tags --data "
        f"{shlex.quote(store)} --split {edit} --assign PARTS.csv --out NEW_STORE"
    )


def same_rows_line(train: StoreSurvey, test: StoreSurvey) -> str | None:
    """Of a test store with a file whose rows are those of a file of the training store."""
    learned = set(train.content.values())
    same = next((name for name, content in test.content.items() if content in learned), None)
    if same is None:
        return None
    return (
        f"the rows of {same} are training rows as well: figures of images that the model has learned say "
        "nothing of new ones"
    )


def _content(store: str, ordered: list[UnitSurvey]) -> dict[str, str]:
    """A hash of each file; of very many files one of all, which a note of them must not grow with."""
    files: dict[str, Any] = {}
    for survey in ordered:
        name = survey.unit.path.removeprefix(store).lstrip("/") or PurePath(store).name
        files.setdefault(name, hashlib.sha256()).update(survey.content)
    if len(files) > _NAMED_FILES:
        whole = hashlib.sha256()
        for name, state in files.items():
            whole.update(f"{name} {state.hexdigest()}".encode())
        files = {f"{len(files)} files": whole}
    return {name: state.hexdigest()[:16] for name, state in files.items()}


@dataclass(frozen=True)
class WatchPlan:
    """How many rows of a store are scored while training, and whether they are held out of it.

    They are drawn from some units, evenly spaced: reading them again, which every run does, is no second pass
    over a large store.
    """

    rows: int
    held_out: bool
    seed: int

    def units(self, units: list[RowGroupSlice]) -> list[RowGroupSlice]:
        """Those that hold a hundred times the rows together, at least eight, or all there are."""
        average = sum(unit.rows for unit in units) / len(units)
        count = min(len(units), max(8, math.ceil(100 * self.rows / average)))
        return [units[place * len(units) // count] for place in range(count)]

    def sample(self, units: list[RowGroupSlice]) -> WatchSample:
        share = self.rows / sum(unit.rows for unit in self.units(units))
        return WatchSample(min(1.0, share), self.seed, self.held_out)


def survey_store(
    store: FeatureStore,
    on_bad_row: OnBadRow,
    validation: Validation | None = None,
    statistics: bool = True,
    power: float | np.ndarray = 1.0,
    workers: int = 1,
    watch: WatchPlan | None = None,
    log: Log | None = None,
    rules: TagRules | None = None,
) -> StoreSurvey:
    """One pass over a store, in this process or, where it is large, as Ray tasks.

    Args:
        workers: see ``map_units``.
        watch: how many rows to score while training.
        log: takes lines of progress, where it takes long, and a warning of rows that are left out because
            of a split tag.
        rules: of tags; names and counts are of what they make of the store's.

    Raises:
        InputError, NoRowsError: see ``merge_surveys``.
    """
    options = SurveyOptions(
        store.columns, store.image_dim, validation, statistics, power, dims=store.dims
    )
    watched = replace(options, watch=None if watch is None else watch.sample(store.units))
    units = set() if watch is None else set(watch.units(store.units))

    canonical = None if rules is None else CanonicalTags(rules)

    def look(unit: RowGroupSlice) -> UnitSurvey:
        return survey_unit(unit, watched if unit in units else options, canonical=canonical)

    progress = Progress(log, f"looking at {store.path}:", store.num_rows, "rows")
    found = []
    with saying(log if store.num_bytes > INLINE_BYTES else None, "starting Ray"):
        answers = iter(map_units(look, store.units, store.num_bytes, workers))
        found.append(next(answers))
    progress.step(found[0].unit.rows)
    for answer in answers:
        found.append(answer)
        progress.step(answer.unit.rows)
    with saying(log, f"adding up what {len(found):,} parts hold"):
        survey = merge_surveys(store, found, on_bad_row, rules)
    if log is not None and (line := undecided_line(store.path, survey)):
        log(line)
    return survey
