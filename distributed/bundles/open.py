"""Opening a model bundle of any method, wherever it lies, ready to score."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from distributed.bundles.locate import local_bundle
from distributed.bundles.tag_side import may_search, open_with_side
from distributed.runtime.ray_session import start_ray
from distributed.runtime.tasks import INLINE_BYTES
from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.knn import (
    KNNAnnotator,
    NeighbourShard,
    StoredKNN,
    merge_nearest,
    shard_file,
    tag_matrix,
)
from drel_core.annotators.load import answer_rules, load_bundle
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import check_files, load_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.tag_search import Search


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


def open_annotator(model: str, search: Search = "auto") -> TrainedAnnotator:
    """A bundle ready to score, see ``local_bundle``; of kNN, with its shards in actors where there is much
    of them.

    Args:
        search: how the best of many tags are found.

    Raises:
        InputError: see ``load_bundle``.
    """
    folder = local_bundle(model)
    info = read_info(folder)
    if search == "auto" and may_search(folder, info):
        return open_with_side(folder, info)
    if info.method == "knn":
        parts = list(folder.glob("neighbours-*"))
        size = sum(path.stat().st_size for path in parts)
        # With another number of parts the bundle is damaged; load_bundle says how.
        if info.content.get("parts") == len(parts) > 1 and size > INLINE_BYTES:
            check_files(folder)
            vocabulary = read_vocabulary(folder)
            sharded = ShardedKNN(model, info, vocabulary)
            sharded.rules = answer_rules(folder, vocabulary)
            return sharded
    return load_bundle(folder)


class ShardedKNN(KNNAnnotator):
    """The same scores as ``KNNAnnotator`` with every shard in an actor, on any node.

    Only tags and neighbours travel: no process holds all features.
    """

    def __init__(self, model: str, info: BundleInfo, vocabulary: Vocabulary) -> None:
        folder, stored = local_bundle(model), StoredKNN.of(info)
        parts = stored.parts
        start_ray(parts)
        statistics = load_tensors(folder / "standardisation.safetensors")
        self.mean_D, self.std_D = (statistics[key].float().numpy() for key in ("mean", "std"))
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // parts)
        actor: Any = ray.remote(num_cpus=1)(_ShardActor)
        self.actors = [
            actor.remote(model, shard_file(p, parts), len(vocabulary), threads)
            for p in range(parts)
        ]
        tags = TagLists.cat(ray.get([actor.tags.remote() for actor in self.actors]))
        self.num_tags, self.weighting = len(vocabulary), stored.weighting
        self.k = min(stored.k, len(tags))
        self.tag_NT = tag_matrix(tags, self.num_tags)
        self.vocabulary, self.info = vocabulary, info

    def nearest(self, query_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        query = ray.put(query_BD)
        found = ray.get([actor.nearest.remote(query, self.k) for actor in self.actors])
        return merge_nearest(found, self.k)
