"""One-vs-all probabilistic linear SVM: for each tag a squared-hinge SVM (Fan et al., 2008, LIBLINEAR) and a
sigmoid of its decision values (Platt, 1999).

Shapes: N training images, B queries, D feature size, T tags.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
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
    """``P(tag | x) = 1 / (1 + exp(a (w.x + b) + c))`` of standardised features x."""

    weight_D: np.ndarray
    b: float
    a: float
    c: float


def fit_tag(
    features_ND: np.ndarray, positive_N: np.ndarray, config: SVMConfig, seed: int
) -> TagSVM:
    """Fit one tag against all others.

    A tag with fewer images than folds gets as many folds as it has images. With a single image the sigmoid is
    fitted to the decision values of the training images themselves.

    Args:
        features_ND: float64, standardised, in C order: liblinear takes it without a copy.
        positive_N: bool, the image carries the tag.
        seed: of the solver and the folds.
    """
    # Importing scikit-learn takes a second, which every job would pay: they all read SVMConfig.
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.frozen import FrozenEstimator
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import LinearSVC

    positives = int(positive_N.sum())
    if positives in (0, len(positive_N)):
        sign = -1.0 if positives else 1.0
        return TagSVM(np.zeros(features_ND.shape[1]), 0.0, 0.0, sign * _CERTAIN)
    machine = LinearSVC(
        C=config.C, dual=True, class_weight="balanced", max_iter=config.max_iter, random_state=seed
    )
    folds = min(config.folds, positives, len(positive_N) - positives)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds >= 2:
            split = StratifiedKFold(folds, shuffle=True, random_state=seed)
            whole = CalibratedClassifierCV(machine, method="sigmoid", cv=split, ensemble=False)
        else:
            frozen = FrozenEstimator(machine.fit(features_ND, positive_N))
            whole = CalibratedClassifierCV(frozen, method="sigmoid", ensemble=False)
        whole.fit(features_ND, positive_N)
    found = whole.calibrated_classifiers_[0]
    fitted, sigmoid = found.estimator, found.calibrators[0]
    return TagSVM(fitted.coef_[0], float(fitted.intercept_[0]), sigmoid.a_, sigmoid.b_)


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
    def scores(self, features_BD: Tensor) -> Tensor:
        return torch.addmm(self.bias_T, features_BD.float(), self.weight_TD.T).sigmoid_()
