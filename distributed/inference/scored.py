"""The scores of a batch of images: of all tags, or of the best where that is enough.

Shapes: B images, D feature size, M best tags of each, T tags, p (image, tag) pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from drel_core.annotators.base import Annotator, depth_of
from drel_core.decision.cuts import DEPTH
from drel_core.scoring.reliability import LEAST_PROBABILITY
from drel_core.scoring.topk import check_best, topk

Best = tuple[torch.Tensor, torch.Tensor]


class Scored(NamedTuple):
    """A batch of images.

    Attributes:
        score_BT: of all tags, by the rules of the bundle; None where the best are enough.
        best_BM, tag_BM: the best, as many as any decision needs; tag -1 where rules leave none.
        plain: the same as the annotator gives them, before rules: what decisions are made of.
        more: deeper lists of some images, see ``choose_of``.
    """

    score_BT: torch.Tensor | None
    best_BM: torch.Tensor
    tag_BM: torch.Tensor
    plain: Best
    more: Callable[[torch.Tensor, int], Best]

    @staticmethod
    def of(annotator: Annotator, features_BD: torch.Tensor, k: int, whole: bool) -> Scored:
        """
        Args:
            whole: score all tags. They also are where more tags than the best may have probabilities that
                count.

        Raises:
            NoBestScore: rows have no scores.
        """
        rules, depth = annotator.rules, max(k, DEPTH)
        deepest = depth_of(annotator, depth, "top")

        def more(rows: torch.Tensor, depth: int) -> Best:
            return annotator.annotate(features_BD[rows], depth)

        if not whole:
            plain = best_BM, tag_BM = annotator.annotate(features_BD, deepest)
            if rules:  # limits of groups are for a decision to keep
                best_BM, tag_BM, keep_BM = rules.choose(
                    best_BM, tag_BM, best_BM, min(depth, annotator.num_tags), limited=False
                )
                best_BM, tag_BM = best_BM * keep_BM, tag_BM.masked_fill(~keep_BM, -1)
            if annotator.decider is None or bool((best_BM[:, -1] < LEAST_PROBABILITY).all()):
                return Scored(None, best_BM, tag_BM, plain, more)
        score_BT = annotator.scores(features_BD)
        plain = best_BM, tag_BM = topk(score_BT, deepest)
        check_best(best_BM)
        if annotator.decider is not None:
            # Near 0 and 1 there are fewer probabilities than scores: equal ones have an order.
            at_end_BM = (best_BM[:, 1:] > 0.5) | (best_BM[:, 1:] < 1e-30)
            tied_B = (at_end_BM & (best_BM[:, 1:] == best_BM[:, :-1])).any(1)
            if tied_B.any():
                best_BM[tied_B], tag_BM[tied_B] = more(tied_B, deepest)
        if rules:
            score_BT = rules.lifted(score_BT)
            best_BM, tag_BM = topk(score_BT, depth)
        return Scored(score_BT, best_BM, tag_BM, plain, more)

    def likely(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Row, tag and probability of the pairs whose probability counts: of nearly all it is too low."""
        if self.score_BT is None:
            row_p, place_p = (self.best_BM >= LEAST_PROBABILITY).nonzero(as_tuple=True)
            return row_p, self.tag_BM[row_p, place_p], self.best_BM[row_p, place_p]
        row_p, tag_p = (self.score_BT >= LEAST_PROBABILITY).nonzero(as_tuple=True)
        return row_p, tag_p, self.score_BT[row_p, tag_p]
