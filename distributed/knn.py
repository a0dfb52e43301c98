"""kNN over a store: every shard of training rows is read, written and searched in its own process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from distributed.bundles import Draft, local_bundle
from distributed.data.blocks import read_rows
from distributed.data.epoch import shard
from distributed.data.feature_store import Columns
from distributed.data.survey import StoreSurvey
from distributed.runtime.ray_session import start_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.folder import Folder
from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.knn import (
    KNNAnnotator,
    NeighbourShard,
    Weighting,
    check_settings,
    merge_nearest,
    neighbour_scores,
    shard_file,
    tag_matrix,
    write_standardisation,
)
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_about, read_vocabulary
from drel_core.bundle.safe_loading import check_files, load_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists

_CANDIDATES = (5, 10, 20, 50, 100, 200)
_CHOICE_ROWS = 20_000


@dataclass(kw_only=True)
class KNNConfig:
    """Neighbours and their weights."""

    k: int = 100
    """neighbours (the paper's 100); 0 chooses k and weighting on a part of the training rows"""
    weighting: Weighting = "uniform"
    """uniform, or distance for 1 / distance"""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"knn.k is {self.k}; it must be 0 (chosen) or more")


def write_shard(survey: StoreSurvey, columns: Columns, part: int, parts: int, folder: Path) -> None:
    """Read the rows of one shard, standardise them and write them."""
    rows = read_rows(shard(survey.train, parts, part), columns, survey.names)
    start = part * survey.train_rows // parts
    standard_ND = rows.features_BD.float()
    standard_ND = standard_ND.sub(torch.tensor(survey.mean_D).float())
    standard_ND = standard_ND.div_(torch.tensor(survey.std_D).float())
    NeighbourShard(standard_ND, rows.tags, start).save(folder / shard_file(part, parts))


def _hand_in_shard(
    survey: StoreSurvey, columns: Columns, part: int, parts: int, final: Folder
) -> None:
    draft = Draft(final)
    write_shard(survey, columns, part, parts, draft.folder)
    draft.hand_in()
    draft.drop()


def write_shards(survey: StoreSurvey, columns: Columns, parts: int, draft: Draft) -> None:
    """All shards: here when there is little, else a Ray task each."""
    write_standardisation(draft.folder, survey.mean_D, survey.std_D)
    if survey.train_rows * survey.image_dim * 4 <= INLINE_BYTES:
        for part in range(parts):
            write_shard(survey, columns, part, parts, draft.folder)
        return
    start_ray(parts)
    held = ray.put(survey)
    task: Any = ray.remote(num_cpus=1)(_hand_in_shard)
    ray.get([task.remote(held, columns, part, parts, draft.final) for part in range(parts)])
    draft.gather()


def choose(survey: StoreSurvey, columns: Columns, tags: int, seed: int) -> tuple[int, Weighting]:
    """k and weighting with the best F1 on a seventh of (up to 20,000) training rows.

    Neighbours are searched for once; every choice scores prefixes of them.
    """
    rows = read_rows(survey.train, columns, survey.names)
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


class _ShardActor:
    """Holds one shard's index."""

    def __init__(self, model: str, name: str, num_tags: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.shard = NeighbourShard.load(local_bundle(model) / name, num_tags)

    def tags(self) -> TagLists:
        return self.shard.tags

    def nearest(self, query_BD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.shard.nearest(query_BD, k)


def open_annotator(model: str) -> TrainedAnnotator:
    """A bundle ready to score, see ``local_bundle``; of kNN, with its shards in actors where there is much
    of them.

    Raises:
        InputError: see ``load_bundle``.
    """
    folder = local_bundle(model)
    about = read_about(folder)
    if about["method"] == "knn":
        parts = list(folder.glob("neighbours-*"))
        size = sum(path.stat().st_size for path in parts)
        # With another number of parts the bundle is damaged; load_bundle says how.
        if about.get("parts") == len(parts) > 1 and size > INLINE_BYTES:
            check_files(folder)
            return ShardedKNN(model, about, read_vocabulary(folder))
    return load_bundle(folder)


class ShardedKNN(KNNAnnotator):
    """The same scores as ``KNNAnnotator`` with every shard in an actor, on any node.

    Only tags and neighbours travel: no process holds all features.
    """

    def __init__(self, model: str, about: dict[str, Any], vocabulary: Vocabulary) -> None:
        folder, parts = local_bundle(model), int(about["parts"])
        start_ray(parts)
        check_settings(about)
        statistics = load_tensors(folder / "standardisation.safetensors")
        self.mean_D, self.std_D = (statistics[key].float().numpy() for key in ("mean", "std"))
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // parts)
        actor: Any = ray.remote(num_cpus=1)(_ShardActor)
        self.actors = [
            actor.remote(model, shard_file(p, parts), len(vocabulary), threads)
            for p in range(parts)
        ]
        tags = TagLists.cat(ray.get([actor.tags.remote() for actor in self.actors]))
        self.num_tags, self.weighting = len(vocabulary), about["weighting"]
        self.k = min(about["k_neighbours"], len(tags))
        self.tag_NT = tag_matrix(tags, self.num_tags)
        self.vocabulary, self.about = vocabulary, about

    def nearest(self, query_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        query = ray.put(query_BD)
        found = ray.get([actor.nearest.remote(query, self.k) for actor in self.actors])
        return merge_nearest(found, self.k)
