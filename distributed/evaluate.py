"""Scoring a model: on all ranks while it trains, and from its bundle afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch

from distributed import comm
from distributed.feature_store import Columns, FeatureStore, ReadUnit
from distributed.pipeline import Rows, block_rows, unit_block
from distributed.step import Stepper
from distributed.store_survey import (
    OnBadRow,
    StoreSurvey,
    UnitSurvey,
    Validation,
    merge_surveys,
    survey_unit,
)
from drel_core.annotator import Annotator
from drel_core.baselines.popularity import PopularityAnnotator
from drel_core.metrics import MetricCounts
from drel_core.scorer import topk

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")

INLINE_BYTES = 256 << 20  # below this a task's start costs more than the work
_BATCH = 1024


def map_units(
    work: Callable[[Unit], Answer], units: Sequence[Unit], total_bytes: int
) -> Iterable[Answer]:
    """``work`` over units: here when there is little, as Ray tasks (a few in flight) when much."""
    if total_bytes <= INLINE_BYTES or not ray.is_initialized():
        yield from map(work, units)
        return
    task: Any = ray.remote(num_cpus=1, max_retries=3, retry_exceptions=False)(
        lambda unit: work(unit)
    )
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    flying: list[ray.ObjectRef] = []
    for unit in units:
        if len(flying) >= limit:
            done, flying = ray.wait(flying, num_returns=1)
            yield ray.get(done[0])
        flying.append(task.remote(unit))
    while flying:
        done, flying = ray.wait(flying, num_returns=1)
        yield ray.get(done[0])


def survey_store(
    store: FeatureStore,
    on_bad_row: OnBadRow,
    validation: Validation | None = None,
    statistics: bool = True,
    power: float = 1.0,
) -> StoreSurvey:
    """One pass over a store, on this process or as Ray tasks.

    Raises:
        InputError: see ``merge_surveys``.
    """
    columns, dim = store.columns, store.image_dim

    def look(unit: Any) -> UnitSurvey:
        return survey_unit(unit, columns, dim, validation, statistics, power)

    size = store.num_rows * dim * store.dtype.itemsize
    return merge_surveys(store, map_units(look, store.units, size), on_bad_row)


def evaluate_store(
    annotator: Annotator,
    names: Sequence[str],
    count_T: np.ndarray,
    survey: StoreSurvey,
    columns: Columns,
    k: int = 5,
) -> dict[str, Any]:
    """Metrics of an annotator over a surveyed store, beside the popularity floor.

    Args:
        names, count_T: the annotator's vocabulary with training counts; other tags do not count.
    """
    vocabulary = pa.array(list(names), pa.string())
    counts = torch.from_numpy(np.asarray(count_T))
    floor = PopularityAnnotator(counts)
    started = time.perf_counter()

    def score(read: ReadUnit) -> tuple[MetricCounts, MetricCounts]:
        rows = block_rows(unit_block(read, columns, vocabulary))
        found, least = (MetricCounts(len(names), k) for _ in range(2))
        for start in range(0, len(rows), _BATCH):
            tags = rows.tags[start : start + _BATCH]
            batch = rows.features_BD[start : start + _BATCH].float()
            found.update(annotator.scores(batch), tags)
            least.update_topk(floor.topk(len(tags), k), tags)
        return found, least

    found, least = (MetricCounts(len(names), k) for _ in range(2))
    size = survey.train_rows * survey.image_dim * 4
    for one, other in map_units(score, survey.train, size):
        found.merge(one)
        least.merge(other)
    seconds = time.perf_counter() - started
    trained_T = counts > 0
    metrics = {"method": annotator.name, **found.result(trained_T)}
    below = least.result(trained_T)
    metrics["floor"] = {key: below[key] for key in ("F1", "N+", "mP", "mR", "oF1")}
    metrics["score"] = {
        "seconds": round(seconds, 3),
        "images_per_second": round(found.images / max(seconds, 1e-9), 1),
    }
    return metrics


@torch.no_grad()
def evaluate_sharded(
    stepper: Stepper, batches: Iterable[Rows], k: int, trained_T: torch.Tensor, block: int = 16384
) -> dict[str, Any]:
    """Metrics over all ranks' validation rows with the table left in its shards.

    Each tag is encoded once, by its owner, ``block`` rows a rank at a time; every rank keeps the
    best k of its own images. All ranks get the same answer.
    """
    model, table = stepper.model, stepper.table
    model.eval()
    parts = list(batches)
    rows = Rows.cat(parts)
    image_nL = torch.cat(
        [
            model.encode_images(part.to(stepper.device), with_metric=False)
            for part in rows.features_BD.split(_BATCH)
            if len(part)
        ]
        or [torch.zeros(0, model.config.latent, device=stepper.device)]
    )
    best = image_nL.new_empty(len(image_nL), 0)
    ids = best.long()
    every = torch.arange(table.num_tags, device=stepper.device)
    owned, per_rank = table.split_pool(every)
    starts = np.cumsum([0, *per_rank[:-1]]).tolist()
    for low in range(0, max(per_rank), block):
        mine = owned[low : low + block]
        counts = [max(0, min(block, rows_of - low)) for rows_of in per_rank]
        tag_pL1 = model.encode_tags(table.rows(mine), with_metric=True)
        all_pL1 = comm.gather_rows(tag_pL1, counts)
        tag_p = torch.cat(
            [every[start + low : start + low + n] for start, n in zip(starts, counts, strict=True)]
        )
        both = torch.cat([best, model.score(image_nL, all_pL1)], dim=1)
        best, place = topk(both, k)
        ids = torch.cat([ids, tag_p.expand(len(image_nL), -1)], dim=1).gather(1, place)
    found = MetricCounts(table.num_tags, k)
    found.update_topk(ids, rows.tags)
    sums = torch.cat(
        [found.hit_T, found.predicted_T, found.relevant_T, torch.tensor([found.images])]
    )
    sums = comm.sum_over_ranks(sums.to(stepper.device)).cpu()
    found.hit_T, found.predicted_T, found.relevant_T = sums[:-1].chunk(3)
    found.images = int(sums[-1])
    model.train()
    return found.result(trained_T)
