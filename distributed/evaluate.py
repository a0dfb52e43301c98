"""Scoring a model: on all ranks while it trains, and from its bundle afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distributed import comm
from distributed.feature_store import Columns, ReadUnit
from distributed.pipeline import Rows, block_rows, unit_block
from distributed.step import Stepper
from distributed.store_survey import StoreSurvey
from distributed.unit_tasks import map_units
from drel_core.annotator import Annotator
from drel_core.baselines.popularity import PopularityAnnotator
from drel_core.metrics import MetricCounts
from drel_core.scorer import topk
from drel_core.vocabulary import Vocabulary

_BATCH = 1024
_SPEED_SECONDS = 0.3


def evaluate_store(
    annotator: Annotator,
    vocabulary: Vocabulary,
    survey: StoreSurvey,
    columns: Columns,
    k: int = 5,
) -> dict[str, Any]:
    """Metrics of an annotator over a surveyed store, beside the popularity floor.

    Args:
        vocabulary: the annotator's, with training counts; other tags do not count.
    """
    names = pa.array(list(vocabulary.names), pa.string())
    num_tags = len(vocabulary)
    floor = PopularityAnnotator(vocabulary)
    started = time.perf_counter()

    def score(read: ReadUnit) -> tuple[MetricCounts, MetricCounts]:
        rows = block_rows(unit_block(read, columns, names))
        found, least = (MetricCounts(num_tags, k) for _ in range(2))
        for start in range(0, len(rows), _BATCH):
            tags = rows.tags[start : start + _BATCH]
            batch = rows.features_BD[start : start + _BATCH].float()
            found.update(annotator.scores(batch), tags)
            least.update_topk(floor.topk(len(tags), k), tags)
        return found, least

    found, least = (MetricCounts(num_tags, k) for _ in range(2))
    size = survey.train_rows * survey.image_dim * 4
    for one, other in map_units(score, survey.train, size):
        found.merge(one)
        least.merge(other)
    seconds = time.perf_counter() - started
    trained_T = torch.from_numpy(vocabulary.counts) > 0
    metrics = {"method": annotator.name, **found.result(trained_T)}
    metrics["bands"] = found.bands(torch.from_numpy(vocabulary.counts))
    below = least.result(trained_T)
    metrics["floor"] = {key: below[key] for key in ("F1", "N+", "mP", "mR", "oF1")}
    metrics["score"] = {
        "seconds": round(seconds, 3),
        "images_per_second": round(found.images / max(seconds, 1e-9), 1),
        "topk_images_per_second": round(topk_speed(annotator, survey, columns, names, k), 1),
    }
    return metrics


def topk_speed(
    annotator: Annotator, survey: StoreSurvey, columns: Columns, names: pa.Array, k: int
) -> float:
    """Images/s of finding the best k tags, for images in memory in one batch of up to 1024.

    No reading and no counting in it: the model alone, as a server would use it.
    """
    if not survey.train:
        return 0.0
    first = block_rows(unit_block(survey.train[0], columns, names))
    batch = first.features_BD[:_BATCH].float()
    annotator.annotate(batch, k)  # what is made at the first call is not measured
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < _SPEED_SECONDS:
        annotator.annotate(batch, k)
        calls += 1
    return calls * len(batch) / seconds


def upper_bound(
    vocabulary: Vocabulary, survey: StoreSurvey, columns: Columns, k: int = 5, seed: int = 0
) -> dict[str, Any]:
    """What k tags an image can reach: the image's own, and random others where it has fewer than k.

    As Gong et al. (2014), section 4.2, bound their tables.
    """
    names = pa.array(list(vocabulary.names), pa.string())
    counts = MetricCounts(len(vocabulary), k)
    generator = torch.Generator().manual_seed(seed)
    for read in survey.train:
        tags = block_rows(unit_block(read, columns, names)).tags
        for start in range(0, len(tags), _BATCH):
            part = tags[start : start + _BATCH]
            noise_BT = torch.rand(len(part), len(vocabulary), generator=generator)
            best_Bk = topk(noise_BT + part.mask(len(vocabulary)), k)[1]
            counts.update_topk(best_Bk, part)
    bands = counts.bands(torch.from_numpy(vocabulary.counts))
    return {
        "method": "upper bound",
        **counts.result(torch.from_numpy(vocabulary.counts) > 0),
        "bands": bands,
    }


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
        all_pL1[:, -1] += stepper.prior_T[tag_p]
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
