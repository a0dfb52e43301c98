"""The interface that every method of annotating images has.

Shapes: B images, D feature size, T tags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.topk import topk


class Annotator(Protocol):
    """Scores every tag of the vocabulary for each image; a higher score is more relevant.

    Attributes:
        name: the method.
        num_tags: T.
    """

    name: str
    num_tags: int

    def scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]`` of raw features ``[B, D]``."""
        ...

    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Scores and tag ids ``[B, min(k, T)]`` of the k best tags, best first, ties by lowest id.

        Raises:
            ValueError: a score is NaN.
        """
        ...


class TrainedAnnotator(Annotator, Protocol):
    """An annotator that was loaded from a bundle.

    Attributes:
        vocabulary: tag names and training counts.
        info: what the bundle's ``config.json`` says.
    """

    vocabulary: Vocabulary
    info: BundleInfo

    @property
    def image_dim(self) -> int:
        """D."""
        ...


class DenseScores(ABC):
    """``annotate`` for methods that compute all scores ``[B, T]`` anyway."""

    @abstractmethod
    def scores(self, features_BD: Tensor) -> Tensor: ...

    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        return topk(self.scores(features_BD), k)
