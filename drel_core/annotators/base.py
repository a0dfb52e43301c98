"""The interface that every method of annotating images has.

Shapes: B images, D feature size, T tags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import Chosen, Decide, Decider
from drel_core.errors import InputError
from drel_core.scoring.topk import NoBestScore, check_best, topk


class Annotator(Protocol):
    """Scores every tag of the vocabulary for each image; a higher score is more relevant.

    Attributes:
        name: the method.
        num_tags: T.
        decider: makes scores probabilities; None where nothing is known of them.
    """

    name: str
    num_tags: int
    decider: Decider | None

    def scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]`` of raw features ``[B, D]``."""
        ...

    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Scores and tag ids ``[B, min(k, T)]`` of the k best tags, best first, ties by lowest id.

        Raises:
            NoBestScore: the best score of a row is not finite.
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
    """``scores`` and ``annotate`` for methods that compute all scores ``[B, T]`` anyway."""

    decider: Decider | None = None

    @abstractmethod
    def plain_scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]``: what the method gives for a score."""

    @abstractmethod
    def log_scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]``: the same on a scale on which they can be calibrated, like log odds; a new
        tensor."""

    @torch.inference_mode()
    def scores(self, features_BD: Tensor) -> Tensor:
        if self.decider is None:
            return self.plain_scores(features_BD)
        z_BT = self.decider.calibration.order(self.log_scores(features_BD), slice(None))
        return self.decider.all_probabilities(z_BT)

    @torch.inference_mode()
    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        if self.decider is None:
            best_Bk, tag_Bk = topk(self.plain_scores(features_BD), k)
            check_best(best_Bk)
            return best_Bk, tag_Bk
        z_BT = self.decider.calibration.order(self.log_scores(features_BD), slice(None))
        best_BM, tag_BM = topk(z_BT, self.decider.candidates(k, "top"))
        probability_Bk = self.decider.probabilities(best_BM, k)
        check_best(probability_Bk)
        return probability_Bk, tag_BM[:, :k]


@dataclass(frozen=True)
class Decision:
    """How the tags of an image are chosen.

    Attributes:
        how: see ``Decide``.
        cut_T: with ``threshold``, the least probability of each tag.
    """

    how: Decide = "top"
    cut_T: Tensor | None = None


def decision_of(
    annotator: Annotator, how: Decide, precision: float | None = None, model: str = "this model"
) -> Decision:
    """A decision of an annotator.

    Args:
        precision: with ``threshold``, the wanted share of said tags that are right.
        model: names it in messages.

    Raises:
        InputError: the annotator cannot decide that way.
    """
    if how == "top":
        return Decision()
    if annotator.decider is None:
        raise InputError(
            f"{model}: its scores are no probabilities, so that it can only decide by top; train it with "
            "--data.validation 0.1"
        )
    return Decision(how, annotator.decider.cuts(precision) if how == "threshold" else None)


def choose(annotator: Annotator, features_BD: Tensor, k: int, decision: Decision) -> Chosen:
    """The tags of images, best first.

    Args:
        k: tags of an image; with ``threshold`` the most.
        decision: see ``decision_of``.
    """
    if decision.how == "top" or annotator.decider is None:
        return Chosen(*annotator.annotate(features_BD, k))
    depth = annotator.decider.candidates(k, decision.how)
    best = annotator.annotate(features_BD, depth)
    return annotator.decider.choose(*best, k, decision.how, decision.cut_T)


Result = TypeVar("Result")
UNSCORABLE = "features are too large for this model: its scores are not finite"


def row_by_row(score: Callable[[Tensor], Result], features_BD: Tensor) -> tuple[Result, Tensor]:
    """What ``score`` gives, though the scores of some rows are not finite.

    Returns:
        the result, in which such rows are as zeros would be, and bool ``[B]``: which they are.

    Raises:
        NoBestScore: zeros have no scores either.
    """
    bad_B = torch.zeros(len(features_BD), dtype=torch.bool)
    while True:
        try:
            return score(features_BD), bad_B
        except NoBestScore as error:
            found_B = error.bad_B.cpu() & ~bad_B
            if not found_B.any():
                raise
            bad_B |= found_B
            features_BD = features_BD.masked_fill(bad_B[:, None], 0.0)
