"""How much each of several features columns counts in the kernel's distances.

Columns differ in D and in how many of their features vary, so that of two the wider one would decide alone.
Each is scaled to a share of the mean squared distance between images, and a few shares are tried: the best
one has the smallest squared error on rows that it leaves out, in closed form.

Shapes: N images, D feature size of all columns together, T tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drel_core.decision.kernel import (
    KernelConfig,
    gaussian,
    median_square_distance,
    principal_basis,
    project,
)

ROWS = 1500
"""Most images that shares are chosen by: of all 4,500 of Corel5k the same ones are best."""
_LEADS = (0.65, 0.8)  # beside equal shares: one column leads, the others share the rest


@dataclass(frozen=True)
class Scale:
    """What standardised features are multiplied with before distances are taken.

    Args:
        shares: of the mean squared distance, one a column; they add up to 1.
        scale_D: float32.
    """

    shares: tuple[float, ...]
    scale_D: Tensor

    @staticmethod
    def of(input_ND: Tensor, dims: Sequence[int], shares: Sequence[float]) -> Scale:
        """That of some images' standardised features.

        Args:
            dims: D of each column.
        """
        parts = input_ND.split(list(dims), dim=1)
        spread = [float(part.double().var(0, correction=0).sum()) for part in parts]
        factors = [
            (share * len(dims) / size) ** 0.5 if size > 1e-9 else 0.0  # the same in all images
            for share, size in zip(shares, spread, strict=True)
        ]
        # The overall size does not matter to the kernel, whose sharpness follows from the median distance.
        scale_B = input_ND.new_tensor(factors) * (sum(spread) / len(dims)) ** 0.5
        return Scale(
            tuple(shares), scale_B.repeat_interleave(torch.tensor(dims).to(scale_B.device))
        )

    def basis(self, input_ND: Tensor, dims: int) -> Tensor:
        """``[D, d]``: scale, then principal components (``principal_basis``); scale alone where these are
        left out."""
        basis_Dd = principal_basis(input_ND * self.scale_D, dims)
        if basis_Dd is None:
            return torch.diag(self.scale_D)
        return self.scale_D[:, None] * basis_Dd


def candidates(columns: int) -> list[tuple[float, ...]]:
    """The shares that are tried, equal ones first."""
    tried = [(1 / columns,) * columns]
    for lead in _LEADS:
        rest = (1 - lead) / (columns - 1)
        tried += [
            tuple(lead if place == first else rest for place in range(columns))
            for first in range(columns)
        ]
    return tried


def choose_shares(
    input_ND: Tensor, relevant_NT: Tensor, dims: Sequence[int], config: KernelConfig
) -> tuple[float, ...]:
    """The shares whose regression makes the smallest squared error on images that it leaves out; of equals
    the first.

    Args:
        input_ND: standardised features of training images.
        relevant_NT: bool, the tags that they carry.
        dims: D of each column.
    """
    tried = candidates(len(dims))
    errors = [
        _left_out_error(
            project(input_ND, Scale.of(input_ND, dims, shares).basis(input_ND, config.dims)),
            relevant_NT,
            config,
        )
        for shares in tried
    ]
    return tried[errors.index(min(errors))]


def _left_out_error(input_Nd: Tensor, relevant_NT: Tensor, config: KernelConfig) -> float:
    """Mean squared error of kernel ridge regression on each image without it, over images.

    In closed form: with ``A = (K + ridge)^-1`` the error of image i is ``(A Y)_i / A_ii`` (Allen, 1974).
    """
    kernel_NN = gaussian(input_Nd, input_Nd, config.width / median_square_distance(input_Nd))
    system_NN = kernel_NN.double()
    system_NN.diagonal().add_(config.ridge)
    inverse_NN = torch.cholesky_inverse(torch.linalg.cholesky(system_NN))
    target_NT = relevant_NT.double()
    target_NT -= target_NT.mean(0)
    error_NT = (inverse_NN @ target_NT) / inverse_NN.diagonal()[:, None]
    return float(error_NT.square().sum(1).mean())
