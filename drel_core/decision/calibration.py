"""From scores to probabilities that a tag belongs to an image.

A loss over triplets leaves scores free to move up and down with the image and with how common the tag is.
Logistic regression over (image, tag) pairs that the model was not fitted to settles both (Platt, 1999), in
two steps. The first weighs score, kernel evidence and the log of the tag's share of images into ``z``. The
second knows the image as well: the log-sum-exp of its best ``z`` is high where many tags compete, and two
bends let low, middling and high odds have slopes of their own.

Shapes: B images, n held-out images, M candidate tags of each, T tags, m = n M pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from drel_core.decision.held_out import HeldOut

LEVEL_TAGS = 32
"""The best tags of an image whose log-sum-exp is its level."""
KNOTS = (-1.0, 1.0)
"""The ``z`` at which the slope of the log odds changes, smoothly."""
_LEAST_SLOPE = 1e-3
_NEIGHBOURS = 20


@dataclass(frozen=True)
class Calibration:
    """``log odds = link . (z, level, softplus(z + 1), softplus(z - 1), 1)`` with ``z = slope score + shift``.

    ``z`` orders the tags of an image; what is added is the same for all of them or grows with it.

    Args:
        slope: float32 ``[1]``, above 0.
        shift_T: float32 ``[T]``: of each tag, from its share of training images.
        link: float32 ``[5]``; ``[4]`` where there is one bend, at the first of ``KNOTS``.
        slope_T: float32 ``[T]``, where tags without images have slopes of their own; else None.
    """

    slope: Tensor
    shift_T: Tensor
    link: Tensor
    slope_T: Tensor | None = None

    def __len__(self) -> int:
        return len(self.shift_T)

    def to(self, device: torch.device) -> Calibration:
        return Calibration(
            self.slope.to(device),
            self.shift_T.to(device),
            self.link.to(device),
            None if self.slope_T is None else self.slope_T.to(device),
        )

    @cached_property
    def _link(self) -> list[float]:
        weights: list[float] = self.link.tolist()
        return weights

    def slope_of(self, tag_n: Tensor | slice) -> Tensor:
        """float32 ``[n]``, or ``[1]`` where all tags have the same."""
        return self.slope if self.slope_T is None else self.slope_T[tag_n]

    def order(self, score_Bn: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``z`` ``[B, n]`` of scores, which it may overwrite, of the tags ``tag_n``."""
        slope_n = self.slope_of(tag_n).to(score_Bn.dtype)
        return score_Bn.mul_(slope_n).add_(self.shift_T[tag_n])

    def log_odds(self, z_BM: Tensor, level_B1: Tensor) -> Tensor:
        """``[B, M]`` of ``z``, which stays as it is."""
        a, b, *bends, constant = self._link
        odds_BM = z_BM * a
        for knot, bend in zip(KNOTS, bends, strict=False):
            if bend:
                odds_BM.add_(softplus(z_BM - knot), alpha=bend)
        return odds_BM.add_(level_B1 * b + constant)

    def steepness(self, z_BM: Tensor) -> Tensor:
        """``[B, M]``: the derivative of ``log_odds`` in ``z``."""
        a, _, *bends, _ = self._link
        slope_BM = torch.full_like(z_BM, a)
        for knot, bend in zip(KNOTS, bends, strict=False):
            slope_BM.add_((z_BM - knot).sigmoid(), alpha=bend)
        return slope_BM

    def probability(self, z_BM: Tensor, level_B1: Tensor) -> Tensor:
        """``[B, M]`` of ``z``, which stays as it is."""
        return self.log_odds(z_BM, level_B1).sigmoid_()

    def probability_of_one(self, z_M: np.ndarray, k: int) -> np.ndarray:
        """``[k]`` of the k best tags of one image: ``probability`` without torch, each of whose operations
        takes longer to begin than all this takes.

        Args:
            z_M: its best tags, best first.
        """
        a, b, *bends, constant = self._link
        best_m, z_k = z_M[:LEVEL_TAGS], z_M[:k]
        with np.errstate(all="ignore"):
            its_level = float(np.log(np.exp(best_m - best_m[0]).sum()) + best_m[0])
            odds_k = z_k * a
            for knot, bend in zip(KNOTS, bends, strict=False):
                if bend:
                    odds_k += np.logaddexp(0, z_k - knot, dtype=z_k.dtype) * bend
            odds_k += its_level * b + constant
            probability_k: np.ndarray = 1 / (1 + np.exp(-odds_k))
        return probability_k

    def moved(self, factor: float, offset: float) -> Calibration:
        """That of scores ``s`` where ``factor s + offset`` are like those that this one was learned from."""
        slope_T = None if self.slope_T is None else self.slope_T * factor
        shift_T = self.shift_T + self.slope_of(slice(None)) * offset
        return replace(self, slope=self.slope * factor, shift_T=shift_T, slope_T=slope_T)

    def extended(self, old_count_T: Tensor, count_T: Tensor) -> Calibration:
        """That of a vocabulary that grew at its end, or got images of tags that had none: see
        ``extend_by_count``."""
        slope_T = self.slope_T
        if slope_T is not None:
            slope_T = torch.cat([slope_T, self.slope.expand(len(count_T) - len(slope_T))])
            slope_T = torch.where(is_new(old_count_T, count_T), self.slope, slope_T)
            if bool((slope_T == self.slope).all()):
                slope_T = None
        shift_T = extend_by_count(self.shift_T, old_count_T, count_T)
        return Calibration(self.slope, shift_T, self.link, slope_T)


