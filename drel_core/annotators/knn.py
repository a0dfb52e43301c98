"""k nearest neighbours on standardised features (He et al., section 4.2: k = 100), exact, by faiss.

neighbours-00000-of-00002.safetensors   standardised features of some training rows, and their tags
standardisation.safetensors             mean and standard deviation of each feature

Shapes: N training images in all shards, B queries, D feature size, T tags, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from drel_core.annotators.base import DenseScores
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.kernel import log_estimate
from drel_core.errors import InputError
from drel_core.scoring.tag_lists import TagLists

Weighting = Literal["uniform", "distance"]


class NeighbourShard:
    """A part of the training rows: an exact index of their features, and their tags.

    Args:
        features_ND: float32, standardised.
        tags: tag ids of each row.
        start: number of the first row among all training rows.
    """

    def __init__(self, features_ND: Tensor, tags: TagLists, start: int = 0) -> None:
        import faiss  # slow to import, and other methods' jobs load this module too

        self.features_ND, self.tags, self.start = features_ND, tags, start
        index: Any = faiss.IndexFlatL2(features_ND.shape[1])
        if getattr(faiss, "get_num_gpus", lambda: 0)() > 0:  # faiss-gpu on a machine with one
            index = faiss.index_cpu_to_all_gpus(index)
        index.add(features_ND.numpy())
        self.index = index

    def nearest(self, query_BD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances (float32) and row numbers (int64), both ``[B, min(k, N)]``, nearest first; the
        distance is infinite where a row is too far away."""
        k = min(k, len(self.features_ND))
        if k == 0 or len(query_BD) == 0:
            empty = np.zeros((len(query_BD), k), dtype=np.float32)
            return empty, empty.astype(np.int64)
        square_Bk, row_Bk = self.index.search(np.ascontiguousarray(query_BD, np.float32), k)
        square_Bk[row_Bk < 0] = np.inf  # no neighbour: all distances overflow
        # faiss expands |a - b|^2, which rounds to just below 0 between equal rows.
        return np.sqrt(np.maximum(square_Bk, 0)), row_Bk + self.start

    def save(self, path: Path) -> None:
        tensors = {
            "features": self.features_ND.contiguous(),
            "offsets": self.tags.offsets,
            "tags": self.tags.values,
            "start": torch.tensor(self.start),
        }
        save_tensors({name: tensor.clone() for name, tensor in tensors.items()}, path)

    @staticmethod
    def load(path: Path, num_tags: int) -> NeighbourShard:
        """Raises:
        Exception: what reading a damaged file raises.
        """
        held = load_tensors(path)
        tags = TagLists(held["tags"], held["offsets"])
        tags.check(num_tags)
        if held["features"].shape[0] != len(tags):
            raise ValueError(f"{path.name}: {held['features'].shape[0]} rows, tags of {len(tags)}")
        return NeighbourShard(held["features"], tags, int(held["start"]))


@dataclass(frozen=True)
class StoredKNN:
    """What ``config.json`` says of a kNN model: number of files, neighbours and their weights."""

    parts: int
    k: int
    weighting: Weighting

    @staticmethod
    def of(info: BundleInfo) -> StoredKNN:
        """Raises:
        KeyError, TypeError, ValueError: a part is missing, or neighbours or weighting are out of range.
        """
        content = info.content
        k, weighting = content["k_neighbours"], content["weighting"]
        if type(k) is not int or k < 1 or weighting not in get_args(Weighting):
            raise ValueError(f"k_neighbours {k!r}, weighting {weighting!r}")
        return StoredKNN(int(content["parts"]), k, weighting)


def shard_file(part: int, parts: int) -> str:
    return f"neighbours-{part:05d}-of-{parts:05d}.safetensors"


