"""The one face of everything that annotates images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.topk import topk


class Annotator(Protocol):
    """Scores every tag of the vocabulary for each image; higher is more relevant."""

    name: str
    num_tags: int

    def scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]`` of raw features ``[B, D]``."""
        ...

    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Best k scores and tag ids ``[B, min(k, T)]``, best first, ties by lowest id."""
        ...


class TrainedAnnotator(Annotator, Protocol):
    """An annotator that came out of a bundle.

    Attributes:
        vocabulary: tag names and training counts.
        info: the bundle's ``config.json``.
    """

    vocabulary: Vocabulary
    info: BundleInfo

    @property
    def image_dim(self) -> int:
        """D."""
        ...


class DenseScores(ABC):
    """``annotate`` for methods whose scores come as a whole ``[B, T]`` anyway."""

    @abstractmethod
    def scores(self, features_BD: Tensor) -> Tensor: ...

    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        return topk(self.scores(features_BD), k)
