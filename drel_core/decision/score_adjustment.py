"""What comes on top of the towers' scores: frequency prior, kernel evidence, calibration.

Tags of image i are ordered by ``y_t . x_i + bias_t + prior_t + evidence(i, t)``, and where there is a
calibration by its ``z`` of that. Validation in training and ``DRELAnnotator`` both compute it here.

Shapes: B images, D feature size, L latent size, T tags, n some of the tags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.model.towers import DREL

AdjustScores = Callable[[Tensor, Tensor | slice], Tensor]
"""Takes scores ``[B, n]``, which it may overwrite, and the tags they belong to; gives what orders tags."""


@dataclass(frozen=True)
class ScoreAdjustment:
    """Prior, kernel and decider of one model.

    Args:
        prior_T: float32, log of each tag's training frequency times its weight (``prior_bias``).
        kernel: its evidence is added to the scores; None adds nothing.
        decider: its calibration comes last; None leaves the scores as they are.
    """

    prior_T: Tensor
    kernel: KernelHead | None = None
    decider: Decider | None = None

    @staticmethod
    def load(folder: Path, prior_T: Tensor, image_dim: int) -> ScoreAdjustment:
        """With the kernel and the decider of a bundle, where it has them.

        Raises:
            InputError: they are of other features or other tags.
            Exception: what reading damaged files raises.
        """
        tags = len(prior_T)
        return ScoreAdjustment(
            prior_T, KernelHead.load(folder, image_dim, tags), Decider.load(folder, tags)
        )

    def save(self, folder: Path) -> None:
        """Write kernel and decider. The prior is not written: it follows from the vocabulary's counts."""
        if self.kernel is not None:
            self.kernel.save(folder / KERNEL)
        if self.decider is not None:
            self.decider.save(folder / DECISION)

    def to(self, device: torch.device) -> ScoreAdjustment:
        return ScoreAdjustment(
            self.prior_T.to(device),
            None if self.kernel is None else self.kernel.to(device),
            None if self.decider is None else self.decider.to(device),
        )

    def without_calibration(self) -> ScoreAdjustment:
        """What is left to do where encoded tags have the calibration in them (``folded``): the kernel's
        evidence."""
        if self.decider is None:
            return self
        kernel = self.kernel
        if kernel is not None:
            kernel = replace(kernel, factor=kernel.factor * self.decider.calibration.slope)
        return replace(self, kernel=kernel, decider=None)

    def add_prior(self, tag_nL1: Tensor, tag_n: Tensor | slice) -> None:
        """Add the prior of some tags to their bias, the last column, in place."""
        tag_nL1[:, -1] += self.prior_T[tag_n]

    def for_images(self, model: DREL, features_BD: Tensor) -> AdjustScores:
        """The function that adjusts the scores of some images, given with the prior in them.

        Args:
            model: standardises features for the kernel.
            features_BD: raw features.
        """
        kernel, decider = self.kernel, self.decider
        kernel_BR = None if kernel is None else kernel.kernel(model.standardised(features_BD))

        def adjust(score_Bn: Tensor, tag_n: Tensor | slice) -> Tensor:
            if kernel is not None and kernel_BR is not None:
                score_Bn += kernel.evidence(kernel_BR, tag_n)
            return score_Bn if decider is None else decider.calibration.order(score_Bn, tag_n)

        return adjust


def folded(tag_nL1: Tensor, decider: Decider | None, tag_n: Tensor | slice = slice(None)) -> Tensor:
    """Encoded tags ``[n, L + 1]``, the bias last, with the calibration of their scores in them.

    Args:
        tag_n: which tags they are.
    """
    if decider is None:
        return tag_nL1
    slope_n = decider.calibration.slope_of(tag_n)
    tag_nL1 = tag_nL1 * slope_n[:, None]
    tag_nL1[:, -1] += decider.calibration.shift_T[tag_n]
    return tag_nL1
