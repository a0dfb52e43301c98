"""Whether probabilities are right as often as they say.

Shapes: n images, M tags of each, b bins of probability.
"""

from __future__ import annotations

import torch
from torch import Tensor

RELIABILITY_BINS = 1000
LEAST_PROBABILITY = 0.05
"""Lower ones are nearly all of the pairs, and nobody is told them."""
_ROWS = 10  # of a table that people read
_ERROR_BINS = 15


def reliability(probability_nM: Tensor, hit_nM: Tensor) -> Tensor:
    """int64 ``[1000, 2]``: of the pairs with a probability in each thousandth, how many there are and how
    many are relevant. Sums of such tables are tables."""
    probability_p = probability_nM.flatten()
    return reliability_of_groups(
        probability_p, hit_nM.flatten(), torch.zeros_like(probability_p, dtype=torch.int64), 1
    )[0]


def reliability_of_groups(
    probability_p: Tensor, hit_p: Tensor, group_p: Tensor, groups: int
) -> Tensor:
    """int64 ``[groups, 1000, 2]``: ``reliability`` of each group of pairs.

    Args:
        group_p: int64, the group of each pair.
    """
    bin_p = (probability_p * RELIABILITY_BINS).long().clamp_(0, RELIABILITY_BINS - 1)
    place_p, places = group_p * RELIABILITY_BINS + bin_p, groups * RELIABILITY_BINS
    pairs = torch.bincount(place_p, minlength=places)
    hits = torch.bincount(place_p[hit_p], minlength=places)
    return torch.stack([pairs, hits], 1).reshape(groups, RELIABILITY_BINS, 2)


def expected_calibration_error(reliability_b2: Tensor, least: float = LEAST_PROBABILITY) -> float:
    """Mean distance between probability and share of right tags, over 15 bins weighted by their pairs (Naeini
    et al., 2015), of the pairs with a probability above ``least``."""
    pairs_b, summed_b, hits_b = _binned(reliability_b2, _ERROR_BINS, least)
    return float((summed_b - hits_b).abs().sum() / pairs_b.sum().clamp(min=1))


def reliability_table(
    reliability_b2: Tensor, least: float = LEAST_PROBABILITY
) -> list[dict[str, float]]:
    """For people: of each tenth of probability its pairs, their mean probability, and how many were right."""
    pairs_b, summed_b, hits_b = _binned(reliability_b2, _ROWS, least)
    return [
        {
            "pairs": int(pairs),
            "probability": round(summed / pairs, 4),
            "right": round(hits / pairs, 4),
        }
        for pairs, summed, hits in zip(
            pairs_b.tolist(), summed_b.tolist(), hits_b.tolist(), strict=True
        )
        if pairs
    ]


def _binned(reliability_b2: Tensor, bins: int, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs, summed probability and hits of each of ``bins`` bins, float64."""
    middle_b = (torch.arange(RELIABILITY_BINS, dtype=torch.float64) + 0.5) / RELIABILITY_BINS
    pairs_b, hits_b = reliability_b2.double().unbind(1)
    kept_b = middle_b > least
    into_b = (middle_b * bins).long()

    def summed(value_b: Tensor) -> Tensor:
        out = torch.zeros(bins, dtype=torch.float64)
        return out.index_add_(0, into_b[kept_b], value_b[kept_b])

    return summed(pairs_b), summed(pairs_b * middle_b), summed(hits_b)
