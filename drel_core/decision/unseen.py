"""Probabilities of tags that no training image has.

Their rows come from their names (``model/name_map.py``). How far such scores can be trusted is learned by
leaving tags out: each tag with images is given the row that it would have if nothing but its name were known,
and these rows score images whose tags are known. Logistic regression over the pairs, through the model's own
link from ``z`` to log odds, gives

    z = a score + b

of which a is the slope of unseen tags. **What is assumed of how often an unseen tag occurs**: that it is like
a tag drawn at random from those that were left out, frequent and rare ones together. The odds are those of
all their pairs, so that over many unseen tags probabilities come true, while rare tags get too high ones and
frequent tags too low ones. The images that a bundle keeps have more of rare tags than others have. While a
and b are learned, each tag's ``z`` is moved by the log of its share in them over its share of the training
images.

Shapes: n images, S tags that were left out, T tags, U unseen ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drel_core.decision.calibration import Calibration, descend, extend_by_count
from drel_core.decision.decider import Decider

LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class UnseenScores:
    """What makes a ``z`` of the score of an unseen tag.

    Attributes:
        slope: a, above 0.
        shift: b.
        count: training images of the middle one of the tags that were left out, 1 or more.
    """

    slope: float
    shift: float
    count: int

    def extended(self, decider: Decider, count_T: Tensor, unseen: int) -> Decider:
        """That of a vocabulary with so many unseen tags at its end. For decisions they are like tags of
        ``count`` images.

        Args:
            count_T: int64, training images of the tags before them.
        """
        as_if_T = torch.cat([count_T, torch.full((unseen,), self.count)])

        def grown(value_T: Tensor) -> Tensor:
            known_T = extend_by_count(value_T, count_T, as_if_T)
            # Tags that were unseen before stay as they are.
            return torch.cat([value_T, known_T[len(value_T) :]])

        calibration = decider.calibration
        slope_T = calibration.slope_of(torch.arange(len(count_T))).expand(len(count_T))
        shift_T = calibration.shift_T
        return replace(
            decider,
            calibration=replace(
                calibration,
                slope_T=torch.cat([slope_T, slope_T.new_full((unseen,), self.slope)]),
                shift_T=torch.cat([shift_T, shift_T.new_full((unseen,), self.shift)]),
            ),
            gain_T=grown(decider.gain_T),
            offset_T=grown(decider.offset_T),
            cut_T=None if decider.cut_T is None else grown(decider.cut_T),
        )


def fit_unseen(
    score_nS: Tensor,
    hit_nS: Tensor,
    level_n1: Tensor,
    count_S: Tensor,
    rows: int,
    calibration: Calibration,
) -> UnseenScores:
    """Learn from images what scores of rows that names alone gave are worth.

    Args:
        score_nS: of each image with each tag by the row that it has if it is left out, without prior.
        hit_nS: bool, the tag is the image's.
        level_n1: of the images, by all tags of the model (``calibration.level``).
        count_S: int64, training images of the tags.
        rows: training images in all.
        calibration: the model's.
    """
    here_S = hit_nS.double().mean(0).clamp(min=0.5 / len(hit_nS))
    everywhere_S = count_S.clamp(min=1).double() / max(rows, 1)
    slope, shift = _fit(
        score_nS.double().flatten(),
        (here_S / everywhere_S).log().expand(len(hit_nS), -1).flatten(),
        hit_nS.flatten(),
        level_n1.double().expand(-1, hit_nS.shape[1]).reshape(-1),
        calibration,
    )
    middle = float(count_S.clamp(min=1).double().log().mean().exp())
    return UnseenScores(max(slope, LEAST_SLOPE), shift, max(1, round(middle)))


def _fit(
    score_m: Tensor, moved_m: Tensor, hit_m: Tensor, level_m: Tensor, calibration: Calibration
) -> tuple[float, float]:
    """Slope and shift of ``z`` with the highest likelihood of the pairs through the link.

    Newton's method with the expected Hessian (Fisher scoring) and a line search, in float64.

    Args:
        moved_m: what comes on top of ``z``.
    """
    input_mc = torch.stack([score_m, torch.ones_like(score_m)], 1)
    hit_m = hit_m.double()
    start_c = torch.tensor([float(calibration.slope), 0.0], dtype=torch.float64)
    ridge_cc = 1e-6 * len(hit_m) * torch.eye(2, dtype=torch.float64)

    def loss(weight_c: Tensor) -> float:
        odds_m = calibration.log_odds(input_mc @ weight_c + moved_m, level_m)
        return float((torch.nn.functional.softplus(odds_m) - hit_m * odds_m).sum())

    def step(weight_c: Tensor) -> Tensor:
        z_m = input_mc @ weight_c + moved_m
        chance_m = calibration.log_odds(z_m, level_m).sigmoid()
        steep_m = calibration.steepness(z_m)
        gradient_c = input_mc.T @ ((chance_m - hit_m) * steep_m)
        spread_m1 = (chance_m * (1 - chance_m) * steep_m.square())[:, None]
        hessian_cc = (input_mc * spread_m1).T @ input_mc + ridge_cc
        return torch.linalg.solve(hessian_cc, gradient_c)

    slope, shift = descend(loss, step, start_c).tolist()
    return slope, shift