def level(z_BM: Tensor) -> Tensor:
    """``[B, 1]``: log-sum-exp of each image's best tags, which come first."""
    # torch.logsumexp looks for the largest and for infinite ones first: of 32 numbers, most of its time.
    largest_B1 = z_BM[:, :1]
    return (z_BM[:, :LEVEL_TAGS] - largest_B1).exp_().sum(1, keepdim=True).log_().add_(largest_B1)


def is_new(old_count_T: Tensor, count_T: Tensor) -> Tensor:
    """bool ``[T]``: tags that a grown vocabulary has and the old one has not, and those that had no image
    before and have one now.

    Args:
        old_count_T: training images of the old tags.
        count_T: of all tags, the old ones first.
    """
    new_T = torch.ones(len(count_T), dtype=torch.bool)
    new_T[: len(old_count_T)] = (old_count_T == 0) & (count_T[: len(old_count_T)] > 0)
    return new_T


def extend_by_count(
    value_T: Tensor, old_count_T: Tensor, count_T: Tensor, by_ratio: bool = False
) -> Tensor:
    """Values of a vocabulary that grew at its end, or some of whose tags are on more images now.

    A new tag takes the mean of the 20 tags with images that are nearest to it in log training count; of all
    old tags where none has any. A tag that had images before moves as that mean does from its old count to
    the new one: else a tag that came with one image would for ever be treated as one that is on one image.

    Args:
        value_T: of the old tags.
        old_count_T: int64, their training images.
        count_T: the same of all tags, the old ones first.
        by_ratio: of values that are multiplied from count to count, and keep their sign; else a difference
            is added.
    """
    old, new_T = len(value_T), is_new(old_count_T, count_T)
    grown_g = ((count_T[:old] != old_count_T) & ~new_T[:old]).nonzero()[:, 0]
    if not old or not (len(grown_g) or bool(new_T.any())):
        return value_T
    seen_T = old_count_T > 0
    if not bool(seen_T.any()):
        seen_T = torch.ones_like(seen_T)
    known = value_T[seen_T], old_count_T[seen_T]
    grown_T = torch.cat([value_T, value_T.new_zeros(len(count_T) - old)])
    own_g = (seen_T.cumsum(0) - 1)[grown_g]
    before_g = _mean_at(*known, old_count_T[grown_g], own_g)
    after_g = _mean_at(*known, count_T[grown_g], own_g)
    if by_ratio:
        ratio_g = torch.where(before_g * after_g > 0, after_g / before_g, 1.0)
        grown_T[grown_g] *= ratio_g
    else:
        grown_T[grown_g] += after_g - before_g
    grown_T[new_T] = _mean_at(*known, count_T[new_T])
    return grown_T


def _mean_at(value_T: Tensor, count_T: Tensor, at_n: Tensor, own_n: Tensor | None = None) -> Tensor:
    """``[n]``: mean value of the 20 tags that are nearest in log count to each of some counts.

    Args:
        own_n: the tag that asks, which is none of the 20.
    """
    log_T, order = count_T.clamp(min=1).double().log().sort(stable=True)
    log_n = at_n.clamp(min=1).double().log()
    k = min(_NEIGHBOURS, len(value_T) - (own_n is not None))
    if not k:
        return value_T.new_zeros(len(at_n))
    place_n = torch.searchsorted(log_T, log_n)
    # The k nearest lie within k places of where a tag of that count would stand, itself left out.
    place_nw = place_n[:, None] + torch.arange(-k - 1, k + 1)
    near_nw = place_nw.clamp(0, len(log_T) - 1)
    distance_nw = (log_T[near_nw] - log_n[:, None]).abs()
    distance_nw[(place_nw < 0) | (place_nw >= len(log_T))] = torch.inf
    if own_n is not None:
        distance_nw[order[near_nw] == own_n[:, None]] = torch.inf
    near_nk = near_nw.gather(1, distance_nw.topk(k, largest=False).indices)
    # In one order: the same 20 have the same mean to the last bit.
    return value_T[order[near_nk.sort(1).values]].mean(1)


@dataclass(frozen=True)
class Fitted:
    """A calibration, the weight of kernel evidence that goes with it, and what it says of the images that
    it was fitted to.

    Attributes:
        kernel_factor: what the log of kernel estimates is multiplied by before it is added to scores; None
            without a kernel, and where it says too little beside the scores.
        kernel_gain: the share of the loss without the kernel that it saves; None without one.
        tag_nM, hit_nM: the candidates in order of their probability.
        probability_nM: float64.
    """

    calibration: Calibration
    kernel_factor: float | None
    kernel_gain: float | None
    tag_nM: Tensor
    hit_nM: Tensor
    probability_nM: Tensor


