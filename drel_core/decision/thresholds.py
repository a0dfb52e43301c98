"""Per-tag decision thresholds: the least score at which a tag is predicted for an image.

Shapes: n (image, tag) pairs, T tags.
"""

from __future__ import annotations

import numpy as np

_NEIGHBOURS = 20
DEPTH = 50
"""Thresholds are applied to the best 50 tags of an image by score; no image gets more than these."""


def learn_thresholds(
    tag_n: np.ndarray,
    score_n: np.ndarray,
    hit_n: np.ndarray,
    relevant_T: np.ndarray,
    least: int = 3,
    before_T: np.ndarray | None = None,
) -> np.ndarray | None:
    """float32 ``[T]``: a tag is predicted where its score is at least its threshold.

    Each tag's threshold maximises its F1 over the given pairs (Lipton et al., 2014). It lies halfway
    between the lowest score predicted and the next one below. Fewer than ``least`` relevant images say too
    little of a tag: it takes the one it had before, or else the threshold that maximises F1 over all pairs
    together.

    Args:
        tag_n, score_n: tag ids and scores of n (image, tag) pairs; other pairs count as not predicted.
        hit_n: bool, the tag is relevant to the image.
        relevant_T: int64, images that each tag is relevant to, listed or not.
        before_T: thresholds that the tags had before; None where there were none.

    Returns:
        None where there is no threshold: no pair is relevant, and there were none before.
    """
    common = _best_cut(np.zeros_like(tag_n), score_n, hit_n, relevant_T.sum(keepdims=True))
    own_T = _best_cut(tag_n, score_n, hit_n, relevant_T)
    few_T = (relevant_T < least) | np.isnan(own_T)
    if before_T is None:
        if np.isnan(common[0]):
            return None
        before_T = common
    return np.where(few_T, before_T, own_T).astype("float32")


def extended_thresholds(
    threshold_T: np.ndarray, old_count_T: np.ndarray, count_T: np.ndarray
) -> np.ndarray:
    """Thresholds of a vocabulary that grew at its end, float32.

    A new tag takes the median of the 20 old tags that are nearest to it in order of training count.

    Args:
        threshold_T: of the old tags.
        old_count_T: int64, their training images when the thresholds were learned.
        count_T: the training images of all tags now, the old ones first.
    """
    old = len(threshold_T)
    order = np.argsort(old_count_T, kind="stable")
    new_n = count_T[old:]
    sorted_T = old_count_T[order]
    # The middle of the old tags that have the same count.
    at_n = (
        np.searchsorted(sorted_T, new_n, "left") + np.searchsorted(sorted_T, new_n, "right")
    ) // 2
    size = min(_NEIGHBOURS, old)
    first_n = np.clip(at_n - size // 2, 0, old - size)
    near_nk = order[first_n[:, None] + np.arange(size)]
    return np.concatenate([threshold_T, np.median(threshold_T[near_nk], axis=1)]).astype("float32")


def _best_cut(
    group_n: np.ndarray, score_n: np.ndarray, hit_n: np.ndarray, relevant_G: np.ndarray
) -> np.ndarray:
    """float64 ``[G]``: the threshold with the highest F1 of each group; NaN for a group without a hit."""
    cut_G = np.full(len(relevant_G), np.nan)
    if not len(group_n):
        return cut_G
    order = np.lexsort((-score_n, group_n))
    group_n, score_n, hit_n = group_n[order], score_n[order].astype(np.float64), hit_n[order]
    starts = np.flatnonzero(np.r_[True, group_n[1:] != group_n[:-1]])
    size = np.diff(np.r_[starts, len(group_n)])
    before = np.r_[0, np.cumsum(hit_n)]
    hits_n = before[1:] - np.repeat(before[starts], size)
    taken_n = np.arange(len(group_n)) - np.repeat(starts, size) + 1
    f1_n = 2 * hits_n / (taken_n + relevant_G[group_n])
    last_n = np.r_[group_n[1:] != group_n[:-1], True]
    tied_n = ~last_n & (np.r_[score_n[1:], 0.0] == score_n)
    f1_n[tied_n] = -1.0  # a threshold takes all of equal scores or none
    best_g = np.maximum.reduceat(f1_n, starts)
    at_best_n = np.flatnonzero(f1_n == np.repeat(best_g, size))
    group_of, first = np.unique(group_n[at_best_n], return_index=True)
    place_g = at_best_n[first]
    below_g = np.where(
        last_n[place_g], score_n[place_g], score_n[np.minimum(place_g + 1, len(score_n) - 1)]
    )
    found = best_g > 0
    cut_G[group_of[found]] = ((score_n[place_g] + below_g) / 2)[found]
    return cut_G
