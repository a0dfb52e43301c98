"""Probabilities of tags that no training image has.

Their rows come from their names (``model/name_map.py``). How far such scores can be trusted is learned by
leaving tags out: each tag with images is given the row that it would have if nothing but its name were known,
and these rows score images whose tags are known. Logistic regression over the pairs, through the model's own
link from ``z`` to log odds, every tag weighing alike, gives

    z = a score + e log share + b

of which a is the slope of unseen tags. **What is assumed of how often an unseen tag occurs**: share is the
geometric mean of the shares of training images of the tags that were left out, so that it is taken to be as
frequent as a tag of the middle. Rare tags then get probabilities that are too high, frequent ones too low.

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
        shift: e log share + b, at the share that is assumed.
        count: training images that a tag of that share has, 1 or more.
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
        hit_nS: bool, the tag is the image's. The images may have more of rare tags than others have: their
            own shares tell frequent from rare here.
        level_n1: of the images, by all tags of the model (``calibration.level``).
        count_S: int64, training images of the tags.
        rows: training images in all.
        calibration: the model's.
    """
    share_S = hit_nS.double().mean(0).clamp(min=0.5 / len(hit_nS))
    log_share_nS = share_S.log().expand(len(hit_nS), -1)
    slope, on_share, constant = _fit(
        torch.stack([score_nS.double(), log_share_nS], -1).flatten(0, 1),
        hit_nS.flatten(),
        level_n1.double().expand(-1, hit_nS.shape[1]).reshape(-1),
        calibration,
    )
    middle = float(count_S.clamp(min=1).double().log().mean().exp())
    shift = on_share * float(torch.tensor(middle / max(rows, 1)).log()) + constant
    return UnseenScores(max(slope, LEAST_SLOPE), shift, max(1, round(middle)))


def _fit(
    input_mc: Tensor, hit_m: Tensor, level_m: Tensor, calibration: Calibration
) -> tuple[float, float, float]:
    """Weights and constant of ``z`` with the highest likelihood of the pairs through the link.

    Newton's method with the expected Hessian (Fisher scoring) and a line search, in float64.
    """
    input_mc = torch.cat([input_mc, torch.ones(len(input_mc), 1, dtype=torch.float64)], 1)
    hit_m = hit_m.double()
    weight_c = torch.tensor([float(calibration.slope), 1.0, 0.0], dtype=torch.float64)
    ridge_cc = 1e-6 * len(hit_m) * torch.eye(3, dtype=torch.float64)

    def loss(weight_c: Tensor) -> float:
        odds_m = calibration.log_odds(input_mc @ weight_c, level_m)
        return float((torch.nn.functional.softplus(odds_m) - hit_m * odds_m).sum())

    def step(weight_c: Tensor) -> Tensor:
        z_m = input_mc @ weight_c
        chance_m = calibration.log_odds(z_m, level_m).sigmoid()
        steep_m = calibration.steepness(z_m)
        gradient_c = input_mc.T @ ((chance_m - hit_m) * steep_m)
        spread_m1 = (chance_m * (1 - chance_m) * steep_m.square())[:, None]
        hessian_cc = (input_mc * spread_m1).T @ input_mc + ridge_cc
        return torch.linalg.solve(hessian_cc, gradient_c)

    slope, on_share, constant = descend(loss, step, weight_c).tolist()
    return slope, on_share, constant
