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
ITERATIONS = 40
"""Frank-Wolfe steps."""
# Images over which expected precision and recall are counted: the fewer, the less a rare tag gains.
_IMAGES = 400
# Gain of every correct prediction, where 1 is the whole precision or recall of one tag.
_HIT = 0.006


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
    statistics = ExpectedStatistics(share_T, count_T, len(probability_nM))
    probability_nM = probability_nM.double()
    gain_T, offset_T = statistics.expected_T.rsqrt(), torch.zeros_like(statistics.expected_T)
    for _ in range(ITERATIONS):
        utility_nM = probability_nM * gain_T[tag_nM] + offset_T[tag_nM]
        place_nk = utility_nM.topk(min(k, utility_nM.shape[1]), dim=1).indices
        statistics.move(
            tag_nM.gather(1, place_nk).flatten(), probability_nM.gather(1, place_nk).flatten()
        )
        gain_T, offset_T = statistics.slopes()
        gain_T += _HIT
    return gain_T.float(), offset_T.float()


class ExpectedStatistics:
    """How often a rule predicts each tag of ``_IMAGES`` images, S, and is right, H; none of them at first.

    Args:
        share_T: float64, share of images with each tag.
        count_T: training images with each tag.
        images: held-out images that the rule is tried on.
    """

    def __init__(self, share_T: Tensor, count_T: Tensor, images: int) -> None:
        self.expected_T = _IMAGES * share_T
        self.occurs_T = -torch.expm1(-self.expected_T)
        self.predicted_T = torch.zeros_like(self.expected_T)
        self.hits_T = torch.zeros_like(self.expected_T)
        self._own_T = count_T.double() / (count_T.double() + _PSEUDO_COUNT)
        self._order = share_T.argsort(stable=True)
        self._scale = _IMAGES / images
        self._moves = 0

    def move(self, tag_m: Tensor, chance_m: Tensor) -> None:
        """The next Frank-Wolfe step, towards a rule that predicts these tags with these probabilities."""
        step = 2 / (self._moves + 2)
        self._moves += 1
        predicted_T = torch.bincount(tag_m, minlength=len(self.expected_T)).double()
        hits_T = torch.zeros_like(self.expected_T).index_add_(0, tag_m, chance_m)
        around_T = _neighbourhood(self.expected_T, self._order)
        for total_T, now_T in ((self.predicted_T, predicted_T), (self.hits_T, hits_T)):
            like_T = self.expected_T * _neighbourhood(now_T * self._scale, self._order) / around_T
            drawn_T = self._own_T * now_T * self._scale + (1 - self._own_T) * like_T
            total_T.lerp_(drawn_T, step)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """What a hit adds to the F1 of the means, times T, and what a prediction does (0 or less)."""
        return _slopes(self.predicted_T, self.hits_T, self.expected_T, self.occurs_T)


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
    gain_T = on_recall * occurs_T / expected_T + on_precision * ever_T / predicted_T
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
