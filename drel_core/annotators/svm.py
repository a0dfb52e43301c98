"""One-vs-all probabilistic linear SVM: for each tag a squared-hinge SVM (Fan et al., 2008, LIBLINEAR) and a
sigmoid of its decision values (Platt, 1999).

Shapes: N training images, B queries, D feature size, T tags.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drel_core.annotators.base import DenseScores
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.errors import InputError

_CERTAIN = 20.0  # log odds of a tag that every training image has, or none
_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(kw_only=True)
class SVMConfig:
    """How each tag's SVM is fitted."""

    C: float = 0.0001
    """weight of the training errors against the margin"""
    folds: int = 3
    """folds whose held-out decision values the sigmoid is fitted on"""
    max_rows: int = 100_000
    """most training images used, which bounds memory: a task needs about 24 bytes per feature of each"""
    max_iter: int = 1000
    """most iterations of the solver"""
    max_hours: float = 0.0
    """longest that fitting all tags may take, judged by the time of one; 0: no limit"""

    def __post_init__(self) -> None:
        if self.C <= 0:
            raise ValueError(f"svm.C is {self.C}; it must be above 0")
        if self.max_hours < 0:
            raise ValueError(f"svm.max_hours is {self.max_hours}; it must be 0 (no limit) or more")
        for name, least in (("folds", 2), ("max_rows", 2), ("max_iter", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"svm.{name} is {getattr(self, name)}; it must be {least} or more")


@dataclass(frozen=True)
class TagSVM:
    """``P(tag | x) = 1 / (1 + exp(a (w.x + b) + c))`` of standardised features x.

    Args:
        odds_n: float32 log odds of some training images, by machines and sigmoids that were fitted without
            them.
    """

    weight_D: np.ndarray
    b: float
    a: float
    c: float
    odds_n: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))


def fit_tag(
    features_ND: np.ndarray,
    positive_N: np.ndarray,
    config: SVMConfig,
    seed: int,
    sample_n: np.ndarray = _NO_ROWS,
) -> TagSVM:
    """Fit one tag against all others.

    The sigmoid is fitted to decision values of folds that were left out. A tag with fewer images than folds
    gets as many folds as it has images. With a single image there are no folds: the sigmoid is fitted to the
    decision values of the training images themselves.

    Args:
        features_ND: float64, standardised, in C order: liblinear takes it without a copy.
        positive_N: bool, the image carries the tag.
        seed: of the solver and the folds.
        sample_n: images whose ``odds_n`` are kept.
    """
    # Importing scikit-learn takes a second, which every job would pay: they all read SVMConfig.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.svm import LinearSVC

    count, positives = len(positive_N), int(positive_N.sum())
    if positives in (0, count):
        odds = _CERTAIN if positives else -_CERTAIN
        always_n = np.full(len(sample_n), odds, dtype=np.float32)
        return TagSVM(np.zeros(features_ND.shape[1]), 0.0, 0.0, -odds, always_n)
    machine = LinearSVC(
        C=config.C, dual=True, class_weight="balanced", max_iter=config.max_iter, random_state=seed
    )
    folds = min(config.folds, positives, count - positives)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(features_ND, positive_N)
        if folds >= 2:
            split = StratifiedKFold(folds, shuffle=True, random_state=seed)
            value_N = cross_val_predict(
                machine, features_ND, positive_N, cv=split, method="decision_function"
            )
        else:
            value_N = machine.decision_function(features_ND)
    a, c = fit_sigmoid(value_N, positive_N)
    odds_N = -(a * value_N + c)
    if folds >= 2 and len(sample_n):
        # The sigmoid as well must not have seen the image: of a rare tag it is fitted to few.
        for rest, fold in split.split(features_ND, positive_N):
            a_fold, c_fold = fit_sigmoid(value_N[rest], positive_N[rest])
            odds_N[fold] = -(a_fold * value_N[fold] + c_fold)
    odds_n = odds_N[sample_n]
    if folds < 2:
        # Without its only image nothing would be known of the tag: Platt's estimate from no image at all. The
        # others' values hardly depend on themselves.
        odds = math.log(count + 1)
        alone_n = positive_N[sample_n] == (positives == 1)
        odds_n[alone_n] = -odds if positives == 1 else odds
    return TagSVM(machine.coef_[0], float(machine.intercept_[0]), a, c, odds_n.astype(np.float32))


