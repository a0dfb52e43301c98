"""k nearest neighbours on standardised features (He et al., section 4.2: k = 100)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from drel_core.annotator import DenseScores
from drel_core.tag_lists import TagLists


class KNNAnnotator(DenseScores):
    """A tag's score is the (weighted) share of the k nearest training images that carry it.

    Args:
        features_ND: training features; standardised here by their own mean and deviation.
        tags: training tags.
        num_tags: T.
        k: neighbours; more than N means all N.
        weighting: ``uniform``, or ``distance`` for weights 1 / (distance + 1e-6).
    """

    name = "knn"

    def __init__(
        self,
        features_ND: Tensor,
        tags: TagLists,
        num_tags: int,
        k: int = 100,
        weighting: Literal["uniform", "distance"] = "uniform",
    ) -> None:
        if len(features_ND) == 0:
            raise ValueError("kNN needs at least one training image")
        features = features_ND.float().numpy()
        self.num_tags, self.k, self.weighting = num_tags, min(k, len(features)), weighting
        self.mean_D = features.mean(0)
        std_D = features.std(0)
        self.std_D = np.where(std_D > 0, std_D, 1.0)
        self.index = NearestNeighbors(n_neighbors=self.k, algorithm="brute")
        self.index.fit((features - self.mean_D) / self.std_D)
        ones = np.ones(len(tags.values), dtype=np.float32)
        self.tag_NT = csr_matrix(
            (ones, tags.values.numpy(), tags.offsets.numpy()), shape=(len(features), num_tags)
        )

    def scores(self, features_BD: Tensor) -> Tensor:
        query = (features_BD.float().numpy() - self.mean_D) / self.std_D
        distance_Bk, neighbour_Bk = self.index.kneighbors(query)
        weight_Bk = np.ones_like(distance_Bk)
        if self.weighting == "distance":
            weight_Bk = 1 / (distance_Bk + 1e-6)
        weight_Bk /= weight_Bk.sum(1, keepdims=True)
        offsets = np.arange(0, neighbour_Bk.size + 1, self.k)
        weight_BN = csr_matrix(
            (weight_Bk.astype(np.float32).ravel(), neighbour_Bk.ravel(), offsets),
            shape=(len(query), self.tag_NT.shape[0]),
        )
        return torch.from_numpy((weight_BN @ self.tag_NT).toarray())
