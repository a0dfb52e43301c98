"""The least probability at which a tag is worth saying.

Macro F1 grows with every right tag and shrinks with every wrong one, by how often the tag is said and right
elsewhere (``macro.py``). A tag is said where its probability brings more than it costs. That alone says many
rare tags of which most are wrong. So each pair has a worth of its own as well: what its probability is above
the cut that suits all pairs together, whatever the tag.

Shapes: n held-out images, M candidate tags of each, T tags, p pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drel_core.decision.macro import ITERATIONS, ExpectedStatistics
from drel_core.scoring.reliability import RELIABILITY_BINS

DEPTH = 50
"""Decisions are made over the 50 most probable tags of an image; no image gets more than these."""
_PAIR = 0.2  # worth of a pair, where 1 is the whole precision or recall of one tag: docs/log.md


def learn_cuts(
    probability_nM: Tensor,
    tag_nM: Tensor,
    hit_nM: Tensor,
    relevant: int,
    share_T: Tensor,
    count_T: Tensor,
) -> Tensor:
    """float32 ``[T]``: a tag is said where its probability is at least its cut.

    Saying a tag of probability p is worth ``gain_t p + offset_t`` to macro F1 (see ``learn_gains``), and
    ``_PAIR (p - common)`` to all pairs. The cut is the p at which both together are worth nothing. Gains
    depend on what the cuts say, and are found as there.

    Args:
        probability_nM, tag_nM, hit_nM: of held-out images the best tags, best first, and which are relevant.
        relevant: relevant pairs in all.
        share_T: float64, share of images with each tag.
        count_T: training images with each tag.
    """
    depth = slice(0, DEPTH)
    probability_p = probability_nM[:, depth].flatten().double()
    tag_p, hit_p = tag_nM[:, depth].flatten(), hit_nM[:, depth].flatten()
    common = _common_cut(probability_p, hit_p, relevant)
    statistics = ExpectedStatistics(share_T, count_T, len(tag_nM))
    cut_T = torch.full_like(share_T, common)
    for _ in range(ITERATIONS):
        said_p = probability_p >= cut_T[tag_p]
        statistics.move(tag_p[said_p], probability_p[said_p])
        gain_T, offset_T = statistics.slopes()
        cut_T = (_PAIR * common - offset_T) / (gain_T + _PAIR)
    return cut_T.float()


def _common_cut(probability_p: Tensor, hit_p: Tensor, relevant: int) -> float:
    """The cut with the highest F1 over all pairs."""
    sorted_p, order = probability_p.sort(descending=True)
    hits_p = hit_p[order].cumsum(0).double()
    said_p = torch.arange(1, len(order) + 1, dtype=torch.float64)
    return float(sorted_p[(2 * hits_p / (said_p + relevant)).argmax()])


def cut_for_precision(reliability_b2: Tensor, precision: float, least: int = 20) -> float | None:
    """The least probability from which on held-out pairs had this precision; None where none had.

    Args:
        reliability_b2: see ``scoring.reliability``.
        least: pairs that a cut must leave.
    """
    pairs_b, hits_b = reliability_b2.flip(0).cumsum(0).double().unbind(1)
    fits = ((hits_b >= precision * pairs_b) & (pairs_b >= least)).nonzero()[:, 0]
    if not len(fits):
        return None
    return float(RELIABILITY_BINS - 1 - fits[-1]) / RELIABILITY_BINS