def fit_sigmoid(value_N: np.ndarray, positive_N: np.ndarray) -> tuple[float, float]:
    """a and c of ``P = 1 / (1 + exp(a value + c))`` (Platt, 1999), by Newton's method (Lin et al., 2007, "A
    note on Platt's probabilistic outputs").

    Args:
        value_N: float64 decision values.
        positive_N: bool, of both kinds.
    """
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    target_N = np.where(positive_N, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale = float(np.abs(value_N).max()) or 1.0
    input_N2 = np.stack([value_N / scale, np.ones(len(value_N))], 1)

    def loss(weight_2: np.ndarray) -> float:
        input_N = input_N2 @ weight_2
        return float((target_N * input_N + np.logaddexp(0, -input_N)).sum())

    weight_2 = np.array([0.0, math.log((negatives + 1) / (positives + 1))])
    now = loss(weight_2)
    for _ in range(100):
        chance_N = np.exp(-np.logaddexp(0, input_N2 @ weight_2))
        gradient_2 = input_N2.T @ (target_N - chance_N)
        if np.abs(gradient_2).max() < 1e-9:
            break
        spread_N1 = (chance_N * (1 - chance_N))[:, None]
        # Equal values leave a without meaning: the small number keeps the matrix regular.
        hessian_22 = (input_N2 * spread_N1).T @ input_N2 + 1e-12 * np.eye(2)
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        size = 1.0
        while (then := loss(weight_2 - size * step_2)) > now and size > 1e-10:
            size /= 2
        if then >= now:
            break
        weight_2, now = weight_2 - size * step_2, then
    return float(weight_2[0]) / scale, float(weight_2[1])


class SVMAnnotator(DenseScores):
    """Probabilities of all tags from one matmul.

    Args:
        weight_TD, bias_T: decision value ``weight . x + bias`` of standardised features x.
        slope_T, offset_T: a and c of each tag's sigmoid, see ``TagSVM``.
        mean_D, std_D: statistics that standardise raw features.
    """

    name = "svm"

    def __init__(
        self,
        weight_TD: Tensor,
        bias_T: Tensor,
        slope_T: Tensor,
        offset_T: Tensor,
        mean_D: Tensor,
        std_D: Tensor,
    ) -> None:
        self.tensors = {
            "weight": weight_TD,
            "bias": bias_T,
            "slope": slope_T,
            "offset": offset_T,
            "mean": mean_D,
            "std": std_D,
        }
        self.num_tags, self.image_dim = weight_TD.shape
        # Standardisation, decision value and the sigmoid's argument as one matrix and one vector.
        scaled_TD = weight_TD.double() / std_D.double()
        bias = bias_T.double() - scaled_TD @ mean_D.double()
        self.weight_TD = (-slope_T.double()[:, None] * scaled_TD).float()
        self.bias_T = (-slope_T.double() * bias - offset_T.double()).float()
        self.vocabulary = Vocabulary((), np.zeros(0))
        self.info = BundleInfo(self.name)

    @classmethod
    def of(cls, machines: list[TagSVM], mean_D: np.ndarray, std_D: np.ndarray) -> SVMAnnotator:
        weight_TD = torch.from_numpy(np.stack([m.weight_D for m in machines])).float()
        b_T, a_T, c_T = torch.tensor([(m.b, m.a, m.c) for m in machines]).T.contiguous()
        return cls(weight_TD, b_T, a_T, c_T, torch.tensor(mean_D), torch.tensor(std_D))

    def save(self, folder: Path) -> None:
        save_tensors(
            {k: v.contiguous() for k, v in self.tensors.items()}, folder / "svm.safetensors"
        )

    @classmethod
    def load(cls, folder: Path, info: BundleInfo, vocabulary: Vocabulary) -> SVMAnnotator:
        held = load_tensors(folder / "svm.safetensors")
        names = {
            "weight_TD": "weight",
            "bias_T": "bias",
            "slope_T": "slope",
            "offset_T": "offset",
            "mean_D": "mean",
            "std_D": "std",
        }
        rows = held["weight"].shape[:1]
        if any(held[key].shape != rows for key in ("bias", "slope", "offset")):
            raise InputError(f"{folder}: weights and biases of other numbers of tags")
        annotator = cls(**{name: held[key] for name, key in names.items()})
        if annotator.num_tags != len(vocabulary):
            raise InputError(
                f"{folder}: machines of {annotator.num_tags} tags for {len(vocabulary)} tags"
            )
        annotator.vocabulary, annotator.info = vocabulary, info
        return annotator

    @torch.inference_mode()
    def log_scores(self, features_BD: Tensor) -> Tensor:
        margin_BT = torch.addmm(self.bias_T, features_BD.float(), self.weight_TD.T)
        # The sigmoid of an infinite margin would be a probability like any other.
        margin_BT[~torch.isfinite(margin_BT.sum(1))] = torch.nan
        return margin_BT

    def plain_scores(self, features_BD: Tensor) -> Tensor:
        return self.log_scores(features_BD).sigmoid_()