def fit_calibration(held: HeldOut, share_T: Tensor, least_gain: float = 0.0) -> Fitted:
    """Fit both steps to held-out images.

    Args:
        held: of which something can be learned, see ``HeldOut.says_nothing``.
        share_T: float64, see ``tag_share``.
        least_gain: the share of the loss that the kernel must save, else it is left out: it then hardly
            orders the tags of an image better, and would cost each image its distances to all landmarks; with
            0 it stays.
    """
    hit_m = held.hit_nM.flatten().double()
    log_share_nM = share_T.log()[held.tag_nM]
    columns = [held.score_nM.double(), log_share_nM]
    weights, loss = _logistic(columns, hit_m)
    factor = gain = None
    if held.evidence_nM is not None:
        evidence_nM = held.evidence_nM.double()
        both, loss_of_both = _logistic([*columns, evidence_nM], hit_m)
        gain = 1 - loss_of_both / loss
        if gain >= least_gain:
            weights = both
            factor = max(both[2], 0.0) / max(both[0], _LEAST_SLOPE)
    slope, on_share, constant = max(weights[0], _LEAST_SLOPE), weights[1], weights[-1]
    z_nM = slope * columns[0] + on_share * log_share_nM + constant
    if factor is not None:
        z_nM += slope * factor * evidence_nM
    z_nM, order = z_nM.sort(dim=1, descending=True, stable=True)
    hit_nM = held.hit_nM.gather(1, order)
    link = _fit_link(z_nM, hit_nM)
    calibration = Calibration(
        torch.tensor([slope], dtype=torch.float32),
        (constant + on_share * share_T.log()).float(),
        torch.tensor(link, dtype=torch.float32),
    )
    return Fitted(
        calibration,
        factor,
        gain,
        held.tag_nM.gather(1, order),
        hit_nM,
        calibration.probability(z_nM, level(z_nM)),
    )


def _fit_link(z_nM: Tensor, hit_nM: Tensor) -> list[float]:
    """``link`` of a calibration: odds must grow with ``z``, else simpler forms are taken."""
    hit_m = hit_nM.flatten().double()
    level_nM = level(z_nM).expand_as(z_nM)
    at_g = torch.linspace(-20, 20, 401, dtype=torch.float64)  # beyond its ends the slope stays
    for count in range(len(KNOTS), -1, -1):
        knots = KNOTS[:count]
        bent = [softplus(z_nM - knot) for knot in knots]
        (a, b, *bends, constant), _ = _logistic([z_nM, level_nM, *bent], hit_m)
        slope_g = torch.full_like(at_g, a)
        for knot, bend in zip(knots, bends, strict=True):
            slope_g += bend * (at_g - knot).sigmoid()
        if float(slope_g.min()) > 0:
            return [a, b, *bends, *[0.0] * (len(KNOTS) - count), constant]
    return [1.0, *[0.0] * (len(KNOTS) + 2)]


def _logistic(columns: list[Tensor], hit_m: Tensor) -> tuple[list[float], float]:
    """Weights of a logistic regression on the columns, then its constant; and its loss.

    Newton's method with a line search, in float64.
    """
    input_mc = torch.stack(
        [*(column.flatten().double() for column in columns), torch.ones_like(hit_m)], 1
    )
    weight_c = torch.zeros(input_mc.shape[1], dtype=torch.float64)
    weight_c[-1] = hit_m.mean().clamp(1e-6, 1 - 1e-6).logit()
    # A ridge of a millionth keeps the weights finite where hits and misses can be told apart in full.
    ridge_cc = 1e-6 * len(hit_m) * torch.eye(len(weight_c), dtype=torch.float64)

    def loss(weight_c: Tensor) -> float:
        odds_m = input_mc @ weight_c
        penalty = 0.5 * float(weight_c @ ridge_cc @ weight_c)
        return float((softplus(odds_m) - hit_m * odds_m).sum()) + penalty

    def step(weight_c: Tensor) -> Tensor:
        chance_m = (input_mc @ weight_c).sigmoid()
        gradient_c = input_mc.T @ (chance_m - hit_m) + ridge_cc @ weight_c
        spread_m1 = (chance_m * (1 - chance_m))[:, None]
        hessian_cc = (input_mc * spread_m1).T @ input_mc + ridge_cc
        return torch.linalg.solve(hessian_cc, gradient_c)

    weight_c = descend(loss, step, weight_c)
    return weight_c.tolist(), loss(weight_c)


def descend(
    loss: Callable[[Tensor], float], step: Callable[[Tensor], Tensor], weight_c: Tensor
) -> Tensor:
    """The weights from which Newton's steps, halved as long as the loss would rise, lead no further down.

    Args:
        step: what to subtract from weights, ``Hessian^-1 gradient``.
        weight_c: where to begin.
    """
    now = loss(weight_c)
    for _ in range(50):
        step_c = step(weight_c)
        size = 1.0
        while (then := loss(weight_c - size * step_c)) > now and size > 1e-4:
            size /= 2
        if then >= now:
            break
        weight_c, before, now = weight_c - size * step_c, now, then
        if before - now <= 1e-9 * before:
            break
    return weight_c
