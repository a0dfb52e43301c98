"""kNN over a store: every shard of training rows is read, written and searched in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from distributed.bundles.write import BundleWriter
from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.epoch import shard
from distributed.data.survey import StoreSurvey
from distributed.runtime.memory import available_bytes
from distributed.runtime.ray_session import local_ray, start_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.folder import Folder
from drel_core.annotators.knn import (
    KNNAnnotator,
    NeighbourShard,
    Weighting,
    merge_nearest,
    neighbour_scores,
    shard_file,
    tag_matrix,
    write_standardisation,
)
from drel_core.decision.held_out import HeldOut, best_of_all
from drel_core.decision.kernel import log_estimate
from drel_core.errors import TooLargeError
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists

_CANDIDATES = (5, 10, 20, 50, 100, 200)
_CHOICE_ROWS = 20_000
_BATCH = 1024


def write_shard(survey: StoreSurvey, columns: Columns, part: int, parts: int, folder: Path) -> None:
    """Read the rows of one shard, standardise them and write them."""
    rows = load_rows(shard(survey.train, parts, part), columns, survey.index)
    start = part * survey.train_rows // parts
    standard_ND = rows.features_BD.float()
    standard_ND = standard_ND.sub(torch.tensor(survey.mean_D).float())
    standard_ND = standard_ND.div_(torch.tensor(survey.std_D).float())
    NeighbourShard(standard_ND, rows.tags, start).save(folder / shard_file(part, parts))


def _upload_shard(
    survey: StoreSurvey, columns: Columns, part: int, parts: int, final: Folder
) -> None:
    writer = BundleWriter(final)
    write_shard(survey, columns, part, parts, writer.folder)
    writer.upload()
    writer.discard()


def check_memory(rows: int, dim: int) -> None:
    """Raises:
    TooLargeError: this machine cannot hold all rows for the search. Of a cluster Ray knows more than we.
    """
    if not local_ray():
        return
    needed = 2 * 4 * rows * dim  # float32 rows, and faiss's copy
    free = available_bytes()
    if needed > free:
        raise TooLargeError(
            f"kNN holds {rows:,} rows of {dim} features twice: "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free; use a cluster, fewer rows, "
            "or another method"
        )


def write_shards(survey: StoreSurvey, columns: Columns, parts: int, writer: BundleWriter) -> None:
    """All shards: here when there is little, else a Ray task each."""
    write_standardisation(writer.folder, survey.mean_D, survey.std_D)
    if survey.num_bytes <= INLINE_BYTES:
        for part in range(parts):
            write_shard(survey, columns, part, parts, writer.folder)
        return
    start_ray(parts)
    held = ray.put(survey)
    task: Any = ray.remote(num_cpus=1)(_upload_shard)
    ray.get([task.remote(held, columns, part, parts, writer.final) for part in range(parts)])
    writer.download_parts()


def choose(survey: StoreSurvey, columns: Columns, tags: int, seed: int) -> tuple[int, Weighting]:
    """k and weighting with the best F1 on a seventh of (up to 20,000) training rows.

    Neighbours are searched for once; every choice scores prefixes of them.
    """
    rows = load_rows(survey.train, columns, survey.index)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    order = order[:_CHOICE_ROWS]
    cut = max(1, len(order) // 7)
    held, rest = rows.select(order[:cut]), rows.select(order[cut:])
    most = min(max(_CANDIDATES), max(1, len(rest)))
    annotator = KNNAnnotator.fit(rest.features_BD.float(), rest.tags, tags, most)
    distance, row = annotator.nearest(annotator.standardised(held.features_BD))
    trained_T = torch.from_numpy(survey.count_T > 0)
    best: tuple[float, int, Weighting] = (-1.0, most, "uniform")
    weightings: tuple[Weighting, ...] = ("uniform", "distance")
    for k in sorted({min(k, most) for k in _CANDIDATES}):
        for weighting in weightings:
            counts = MetricCounts(tags, 5)
            counts.update(
                neighbour_scores(distance[:, :k], row[:, :k], annotator.tag_NT, weighting),
                held.tags,
            )
            best = max(best, (counts.result(trained_T)["F1"], k, weighting))
    return best[1], best[2]


def left_out_scores(
    folder: Path, parts: int, num_tags: int, k: int, weighting: Weighting, row_n: np.ndarray
) -> HeldOut:
    """Log scores of training rows by their neighbours among all others.

    Shards are searched one after the other, so that this process never holds more of them than two.

    Args:
        folder: with the shards, as ``write_shards`` left them.
        k: neighbours, fewer than there are rows.
        row_n: numbers of the rows, rising; at least one.
    """

    @lru_cache(maxsize=1)
    def shard_of(part: int) -> NeighbourShard:
        return NeighbourShard.load(folder / shard_file(part, parts), num_tags)

    queries, tags = [], []
    for part in range(parts):
        held = shard_of(part)
        own = row_n[(row_n >= held.start) & (row_n < held.start + len(held.tags))] - held.start
        queries.append(held.features_ND[torch.from_numpy(own)].numpy())
        tags.append(held.tags)
    query_nD = np.concatenate(queries)
    # One neighbour more than asked for, as the row itself will be among them.
    found = [shard_of(part).nearest(query_nD, k + 1) for part in range(parts)]
    distance_nk, place_nk = without_themselves(*merge_nearest(found, k + 1), row_n)
    all_tags = TagLists.cat(tags)
    tag_NT = tag_matrix(all_tags, num_tags)
    tags_n = all_tags.select(torch.from_numpy(row_n))

    def scored() -> Iterator[tuple[Tensor, TagLists]]:
        for start in range(0, len(row_n), _BATCH):
            rows = slice(start, start + _BATCH)
            score_BT = neighbour_scores(distance_nk[rows], place_nk[rows], tag_NT, weighting)
            yield log_estimate(score_BT), tags_n[rows]

    return best_of_all(scored())


def without_themselves(
    distance_nK: np.ndarray, place_nK: np.ndarray, row_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours ``[n, K - 1]`` of rows that are not the row itself; the last one goes where it is not
    among them, behind rows that are equal to it."""
    is_own_nK = place_nK == row_n[:, None]
    is_own_nK[~is_own_nK.any(1), -1] = True
    shape = (len(row_n), place_nK.shape[1] - 1)
    return distance_nK[~is_own_nK].reshape(shape), place_nK[~is_own_nK].reshape(shape)
