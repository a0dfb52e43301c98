"""Kernel ridge regression of tags on features, in closed form, beside the towers.

What near training images carry is strong evidence where few images carry a tag; towers with dropout blur it.
Regression weights live on R landmarks (Nystrom; Rudi et al., 2015), so that a store of any size gives a model
of bounded size: annotating costs R D + R T an image.

Shapes: B images, D feature size, R landmarks, T tags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from drel_core.errors import InputError
from drel_core.safe_loading import load_tensors

KERNEL = "kernel.safetensors"
_BLOCK = 1024


@dataclass(kw_only=True)
class KernelConfig:
    """Kernel ridge regression beside the towers."""

    landmarks: int = 0
    """training images that its weights live on, at most; 0 leaves it out"""
    width: float = 3.0
    """sharpness of the Gaussian kernel `exp(-width d^2 / m)`, m the median of d^2 between landmarks"""
    ridge: float = 0.3
    """penalty on the weights"""
    factor: float = 3.0
    """what the log of its estimates counts beside the towers' score"""

    def __post_init__(self) -> None:
        if self.landmarks < 0:
            raise ValueError(f"kernel.landmarks is {self.landmarks}; it must be 0 or more")
        for name in ("width", "ridge", "factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"kernel.{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class KernelHead:
    """A fitted regression. It takes features as the model standardises them.

    Args:
        landmark_RD: standardised features of the landmarks.
        sharpness: float32 ``[1]``, ``width / m``.
        weight_RT, share_T: an estimate of tag t is ``kernel @ weight + share``.
        floor: float32 ``[1]``, the least estimate that is told apart from none.
        factor: float32 ``[1]``, what its evidence counts beside the towers' score.
    """

    landmark_RD: Tensor
    sharpness: Tensor
    weight_RT: Tensor
    share_T: Tensor
    floor: Tensor
    factor: Tensor

    def to(self, device: torch.device) -> KernelHead:
        return KernelHead(*(getattr(self, name).to(device) for name in _PARTS))

    def kernel(self, input_BD: Tensor) -> Tensor:
        """``[B, R]`` of standardised features."""
        return gaussian(input_BD, self.landmark_RD, float(self.sharpness))

    def evidence(self, kernel_BR: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``[B, n]`` for some tags: the factor times the log of the estimate, no lower than the floor's."""
        estimate_Bn = torch.addmm(self.share_T[tag_n], kernel_BR, self.weight_RT[:, tag_n])
        return estimate_Bn.clamp_(min=float(self.floor)).log_().mul_(self.factor)

    @property
    def rows(self) -> int:
        """Training images that it was fitted to."""
        return round(0.5 / float(self.floor))

    def largest(self, most: int) -> KernelHead:
        """With the landmarks alone whose weights are largest, in their order."""
        if len(self.landmark_RD) <= most:
            return self
        size_R = self.weight_RT.square().sum(1)
        kept_r = size_R.topk(most).indices.sort().values
        return replace(self, landmark_RD=self.landmark_RD[kept_r], weight_RT=self.weight_RT[kept_r])

    def save(self, path: Path) -> None:
        save_file({name: getattr(self, name).cpu().contiguous() for name in _PARTS}, path)

    @staticmethod
    def load(folder: Path, image_dim: int, num_tags: int) -> KernelHead | None:
        """A bundle's regression; None where it has none.

        Raises:
            InputError: it is of other features or tags.
        """
        path = folder / KERNEL
        if not path.is_file():
            return None
        tensors = load_tensors(path)
        head = KernelHead(*(tensors[name] for name in _PARTS))
        marks, dim = head.landmark_RD.shape
        if (
            dim != image_dim
            or head.weight_RT.shape != (marks, num_tags)
            or len(head.share_T) != num_tags
        ):
            raise InputError(
                f"{path}: for {dim} features and {head.weight_RT.shape[1]} tags, but the model has "
                f"{image_dim} and {num_tags}"
            )
        single = (head.sharpness, head.floor, head.factor)
        if any(part.shape != (1,) for part in single) or head.floor <= 0 or head.share_T.dim() != 1:
            raise InputError(
                f"{path}: sharpness, floor and factor must be single numbers, floor above 0"
            )
        return head


_PARTS = ("landmark_RD", "sharpness", "weight_RT", "share_T", "floor", "factor")


def gaussian(input_BD: Tensor, landmark_RD: Tensor, sharpness: float) -> Tensor:
    """``exp(-sharpness d^2)`` ``[B, R]``."""
    square_BR = torch.addmm(landmark_RD.square().sum(1), input_BD, landmark_RD.T, alpha=-2.0)
    square_BR.add_(input_BD.square().sum(1, keepdim=True)).clamp_(min=0)
    return square_BR.mul_(-sharpness).exp_()


def median_square_distance(landmark_RD: Tensor, most: int = 2048) -> float:
    """Median of squared distances between (some of the) landmarks; above 0."""
    some_rD = landmark_RD[:most].double()
    return max(float(torch.pdist(some_rD).square().median()), 1e-12) if len(some_rD) > 1 else 1.0


class RidgeSums:
    """``K^T K`` and ``K^T (Y - share)`` over training images: they add up over batches and ranks.

    Args:
        landmark_RD: standardised features of the landmarks.
        share_T: float32, share of training images with each tag.
    """

    def __init__(self, landmark_RD: Tensor, sharpness: float, share_T: Tensor) -> None:
        self.landmark_RD, self.sharpness, self.share_T = landmark_RD, sharpness, share_T
        marks = len(landmark_RD)
        self.gram_RR = landmark_RD.new_zeros(marks, marks)
        self.hits_RT = landmark_RD.new_zeros(marks, len(share_T))

    def add(self, input_BD: Tensor, relevant_BT: Tensor) -> None:
        """Take in images: standardised features, and which tags they carry (bool)."""
        for start in range(0, len(input_BD), _BLOCK):
            part = slice(start, start + _BLOCK)
            kernel_bR = gaussian(input_BD[part], self.landmark_RD, self.sharpness)
            self.gram_RR.addmm_(kernel_bR.T, kernel_bR)
            self.hits_RT.addmm_(kernel_bR.T, relevant_BT[part].to(kernel_bR.dtype) - self.share_T)

    def solve(
        self, ridge: float, factor: float, rows: int, start_RT: Tensor | None = None
    ) -> KernelHead:
        """Minimises ``|Y - share - K W|^2 + ridge tr((W - S)^T K_RR (W - S))``, S = 0 where no start is
        given; with every training image a landmark that is kernel ridge regression itself.

        Args:
            factor: what its evidence counts beside the towers' score.
            rows: training images; half of one in so many is the least estimate that counts.
            start_RT: weights that the solution stays near: what is known of images that are not taken in.
        """
        own_RR = gaussian(self.landmark_RD, self.landmark_RD, self.sharpness).double()
        system_RR = self.gram_RR.double().add_(own_RR, alpha=ridge)
        # Sums in float32 are exact to about as much, and landmarks may be alike: raised until it factors.
        more = 1e-6 * float(system_RR.diagonal().mean())
        system_RR.diagonal().add_(more)
        factor_RR, failed = torch.linalg.cholesky_ex(system_RR)
        while failed:
            system_RR.diagonal().add_(9 * more)
            more *= 10
            factor_RR, failed = torch.linalg.cholesky_ex(system_RR)
        hits_RT = self.hits_RT.double()
        if start_RT is not None:
            hits_RT = hits_RT - self.gram_RR.double() @ start_RT.double()
        weight_RT = torch.cholesky_solve(hits_RT, factor_RR)
        if start_RT is not None:
            weight_RT += start_RT
        one = torch.ones(1, dtype=torch.float32, device=self.landmark_RD.device)
        return KernelHead(
            self.landmark_RD, one * self.sharpness, weight_RT.float(), self.share_T, one * (0.5 / rows),
            one * factor,
        )  # fmt: skip
