"""The scores of a batch of images: of all tags, or of the best where that is enough.

Shapes: B images, D feature size, M best tags of each, T tags, p (image, tag) pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from drel_core.annotators.base import Annotator, depth_of
from drel_core.decision.cuts import DEPTH
from drel_core.scoring.reliability import LEAST_PROBABILITY
from drel_core.scoring.topk import topk


class Scored(NamedTuple):
    """A batch of images.

    Attributes:
        score_BT: of all tags, by the rules of the bundle; None where the best are enough.
        best_BM, tag_BM: the best, as many as any decision needs; tag -1 where rules leave none.
    """

    score_BT: torch.Tensor | None
    best_BM: torch.Tensor
    tag_BM: torch.Tensor

    @staticmethod
    def of(annotator: Annotator, features_BD: torch.Tensor, k: int, whole: bool) -> Scored:
        """
        Args:
            whole: score all tags. They also are where more tags than the best may have probabilities that
                count.

        Raises:
            NoBestScore: rows have no scores.
        """
        depth = max(k, DEPTH)
        if not whole:
            best_BM, tag_BM = annotator.annotate(features_BD, depth_of(annotator, depth, "top"))
            if annotator.rules:  # limits of groups are for a decision to keep
                best_BM, tag_BM, keep_BM = annotator.rules.choose(
                    best_BM, tag_BM, best_BM, min(depth, annotator.num_tags), limited=False
                )
                best_BM, tag_BM = best_BM * keep_BM, tag_BM.masked_fill(~keep_BM, -1)
            if annotator.decider is None or bool((best_BM[:, -1] < LEAST_PROBABILITY).all()):
                return Scored(None, best_BM, tag_BM)
        score_BT = annotator.scores(features_BD)
        if annotator.rules:
            score_BT = annotator.rules.lifted(score_BT)
        return Scored(score_BT, *topk(score_BT, depth))

    def likely(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Row, tag and probability of the pairs whose probability counts: of nearly all it is too low."""
        if self.score_BT is None:
            row_p, place_p = (self.best_BM >= LEAST_PROBABILITY).nonzero(as_tuple=True)
            return row_p, self.tag_BM[row_p, place_p], self.best_BM[row_p, place_p]
        row_p, tag_p = (self.score_BT >= LEAST_PROBABILITY).nonzero(as_tuple=True)
        return row_p, tag_p, self.score_BT[row_p, tag_p]
