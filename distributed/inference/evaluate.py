"""Scoring an annotator over a store, and the bound that no annotator passes."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import torch

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection
from distributed.data.survey import StoreSurvey
from distributed.runtime.tasks import map_units
from drel_core.annotators.base import Annotator
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.thresholds import DEPTH
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.topk import topk
from drel_core.version import written_by

_BATCH = 1024
_SPEED_SECONDS = 0.3


def evaluate_store(
    annotator: Annotator,
    vocabulary: Vocabulary,
    survey: StoreSurvey,
    columns: Columns,
    k: int = 5,
    threshold_T: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Metrics of an annotator over a surveyed store, beside the popularity floor.

    Args:
        vocabulary: the annotator's, with training counts; other tags do not count.
        threshold_T: of each tag the least score at which it is predicted; gives ``thresholds``, metrics
            with as many tags an image as pass (of its best 50).
    """
    names = pa.array(list(vocabulary.names), pa.string())
    num_tags = len(vocabulary)
    floor = PopularityAnnotator(vocabulary)
    started = time.perf_counter()

    def score(selection: RowSelection) -> tuple[MetricCounts, ...]:
        rows = load_rows(selection, columns, names)
        found, floor_counts, decided = (MetricCounts(num_tags, k) for _ in range(3))
        for start in range(0, len(rows), _BATCH):
            tags = rows.tags[start : start + _BATCH]
            batch = rows.features_BD[start : start + _BATCH].float()
            score_BT = annotator.scores(batch)
            found.update(score_BT, tags)
            floor_counts.update_topk(floor.topk(len(tags), k), tags)
            if threshold_T is not None:
                score_Bk, tag_Bk = topk(score_BT, DEPTH)
                decided.update_topk(tag_Bk.masked_fill(score_Bk < threshold_T[tag_Bk], -1), tags)
        return found, floor_counts, decided

    found, floor_counts, decided = (MetricCounts(num_tags, k) for _ in range(3))
    for parts in map_units(score, survey.train, survey.num_bytes):
        for whole, part in zip((found, floor_counts, decided), parts, strict=True):
            whole.merge(part)
    seconds = time.perf_counter() - started
    trained_T = torch.from_numpy(vocabulary.counts) > 0
    metrics = {"method": annotator.name, "written_by": written_by(), **found.result(trained_T)}
    metrics["bands"] = found.bands(torch.from_numpy(vocabulary.counts))
    floor_figures = floor_counts.result(trained_T)
    metrics["floor"] = {key: floor_figures[key] for key in ("F1", "N+", "mP", "mR", "oF1", "P@1")}
    metrics["floor"]["mAP"] = floor_counts.chance_map(trained_T)
    if threshold_T is not None:
        by_threshold = decided.result(trained_T)
        metrics["thresholds"] = {key: by_threshold[key] for key in ("mP", "mR", "F1", "N+", "oF1")}
        predicted = int(decided.predicted_T.sum())
        metrics["thresholds"]["tags_per_image"] = round(predicted / max(1, decided.images), 2)
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
    first = load_rows(survey.train[0], columns, names)
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
    for selection in survey.train:
        tags = load_rows(selection, columns, names).tags
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