def merge_nearest(
    found: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of what several shards found, ``[B, k]``; of equal distances the lower row."""
    distance = np.concatenate([d for d, _ in found], axis=1)
    row = np.concatenate([r for _, r in found], axis=1)
    order = np.lexsort((row, distance), axis=1)[:, :k]
    return np.take_along_axis(distance, order, 1), np.take_along_axis(row, order, 1)


def neighbour_scores(
    distance_Bk: np.ndarray, row_Bk: np.ndarray, tag_NT: csr_matrix, weighting: Weighting
) -> Tensor:
    """float32 ``[B, T]``: the share of neighbours that carry each tag, weighted or not; NaN where an image is
    too far away to have neighbours.

    Args:
        distance_Bk, row_Bk: the neighbours, as ``merge_nearest`` gives them.
        tag_NT: see ``tag_matrix``.
        weighting: ``uniform``, or ``distance`` for weights 1 / (distance + 1e-6).
    """
    lost_B = ~np.isfinite(distance_Bk).all(1)
    distance_Bk = np.where(lost_B[:, None], 0, distance_Bk)
    row_Bk = np.where(lost_B[:, None], 0, row_Bk)
    weight_Bk = np.ones_like(distance_Bk, dtype=np.float64)
    if weighting == "distance":
        weight_Bk = 1 / (distance_Bk.astype(np.float64) + 1e-6)
    weight_Bk /= weight_Bk.sum(1, keepdims=True)
    offsets = np.arange(0, row_Bk.size + 1, row_Bk.shape[1])
    weight_BN = csr_matrix(
        (weight_Bk.astype(np.float32).ravel(), row_Bk.ravel(), offsets),
        shape=(len(row_Bk), tag_NT.shape[0]),
    )
    score_BT = (weight_BN @ tag_NT).toarray()
    score_BT[lost_B] = np.nan
    return torch.from_numpy(score_BT)


def tag_matrix(tags: TagLists, num_tags: int) -> csr_matrix:
    """Sparse float32 ``[N, T]``: 1 where the row carries the tag."""
    ones = np.ones(len(tags.values), dtype=np.float32)
    return csr_matrix(
        (ones, tags.values.numpy(), tags.offsets.numpy()), shape=(len(tags), num_tags)
    )


class KNNAnnotator(DenseScores):
    """A tag's score is the (weighted) share of the k nearest training images that carry it.

    Args:
        shards: all training rows, in order of their ``start``.
        num_tags: T.
        mean_D, std_D: the statistics that standardised the shards' features.
        k: neighbours; more than N means all N.
    """

    name = "knn"

    def __init__(
        self,
        shards: Sequence[NeighbourShard],
        num_tags: int,
        mean_D: np.ndarray,
        std_D: np.ndarray,
        k: int = 100,
        weighting: Weighting = "uniform",
    ) -> None:
        rows = sum(len(shard.tags) for shard in shards)
        if rows == 0:
            raise ValueError("kNN needs at least one training image")
        self.shards, self.num_tags, self.k, self.weighting = (
            shards,
            num_tags,
            min(k, rows),
            weighting,
        )
        self.mean_D: np.ndarray = np.asarray(mean_D, np.float32)
        self.std_D: np.ndarray = np.asarray(std_D, np.float32)
        self.tag_NT = tag_matrix(TagLists.cat([shard.tags for shard in shards]), num_tags)
        self.vocabulary = Vocabulary((), np.zeros(0))
        self.info = BundleInfo(self.name)

    @classmethod
    def fit(
        cls,
        features_ND: Tensor,
        tags: TagLists,
        num_tags: int,
        k: int = 100,
        weighting: Weighting = "uniform",
    ) -> KNNAnnotator:
        """From raw features; they are standardised here."""
        mean_D, std_D = features_ND.double().mean(0), features_ND.double().std(0, correction=0)
        std_D = torch.where(std_D > 0, std_D, 1.0)
        standard_ND = ((features_ND - mean_D) / std_D).float()
        shard = NeighbourShard(standard_ND, tags)
        return cls([shard], num_tags, mean_D.numpy(), std_D.numpy(), k, weighting)

    @classmethod
    def load(cls, folder: Path, info: BundleInfo, vocabulary: Vocabulary) -> KNNAnnotator:
        stored = StoredKNN.of(info)
        parts = stored.parts
        shards = [
            NeighbourShard.load(folder / shard_file(part, parts), len(vocabulary))
            for part in range(parts)
        ]
        at = 0
        for part, shard in enumerate(shards):
            if shard.start != at:
                raise InputError(f"{folder}: {shard_file(part, parts)} is out of place")
            at += len(shard.tags)
        statistics = load_tensors(folder / "standardisation.safetensors")
        annotator = cls(
            shards,
            len(vocabulary),
            statistics["mean"].numpy(),
            statistics["std"].numpy(),
            stored.k,
            stored.weighting,
        )
        annotator.vocabulary, annotator.info = vocabulary, info
        return annotator

    @property
    def image_dim(self) -> int:
        return len(self.mean_D)

    def standardised(self, features_BD: Tensor) -> np.ndarray:
        """float32 ``[B, D]`` of raw features."""
        query_BD: np.ndarray = (features_BD.float().numpy() - self.mean_D) / self.std_D
        return query_BD

    def nearest(self, query_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows ``[B, k]`` of standardised queries."""
        return merge_nearest([shard.nearest(query_BD, self.k) for shard in self.shards], self.k)

    def plain_scores(self, features_BD: Tensor) -> Tensor:
        distance_Bk, row_Bk = self.nearest(self.standardised(features_BD))
        return neighbour_scores(distance_Bk, row_Bk, self.tag_NT, self.weighting)

    def log_scores(self, features_BD: Tensor) -> Tensor:
        return log_estimate(self.plain_scores(features_BD))


def write_standardisation(folder: Path, mean_D: np.ndarray, std_D: np.ndarray) -> None:
    tensors = {"mean": torch.tensor(mean_D), "std": torch.tensor(std_D)}
    save_tensors(tensors, folder / "standardisation.safetensors")


@dataclass(kw_only=True)
class KNNConfig:
    """Neighbours and their weights."""

    k: int = 100
    """neighbours (the paper's 100); 0 chooses k and weighting on a part of the training rows"""
    weighting: Weighting = "uniform"
    """how much a neighbour counts: uniform, all alike; distance, by 1 / distance"""

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"knn.k is {self.k}; it must be 0 (chosen) or more")
