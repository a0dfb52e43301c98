"""The interface that every method of annotating images has.

Shapes: B images, D feature size, T tags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from drel_core.bundle.info import BundleInfo
from drel_core.bundle.tag_rules import TagRules
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.decider import Chosen, Decide, Decider
from drel_core.errors import InputError
from drel_core.scoring.topk import NoBestScore, check_best, topk


class Annotator(Protocol):
    """Scores every tag of the vocabulary for each image; a higher score is more relevant.

    Attributes:
        name: the method.
        num_tags: T.
        decider: makes scores probabilities; None where nothing is known of them.
        rules: what answers keep to beside scores (``choose``); None where the bundle has none.
    """

    name: str
    num_tags: int
    decider: Decider | None
    rules: AnswerRules | None

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
    rules: AnswerRules | None = None

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


def rules_of(annotator: Annotator) -> TagRules | None:
    """The rules of an annotator's bundle, for tags that are held against its answers."""
    return None if annotator.rules is None else annotator.rules.rules


def unseen_of(annotator: TrainedAnnotator) -> np.ndarray | None:
    """bool ``[T]``: the tags that no training image has, which the model knows by their names alone. None
    where it has no such tag."""
    unseen_T: np.ndarray = annotator.vocabulary.counts == 0
    return unseen_T if annotator.info.method in ("drel", "wsabie") and unseen_T.any() else None


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
    best = annotator.annotate(features_BD, depth_of(annotator, k, decision.how))
    return choose_of(
        annotator,
        *best,
        k,
        decision,
        lambda rows, depth: annotator.annotate(features_BD[rows], depth),
    )


def depth_of(annotator: Annotator, k: int, how: Decide) -> int:
    """How many of the best tags of an image ``choose_of`` must be given."""
    if annotator.decider is not None and how != "top":
        k = annotator.decider.candidates(k, how)
    return k if not annotator.rules else k + annotator.rules.spare


def choose_of(
    annotator: Annotator,
    probability_BM: Tensor,
    tag_BM: Tensor,
    k: int,
    decision: Decision,
    more: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    only_T: Tensor | None = None,
) -> Chosen:
    """The tags of images, of their best ones: here rules meet scores.

    Args:
        probability_BM, tag_BM: what ``annotator.annotate`` gives; as many as ``depth_of`` says.
        more: gives deeper lists of some rows, where so many tags fell out that an answer would be short.
        only_T: bool, the tags that are asked for, where the annotator has rules.
    """
    how, rules = decision.how, annotator.rules
    decider = annotator.decider if how != "top" else None
    if rules is None or (only_T is None and not bool(rules.touched_T[tag_BM].any())):
        if decider is None:
            return Chosen(probability_BM[:, :k], tag_BM[:, :k])
        return decider.choose(probability_BM, tag_BM, k, how, decision.cut_T)
    value_BM = probability_BM
    if decider is not None:
        value_BM = decider.values(probability_BM, tag_BM, k, how, decision.cut_T)
    found = rules.choose(
        probability_BM, tag_BM, value_BM, min(k, annotator.num_tags), only_T=only_T
    )
    # A decision may look at fewer than it is given.
    depth = tag_BM.shape[1] if decider is None else decider.candidates(k, how)
    enough = min(k, annotator.num_tags if only_T is None else int(only_T.sum()))
    while how != "threshold" and depth < annotator.num_tags:
        short = (found[2].sum(1) < enough).nonzero()[:, 0]
        if not len(short):
            break
        depth = min(4 * depth, annotator.num_tags)
        best_nM, tag_nM = more(short, depth)
        value_nM = best_nM
        if decider is not None:  # of as many as it takes, not of the 50 best alone
            value_nM = decider.values(best_nM, tag_nM, depth, how, decision.cut_T)
        again = rules.choose(best_nM, tag_nM, value_nM, found[1].shape[1], only_T=only_T)
        for part, new in zip(found, again, strict=True):
            part[short] = new
    return _without_gaps(*found)


def _without_gaps(probability_Bk: Tensor, tag_Bk: Tensor, keep_Bk: Tensor) -> Chosen:
    """Without columns that no image has a tag in, and without ``keep`` where all have one."""
    width = int(keep_Bk.any(0).sum())
    probability_Bk, tag_Bk, keep_Bk = (
        part[:, :width] for part in (probability_Bk, tag_Bk, keep_Bk)
    )
    return Chosen(probability_Bk, tag_Bk, None if bool(keep_Bk.all()) else keep_Bk)


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
