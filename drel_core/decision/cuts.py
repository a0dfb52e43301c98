"""The least probability at which a tag is worth saying.

A tag's F1 is highest where every image is predicted whose probability is at least half of that F1 (Lipton et
al., 2014, "Optimal thresholding of classifiers to maximize F1 measure"). Probabilities themselves say what
F1 to expect, so that a tag that few held-out images carry has a cut as well. The cut that suits all pairs
together leaves fewer wrong tags; each tag takes a place between the two.

Shapes: n held-out images, M candidate tags of each, T tags, p pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drel_core.scoring.reliability import RELIABILITY_BINS

DEPTH = 50
"""Decisions are made over the 50 most probable tags of an image; no image gets more than these."""
_OWN = 0.85  # of a cut is the tag's own best, the rest the common one: docs/log.md
_LEAST_EXPECTED = 0.5  # images: of a tag that is expected on fewer, tags of like count say more
_NEIGHBOURS = 20


def learn_cuts(
    probability_nM: Tensor, tag_nM: Tensor, hit_nM: Tensor, relevant: int, share_T: Tensor
) -> Tensor:
    """float32 ``[T]``: a tag is said where its probability is at least its cut.

    Args:
        probability_nM, tag_nM, hit_nM: of held-out images the best tags, best first, and which are relevant.
        relevant: relevant pairs in all.
        share_T: float64, share of images with each tag.
    """
    depth = slice(0, DEPTH)
    probability_p = probability_nM[:, depth].flatten().double()
    tag_p, hit_p = tag_nM[:, depth].flatten(), hit_nM[:, depth].flatten()
    common = _common_cut(probability_p, hit_p, relevant)
    half_T, expected_T = _half_of_best_f1(probability_p, tag_p, share_T * len(tag_nM))
    few_T = expected_T < _LEAST_EXPECTED
    half_T = torch.where(few_T, _like(half_T, ~few_T, share_T, common), half_T)
    return (_OWN * half_T + (1 - _OWN) * common).float()


def _common_cut(probability_p: Tensor, hit_p: Tensor, relevant: int) -> float:
    """The cut with the highest F1 over all pairs."""
    sorted_p, order = probability_p.sort(descending=True)
    hits_p = hit_p[order].cumsum(0).double()
    said_p = torch.arange(1, len(order) + 1, dtype=torch.float64)
    return float(sorted_p[(2 * hits_p / (said_p + relevant)).argmax()])


def _half_of_best_f1(
    probability_p: Tensor, tag_p: Tensor, expected_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Half of the highest F1 that each tag's probabilities promise, and the images expected to carry it.

    Args:
        expected_T: images that carry the tag by its share; its probabilities may sum to more.
    """
    order = probability_p.argsort(descending=True, stable=True)
    order = order[tag_p[order].argsort(stable=True)]
    tag_p, probability_p = tag_p[order], probability_p[order]
    size_T = torch.bincount(tag_p, minlength=len(expected_T))
    first_T = size_T.cumsum(0) - size_T
    summed_p = torch.cat([probability_p.new_zeros(1), probability_p.cumsum(0)])
    within_p = summed_p[1:] - summed_p[first_T[tag_p]]
    said_p = torch.arange(1, len(tag_p) + 1) - first_T[tag_p]
    summed_T = torch.zeros_like(expected_T).index_add_(0, tag_p, probability_p)
    expected_T = torch.maximum(expected_T, summed_T)
    f1_p = 2 * within_p / (said_p + expected_T[tag_p])
    best_T = torch.zeros_like(expected_T).scatter_reduce_(0, tag_p, f1_p, "amax")
    return best_T / 2, expected_T


def _like(half_T: Tensor, known_T: Tensor, share_T: Tensor, common: float) -> Tensor:
    """Of each tag the mean of the nearest tags in order of share that are known; ``common`` without any."""
    if not known_T.any():
        return torch.full_like(half_T, common)
    known = known_T.nonzero()[:, 0]
    known = known[share_T[known].argsort(stable=True)]
    summed = torch.cat([half_T.new_zeros(1), half_T[known].cumsum(0)])
    at_T = torch.searchsorted(share_T[known].contiguous(), share_T.contiguous())
    low_T = (at_T - _NEIGHBOURS).clamp(0, max(0, len(known) - 2 * _NEIGHBOURS))
    high_T = (low_T + 2 * _NEIGHBOURS).clamp(max=len(known))
    return (summed[high_T] - summed[low_T]) / (high_T - low_T)


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
