"""Choose the k tags to predict per image so that expected macro F1 is maximal.

Macro F1 is that of mean precision and mean recall over tags, so that every tag counts alike. The k best
scores do not maximise it. An image with fewer than k relevant tags gets wrong predictions, and mean
precision depends on which tags these are. With calibrated probabilities p the optimal rule predicts the k
tags with the largest ``gain_t p(t | i) + offset_t`` (Schultheis et al., NeurIPS 2023; ICLR 2024,
"Consistent algorithms for multi-label classification with macro-at-k metrics"). The gain is what a hit adds
to the tag's recall and precision; the offset is what a prediction costs its precision. Both depend on how
often the rule itself predicts the tag and is right. They are therefore found by Frank-Wolfe iterations, on
images that the model was not fitted to.

Shapes: n held-out images, T tags, m = n T (image, tag) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.errors import InputError

DECISION = "decision.safetensors"
# A rare tag's statistics are shrunk towards those of this many tags of like training count on either side,
_NEIGHBOURS = 20
# as if their mean had been seen on so many training images of its own.
_PSEUDO_COUNT = 2.0
_ITERATIONS = 40


@dataclass(kw_only=True)
class DecisionConfig:
    """The decision rule: learned from extra fits that each leave out some training rows."""

    fits: int = 0
    """extra fits, each without `held_out` of the rows; 0: the k best scores are predicted, without a rule"""
    held_out: float = 0.1
    """share of the training rows that each extra fit leaves out"""
    images: int = 500
    """images over which expected precision and recall are counted: the fewer, the less a rare tag gains"""
    hit: float = 0.003
    """gain of every correct prediction, where 1 is the whole precision or recall of one tag: more raises \
    overall precision, and lowers N+"""

    def __post_init__(self) -> None:
        if self.fits < 0:
            raise ValueError(f"decision.fits is {self.fits}; it must be 0 or more")
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"decision.held_out is {self.held_out}; it must be in (0, 0.5]")
        if self.fits * self.held_out > 1 + 1e-9:
            raise ValueError(
                f"decision.fits {self.fits} times decision.held_out {self.held_out} is more than all rows; "
                "lower one of them"
            )
        if self.images < 1:
            raise ValueError(f"decision.images is {self.images}; it must be 1 or more")
        if self.hit < 0:
            raise ValueError(f"decision.hit is {self.hit}; it must be 0 or more")


@dataclass(frozen=True)
class DecisionRule:
    """Turns a score into the utility of predicting the tag: ``gain sigmoid(slope score + shift) + offset``.

    The utility grows with the score, so that each tag ranks images as its scores do.

    Args:
        slope: float32 ``[1]``, above 0: calibration of the score.
        shift_T: float32 ``[T]``: calibration of each tag, from its training count.
        gain_T, offset_T: float32 ``[T]``: see the head of this file; gains are above 0.
    """

    slope: Tensor
    shift_T: Tensor
    gain_T: Tensor
    offset_T: Tensor

    def __len__(self) -> int:
        return len(self.shift_T)

    def to(self, device: torch.device) -> DecisionRule:
        return DecisionRule(*(getattr(self, name).to(device) for name in _PARTS))

    def utility(self, score_Bn: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``[B, n]``: utilities of the tags ``tag_n``, of their scores ``[B, n]``."""
        probability_Bn = (
            score_Bn.mul(self.slope.to(score_Bn.dtype)).add_(self.shift_T[tag_n]).sigmoid_()
        )
        return probability_Bn.mul_(self.gain_T[tag_n]).add_(self.offset_T[tag_n])

    def extended(self, old_count_T: Tensor, count_T: Tensor) -> DecisionRule:
        """The rule of a vocabulary that grew at its end.

        A new tag takes the mean of the 20 old tags that are nearest to it in log training count.

        Args:
            old_count_T: int64, training images of the old tags.
            count_T: the same of all tags, the old ones first.
        """
        new_n = count_T[len(self) :]
        if not len(new_n) or not len(self):
            return self
        distance_nT = (
            new_n.clamp(min=1).double().log()[:, None]
            - old_count_T.clamp(min=1).double().log()[None]
        ).abs()
        near_nk = distance_nT.topk(min(_NEIGHBOURS, len(self)), largest=False).indices
        parts = [getattr(self, name) for name in _PARTS[1:]]
        grown = [torch.cat([part_T, part_T[near_nk].mean(1)]) for part_T in parts]
        return DecisionRule(self.slope, *grown)

    def save(self, path: Path, about: dict[str, str] | None = None) -> None:
        """Write the file; ``about`` goes into its header."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _PARTS}
        save_tensors(tensors, path, about)

    @staticmethod
    def load(folder: Path, num_tags: int) -> DecisionRule | None:
        """The rule of a bundle; None where it has none.

        Raises:
            InputError: the rule has another number of tags.
            Exception: what reading a damaged file raises.
        """
        path = folder / DECISION
        if not path.is_file():
            return None
        tensors = load_tensors(path)
        rule = DecisionRule(*(tensors[name] for name in _PARTS))
        shapes = {tuple(getattr(rule, name).shape) for name in _PARTS[1:]}
        if shapes != {(num_tags,)} or rule.slope.shape != (1,):
            raise InputError(f"{path}: a rule for {sorted(shapes)} tags, but there are {num_tags}")
        return rule


_PARTS = ("slope", "shift_T", "gain_T", "offset_T")


def learn_rule(
    score_nT: Tensor, hit_nT: Tensor, count_T: Tensor, rows: int, k: int, config: DecisionConfig
) -> DecisionRule:
    """Learn the rule from held-out images: calibrate their scores, then find gains and offsets.

    Args:
        score_nT: their scores, by a model that was not fitted to them.
        hit_nT: bool, the tag is relevant to the image.
        count_T: int64, training images with each tag.
        rows: training images in all.
        k: tags predicted for each image.
    """
    share_T = image_share(count_T, rows)
    slope, at_zero, on_share = calibrate(score_nT, hit_nT, share_T)
    shift_T = (at_zero + on_share * share_T.log()).float()
    probability_nT = score_nT.float().mul(slope).add_(shift_T).sigmoid_()
    gain_T, offset_T = frank_wolfe(probability_nT, share_T, count_T.double(), k, config)
    return DecisionRule(
        torch.tensor([slope], dtype=torch.float32), shift_T, gain_T.float(), offset_T.float()
    )


def image_share(count_T: Tensor, rows: int) -> Tensor:
    """float64 ``[T]``: share of training images with each tag; a tag without any counts as half an image."""
    return count_T.double().clamp(min=0.5) / rows


def calibrate(score_nT: Tensor, hit_nT: Tensor, share_T: Tensor) -> tuple[float, float, float]:
    """Logistic regression of relevance on score and log share, over all (image, tag) pairs.

    Newton's method with a line search, in float64.

    Returns:
        Slope of the score (kept above 0), constant, slope of the log share.
    """
    columns = [
        score_nT.double().flatten(),
        torch.ones(hit_nT.numel(), dtype=torch.float64),
        share_T.log().expand(hit_nT.shape).flatten(),
    ]
    input_m3 = torch.stack(columns, 1)
    hit_m = hit_nT.flatten().double()
    weight_3 = torch.zeros(3, dtype=torch.float64)
    weight_3[1] = hit_m.mean().clamp(1e-6, 1 - 1e-6).logit()
    ridge_33 = 1e-6 * torch.eye(3, dtype=torch.float64) * len(hit_m)

    def loss(weight_3: Tensor) -> float:
        logit_m = input_m3 @ weight_3
        return float((torch.nn.functional.softplus(logit_m) - hit_m * logit_m).sum())

    now = loss(weight_3)
    for _ in range(50):
        chance_m = (input_m3 @ weight_3).sigmoid()
        gradient_3 = input_m3.T @ (chance_m - hit_m)
        hessian_33 = (input_m3 * (chance_m * (1 - chance_m))[:, None]).T @ input_m3 + ridge_33
        step_3 = torch.linalg.solve(hessian_33, gradient_3)
        size = 1.0
        while (then := loss(weight_3 - size * step_3)) > now and size > 1e-4:
            size /= 2
        if then >= now:
            break
        weight_3, before, now = weight_3 - size * step_3, now, then
        if before - now <= 1e-9 * before:
            break
    slope, constant, on_share = weight_3.tolist()
    return max(slope, 1e-6), constant, on_share


def frank_wolfe(
    probability_nT: Tensor, share_T: Tensor, count_T: Tensor, k: int, config: DecisionConfig
) -> tuple[Tensor, Tensor]:
    """Gains and offsets, float64 ``[T]``, that maximise the expected F1 of mean precision and recall.

    Of ``config.images`` images, M_t carry tag t, and the rule predicts it S_t times with H_t hits. The
    tag's expected precision is ``H/S (1 - exp(-S))`` (0 where it is never predicted). Its recall is ``H/M``
    where it occurs at all, which it does with probability ``1 - exp(-M)`` (Poisson). Statistics of a rare
    tag are shrunk towards those of tags of like count.

    Each iteration takes the best rule for the current gains and offsets, and moves S and H towards its
    statistics by 2 / (iteration + 2) (the usual Frank-Wolfe step).

    Args:
        probability_nT: calibrated probabilities of held-out images.
        share_T: see ``image_share``.
        count_T: float64, training images with each tag.
        k: tags predicted for each image.
    """
    tags = len(share_T)
    expected_T = config.images * share_T
    occurs_T = -torch.expm1(-expected_T)
    own_T = count_T / (count_T + _PSEUDO_COUNT)
    order = share_T.argsort(stable=True)
    scale = config.images / len(probability_nT)
    gain_T, offset_T = expected_T.rsqrt(), torch.zeros_like(expected_T)
    predicted_T, hits_T = torch.zeros_like(expected_T), torch.zeros_like(expected_T)
    for iteration in range(_ITERATIONS):
        utility_nT = probability_nT * gain_T.float() + offset_T.float()
        best_nk = utility_nT.topk(min(k, tags), dim=1).indices
        now_predicted_T = torch.bincount(best_nk.flatten(), minlength=tags).double()
        now_hits_T = torch.zeros_like(expected_T).index_add_(
            0, best_nk.flatten(), probability_nT.gather(1, best_nk).flatten().double()
        )
        step = 2 / (iteration + 2)
        for total_T, now_T in ((predicted_T, now_predicted_T), (hits_T, now_hits_T)):
            like_T = (
                expected_T
                * _neighbourhood(now_T * scale, order)
                / _neighbourhood(expected_T, order)
            )
            drawn_T = own_T * now_T * scale + (1 - own_T) * like_T
            total_T.lerp_(drawn_T, step)
        gain_T, offset_T = _slopes(predicted_T, hits_T, expected_T, occurs_T, config.hit)
    return gain_T, offset_T


def _slopes(
    predicted_T: Tensor, hits_T: Tensor, expected_T: Tensor, occurs_T: Tensor, hit: float
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
    gain_T = on_recall * occurs_T / expected_T + on_precision * ever_T / predicted_T + hit
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
