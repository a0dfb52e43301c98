"""The popularity floor: every image gets the most frequent training tags."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from drel_core.annotators.base import DenseScores
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists


class PopularityAnnotator(DenseScores):
    """The score of a tag is its share of all (image, tag) pairs in training; the image does not matter."""

    name = "popularity"

    def __init__(
        self, vocabulary: Vocabulary, image_dim: int = 0, info: BundleInfo | None = None
    ) -> None:
        self.vocabulary, self.image_dim = vocabulary, image_dim
        self.info = info or BundleInfo(self.name)
        self.num_tags = len(vocabulary)
        count_T = torch.from_numpy(vocabulary.counts)
        self.share_T = (count_T.double() / max(1, int(count_T.sum()))).float()

    @classmethod
    def load(cls, folder: Path, info: BundleInfo, vocabulary: Vocabulary) -> PopularityAnnotator:
        return cls(vocabulary, info.image_dim, info)

    def plain_scores(self, features_BD: Tensor) -> Tensor:
        return self.share_T.expand(len(features_BD), self.num_tags)

    def log_scores(self, features_BD: Tensor) -> Tensor:
        return self.plain_scores(features_BD).clamp(min=1e-9).log()

    def topk(self, batch: int, k: int) -> Tensor:
        """int64 ``[batch, min(k, T)]``: ids of the k most frequent tags, without a matrix of equal rows."""
        return most_frequent(torch.from_numpy(self.vocabulary.counts), batch, k)


def floor_counts(count_T: Tensor, tags: TagLists, k: int) -> MetricCounts:
    """What the k most frequent tags hit of the relevant tags of some images."""
    counts = MetricCounts(len(count_T), k, keep_scores_bytes=0)
    counts.update_topk(most_frequent(count_T, len(tags), k), tags)
    return counts


def most_frequent(count_T: Tensor, batch: int, k: int) -> Tensor:
    """int64 ``[batch, min(k, T)]``: ids of the k tags with the highest counts, ties by lowest id."""
    order = torch.argsort(count_T, descending=True, stable=True)[:k]
    return order.expand(batch, len(order))
