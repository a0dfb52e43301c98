"""A cheap look at a training store: all of a small one, of a large one footers and a sample."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from distributed.data.canonical_tags import open_rules
from distributed.data.feature_store import FeatureStore
from distributed.data.manifest import tags_of
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver.pace import with_more_tags
from distributed.driver.train import power_of, survey_for
from distributed.runtime.tasks import INLINE_BYTES
from distributed.training.config import PICTURE_METHODS, TrainConfig
from distributed.training.size_rule import DataSize
from distributed.training.watch import watch_plan
from drel_core.errors import InputError

_UNITS, _ROWS = 8, 4096


@dataclass(frozen=True)
class StoreLook:
    """What is known of a store before a run.

    Attributes:
        survey: of all rows where ``exact``, else of a sample, with as many tags as the store may have.
        size: training rows, T and D.
        held: rows held out, to choose or to watch.
        exact: every row was read, as the run itself does.
        tags_from: where T comes from.
        row_seconds: to read and check a row, on one core.
        name_bytes: average length of a tag's name.
    """

    survey: StoreSurvey
    size: DataSize
    held: int
    exact: bool
    tags_from: str
    row_seconds: float
    name_bytes: float


def look_at(config: TrainConfig, store: FeatureStore) -> StoreLook:
    """
    Raises:
        InputError: as the run itself would find it, in a large store as far as the sample shows it.
    """
    started = time.perf_counter()
    if store.num_bytes <= INLINE_BYTES:
        survey = survey_for(config, store)
        took = (time.perf_counter() - started) / store.num_rows
        size = DataSize.of(survey)
        return StoreLook(survey, size, survey.held_rows, True, "", took, _name_bytes(survey))
    step = -(-len(store.units) // _UNITS)
    units = [replace(unit, rows=min(unit.rows, _ROWS)) for unit in store.units[::step]]
    sample = replace(store, units=units)
    survey = survey_store(
        sample,
        config.data.on_bad_row,
        statistics=config.method not in PICTURE_METHODS,
        power=power_of(config.model) if config.method in ("drel", "wsabie") else 1.0,
        rules=open_rules(config.tags.vocabulary),
    )
    took = (time.perf_counter() - started) / sample.num_rows
    plan = watch_plan(config, store.num_rows)
    usable = round(store.num_rows * survey.train_rows / sample.num_rows)
    held = round(usable * config.data.validation)
    held += plan.rows if plan is not None and plan.held_out else 0
    known = tags_of(config.data.train)
    tags = max(len(survey.names), known or _guess(survey.count_T))
    said = "T by manifest.json" if known else f"T is a guess: {len(survey.names):,} seen"
    name_bytes = _name_bytes(survey)
    survey = replace(survey, count_T=survey.count_T * -(-store.num_rows // sample.num_rows))
    size = DataSize(usable - held, tags, store.image_dim)
    if size.rows < 1:
        raise InputError(
            f"data.validation {config.data.validation} leaves no row to train on; lower it"
        )
    found = with_more_tags(survey, tags)
    return StoreLook(
        found, size, held, False, f"from {sample.num_rows:,} rows; {said}", took, name_bytes
    )


def _guess(count_T: np.ndarray) -> int:
    """How many tags there are, by those that a sample holds once and twice (Chao, 1984): a lower bound."""
    once, twice = int((count_T == 1).sum()), int((count_T == 2).sum())
    return len(count_T) + once * (once - 1) // (2 * (twice + 1))


def _name_bytes(survey: StoreSurvey) -> float:
    return float(pc.mean(pc.binary_length(survey.names)).as_py() or 0)
