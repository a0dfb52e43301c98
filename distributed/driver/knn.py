"""kNN over a store: every shard of training rows is read, written and searched in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import torch

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
    neighbour_scores,
    shard_file,
    write_standardisation,
)
from drel_core.errors import TooLargeError
from drel_core.scoring.metrics import MetricCounts

_CANDIDATES = (5, 10, 20, 50, 100, 200)
_CHOICE_ROWS = 20_000


def write_shard(survey: StoreSurvey, columns: Columns, part: int, parts: int, folder: Path) -> None:
    """Read the rows of one shard, standardise them and write them."""
    rows = load_rows(shard(survey.train, parts, part), columns, survey.names)
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


def check_memory(survey: StoreSurvey) -> None:
    """Raises:
    TooLargeError: this machine cannot hold all rows for the search. Of a cluster Ray knows more than we.
    """
    if not local_ray():
        return
    needed = 2 * 4 * survey.train_rows * survey.image_dim  # float32 rows, and faiss's copy
    free = available_bytes()
    if needed > free:
        raise TooLargeError(
            f"kNN holds {survey.train_rows:,} rows of {survey.image_dim} features twice: "
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
    rows = load_rows(survey.train, columns, survey.names)
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
