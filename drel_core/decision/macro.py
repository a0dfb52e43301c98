"""Choose the k tags to predict per image so that expected macro F1 is maximal.

Macro F1 is that of mean precision and mean recall over tags, so that every tag counts alike. The k most
probable tags do not maximise it. An image with fewer than k relevant tags gets wrong predictions, and mean
precision depends on which tags these are. With calibrated probabilities p the optimal rule predicts the k
tags with the largest ``gain_t p(t | i) + offset_t`` (Schultheis et al., NeurIPS 2023; ICLR 2024,
"Consistent algorithms for multi-label classification with macro-at-k metrics"). The gain is what a hit adds
to the tag's recall and precision; the offset is what a prediction costs its precision. Both depend on how
often the rule itself predicts the tag and is right. They are therefore found by Frank-Wolfe iterations, on
images that the model was not fitted to.

Shapes: n held-out images, M candidate tags of each, T tags.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A rare tag's statistics are shrunk towards those of this many tags of like training count on either side,
_NEIGHBOURS = 20
# as if their mean had been seen on so many training images of its own.
_PSEUDO_COUNT = 2.0
_ITERATIONS = 40
# Images over which expected precision and recall are counted: the fewer, the less a rare tag gains.
_IMAGES = 500
# Gain of every correct prediction, where 1 is the whole precision or recall of one tag.
_HIT = 0.003


def learn_gains(
    probability_nM: Tensor, tag_nM: Tensor, share_T: Tensor, count_T: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Gains and offsets, float32 ``[T]``, that maximise the expected F1 of mean precision and recall.

    Of ``_IMAGES`` images, M_t carry tag t, and the rule predicts it S_t times with H_t hits. The tag's
    expected precision is ``H/S (1 - exp(-S))`` (0 where it is never predicted). Its recall is ``H/M`` where
    it occurs at all, which it does with probability ``1 - exp(-M)`` (Poisson). Statistics of a rare tag are
    shrunk towards those of tags of like count.

    Each iteration takes the best rule for the current gains and offsets, and moves S and H towards its
    statistics by 2 / (iteration + 2) (the usual Frank-Wolfe step).

    Args:
        probability_nM, tag_nM: calibrated probabilities of held-out images and the tags they are of.
        share_T: float64, share of images with each tag.
        count_T: training images with each tag.
        k: tags predicted for each image.
    """
    expected_T = _IMAGES * share_T
    occurs_T = -torch.expm1(-expected_T)
    own_T = count_T.double() / (count_T.double() + _PSEUDO_COUNT)
    order = share_T.argsort(stable=True)
    scale = _IMAGES / len(probability_nM)
    probability_nM = probability_nM.double()
    gain_T, offset_T = expected_T.rsqrt(), torch.zeros_like(expected_T)
    predicted_T, hits_T = torch.zeros_like(expected_T), torch.zeros_like(expected_T)
    for iteration in range(_ITERATIONS):
        utility_nM = probability_nM * gain_T[tag_nM] + offset_T[tag_nM]
        place_nk = utility_nM.topk(min(k, utility_nM.shape[1]), dim=1).indices
        said_m = tag_nM.gather(1, place_nk).flatten()
        now_predicted_T = torch.bincount(said_m, minlength=len(share_T)).double()
        chance_m = probability_nM.gather(1, place_nk).flatten()
        now_hits_T = torch.zeros_like(expected_T).index_add_(0, said_m, chance_m)
        step = 2 / (iteration + 2)
        for total_T, now_T in ((predicted_T, now_predicted_T), (hits_T, now_hits_T)):
            like_T = (
                expected_T
                * _neighbourhood(now_T * scale, order)
                / _neighbourhood(expected_T, order)
            )
            drawn_T = own_T * now_T * scale + (1 - own_T) * like_T
            total_T.lerp_(drawn_T, step)
        gain_T, offset_T = _slopes(predicted_T, hits_T, expected_T, occurs_T)
    return gain_T.float(), offset_T.float()


def _slopes(
    predicted_T: Tensor, hits_T: Tensor, expected_T: Tensor, occurs_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives of the F1 of the means: by a tag's hits (gain) and by its predictions (offset), times T."""
    predicted_T = predicted_T.clamp(min=1e-6)
    ever_T = -torch.expm1(-predicted_T)  # predicted at least once
    precision_T = hits_T / predicted_T
    mean_precision = (precision_T * ever_T).sum() / occurs_T.sum()
    mean_recall = (hits_T / expected_T * occurs_T).sum() / occurs_T.sum()
    total = (mean_precision + mean_recall).clamp(min=1e-12)
    on_precision = 2 * (mean_recall / total) ** 2
    on_recall = 2 * (mean_precision / total) ** 2
    gain_T = on_recall * occurs_T / expected_T + on_precision * ever_T / predicted_T + _HIT
    offset_T = on_precision * precision_T * ((-predicted_T).exp() - ever_T / predicted_T)
    return gain_T, offset_T


def _neighbourhood(value_T: Tensor, order: Tensor) -> Tensor:
    """``[T]``: sum over each tag and its 20 neighbours on either side in ``order``."""
    summed = torch.cat([value_T.new_zeros(1), value_T[order].cumsum(0)])
    place = torch.arange(len(order))
    low, high = (place - _NEIGHBOURS).clamp(min=0), (place + _NEIGHBOURS + 1).clamp(max=len(order))
    out_T = torch.empty_like(value_T)
    out_T[order] = (summed[high] - summed[low]).clamp(min=0)
    return out_T
