"""Kernel ridge regression of tags on features, in closed form, beside the towers.

The tags of near training images are strong evidence where few images carry a tag; towers with dropout blur
it. The regression has its weights on R landmarks, a sample of the training images (Nystrom; Rudi et al.,
2015). A store of any size therefore gives a model of bounded size: annotating an image costs
D d + R d + R T multiplications.

Shapes: B images, D feature size, d dimensions of the kernel (D, or fewer), R landmarks, T tags, n some tags.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from drel_core.auto import AUTO
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.errors import InputError

KERNEL = "kernel.safetensors"
_BLOCK = 1024
_ERROR = 0.02  # about the error of an estimate
_LEAST_ERROR, _ERROR_BY_SHARE = 0.01, 0.5  # of a regression: that of a frequent tag is larger


@dataclass(kw_only=True)
class KernelConfig:
    """Kernel ridge regression beside the towers."""

    landmarks: int = 0
    """most landmarks: the training images that the weights belong to; 0 leaves the regression out; \
    -1: by the size of the data"""
    dims: int = 0
    """principal components of the features that distances use: fewer cost less; 0: all features"""
    shares: list[float] = field(default_factory=list)
    """how much each of several features columns counts, as its share of the mean squared distance between \
    images; empty: chosen on rows left out"""
    width: float = 3.0
    """sharpness of the Gaussian kernel `exp(-width d^2 / m)`, m the median of d^2 between landmarks"""
    ridge: float = 0.3
    """penalty on the weights"""
    factor: float = 1.0
    """weight of the log of its estimates, which is added to the towers' score, until held-out rows say how \
    much they count"""
    least_gain: float = 0.02
    """share of the loss on held-out rows that it must save, else it is left out: it costs each image its \
    distances to all landmarks; 0: it stays. An update keeps that of its parent"""

    def __post_init__(self) -> None:
        for name in ("landmarks", "dims"):
            value, auto = getattr(self, name), name == "landmarks"
            if value < 0 and not (auto and value == AUTO):
                raise ValueError(
                    f"kernel.{name} is {value}; it must be 0 or more{', or -1' * auto}"
                )
        if self.shares and (min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-3):
            raise ValueError(f"kernel.shares is {self.shares}; it must be shares that add up to 1")
        for name in ("width", "ridge", "factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"kernel.{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"kernel.least_gain is {self.least_gain}; it must be in [0, 1)")


@dataclass(frozen=True)
class KernelHead:
    """A fitted regression on standardised features (``DREL.standardised``); all tensors are float32.

    Args:
        landmark_Rd: standardised features of the landmarks, projected on the basis where there is one.
        sharpness: ``[1]``, ``width / m``.
        weight_RT, share_T: the estimate of tag t is ``kernel @ weight_t + share_t``, about its probability.
        floor: ``[1]``, above 0: half of one training image.
        factor: ``[1]``: evidence is this times ``log_estimates``.
        basis_Dd: orthonormal columns, of several features columns times the scale of each; None where
            distances are between all features as they are.
        noise: ``[T]``: about the error of each tag's estimate, see ``log_estimate``. Older bundles have one
            number for all tags, ``[1]``; or None, and then evidence is ``factor log(max(floor, estimate))``.
    """

    landmark_Rd: Tensor
    sharpness: Tensor
    weight_RT: Tensor
    share_T: Tensor
    floor: Tensor
    factor: Tensor
    basis_Dd: Tensor | None = None
    noise: Tensor | None = None

    def _parts(self) -> dict[str, Tensor]:
        parts = {name: getattr(self, name) for name in (*_PARTS, _BASIS, _NOISE)}
        return {name: part for name, part in parts.items() if part is not None}

    def to(self, device: torch.device) -> KernelHead:
        return KernelHead(**{name: part.to(device) for name, part in self._parts().items()})

    def kernel(self, input_BD: Tensor) -> Tensor:
        """``[B, R]``: Gaussian kernel between standardised features and landmarks."""
        return gaussian(project(input_BD, self.basis_Dd), self.landmark_Rd, float(self.sharpness))

    def evidence(self, kernel_BR: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``[B, n]`` of some tags: ``factor log_estimates(estimates)``."""
        return self.log_estimates(self.estimates(kernel_BR, tag_n), tag_n).mul_(self.factor)

    def log_estimates(self, estimate_Bn: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``[B, n]``: the logs of estimates of some tags, in place; see ``noise``."""
        if self.noise is None:
            return estimate_Bn.clamp_(min=float(self.floor)).log_()
        noise_n = self.noise[tag_n] if self.noise_is_of_tags else self.noise
        return log_estimate(estimate_Bn, noise_n)

    def estimates(self, kernel_BR: Tensor, tag_n: Tensor | slice) -> Tensor:
        """``[B, n]`` of some tags."""
        return torch.addmm(self.share_T[tag_n], kernel_BR, self.weight_RT[:, tag_n])

    @property
    def noise_is_of_tags(self) -> bool:
        """Each tag has a noise of its own; False in older bundles."""
        return self.noise is not None and len(self.noise) == len(self.share_T)

    @property
    def _certain_T(self) -> Tensor:
        """The estimates whose logs, with ``noise``, are 0."""
        one_T = torch.ones_like(self.share_T)
        return one_T if self.noise is None else one_T - self.noise

    @property
    def silent_T(self) -> Tensor:
        """bool ``[T]``: the tags that it says nothing of, see ``silenced``."""
        return (self.share_T - self._certain_T).abs() < 1e-6

    def silenced(self, tag_T: Tensor) -> KernelHead:
        """The same with no evidence of some tags, whatever the image: a weight of 0, and a share whose
        evidence is 0.

        Args:
            tag_T: bool, which.
        """
        return replace(
            self,
            weight_RT=self.weight_RT.masked_fill(tag_T, 0.0),
            share_T=torch.where(tag_T, self._certain_T, self.share_T),
        )

    def grown(self, tags: int) -> KernelHead:
        """That of a vocabulary with so many more tags at its end, of which it says nothing."""
        known = len(self.share_T)
        head = replace(
            self,
            weight_RT=torch.nn.functional.pad(self.weight_RT, (0, tags)),
            share_T=torch.nn.functional.pad(self.share_T, (0, tags)),
        )
        if self.noise is not None and self.noise_is_of_tags:
            none_n = torch.zeros(tags, device=self.noise.device)
            head = replace(head, noise=torch.cat([self.noise, noise_of(none_n)]))
        return head.silenced(torch.arange(known + tags, device=self.share_T.device) >= known)

    @property
    def rows(self) -> int:
        """Training images that it was fitted to (the floor is half of one in so many)."""
        return round(0.5 / float(self.floor))

    def largest(self, most: int) -> KernelHead:
        """The same with the ``most`` landmarks whose weights have the largest norms, in their order."""
        if len(self.landmark_Rd) <= most:
            return self
        size_R = self.weight_RT.square().sum(1)
        kept_r = size_R.topk(most).indices.sort().values
        return replace(self, landmark_Rd=self.landmark_Rd[kept_r], weight_RT=self.weight_RT[kept_r])

    def save(self, path: Path) -> None:
        parts = self._parts()
        save_tensors({_key(name): part.cpu().contiguous() for name, part in parts.items()}, path)

    @staticmethod
    def load(folder: Path, image_dim: int, num_tags: int) -> KernelHead | None:
        """The regression of a bundle; None where it has none.

        Raises:
            InputError: its shapes do not fit D, T or each other.
            Exception: what reading a damaged file raises.
        """
        path = folder / KERNEL
        if not path.is_file():
            return None
        tensors = load_tensors(path)
        head = KernelHead(
            **{name: tensors[_key(name)] for name in _PARTS},
            basis_Dd=tensors.get(_BASIS),
            noise=tensors.get(_NOISE),
        )
        marks, dims = head.landmark_Rd.shape
        dim, kept = (dims, dims) if head.basis_Dd is None else head.basis_Dd.shape
        if kept != dims:
            raise InputError(f"{path}: landmarks of {dims} dimensions in a basis of {kept}")
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
        fits = all(part.shape == (1,) for part in single) and head.share_T.dim() == 1
        if not fits or head.floor <= 0:
            raise InputError(
                f"{path}: sharpness, floor and factor must be single numbers, floor above 0"
            )
        noise = head.noise
        if noise is not None and (
            noise.shape not in ((1,), (num_tags,)) or bool((noise <= 0).any())
        ):
            raise InputError(
                f"{path}: noise must be a number above 0 for each of {num_tags} tags, or one for all"
            )
        return head


def log_estimate(estimate: Tensor, noise: Tensor | float = _ERROR) -> Tensor:
    """``log(max(0, estimate) + noise)``, in place: the log of an estimate that is nothing but error says
    nothing."""
    return estimate.clamp_(min=0).add_(noise).log_()


def noise_of(share_T: Tensor) -> Tensor:
    """``[T]``: the noise of a regression's tags by their share of training images."""
    return _LEAST_ERROR + _ERROR_BY_SHARE * share_T


_PARTS = ("landmark_Rd", "sharpness", "weight_RT", "share_T", "floor", "factor")
_BASIS, _NOISE = "basis_Dd", "noise"


def _key(part: str) -> str:
    """Its name in the file: that of before there was a basis, so that older bundles load."""
    return "landmark_RD" if part == "landmark_Rd" else part


def principal_basis(input_RD: Tensor, dims: int) -> Tensor | None:
    """Basis ``[D, dims]`` of the leading principal components of standardised features.

    By a randomised SVD (Halko et al., 2011) with a fixed seed. None where ``dims`` is 0 or not below D and R.
    """
    if not 0 < dims < min(input_RD.shape):
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = min(dims + 32, *input_RD.shape)
        basis_Dw = torch.svd_lowrank(input_RD, q=wide, niter=4)[2]
    return basis_Dw[:, :dims].contiguous()


def project(input_BD: Tensor, basis_Dd: Tensor | None) -> Tensor:
    """``[B, d]``: standardised features in the basis; unchanged without one."""
    return input_BD if basis_Dd is None else input_BD @ basis_Dd


def gaussian(input_Bd: Tensor, landmark_Rd: Tensor, sharpness: float) -> Tensor:
    """``exp(-sharpness |x - landmark|^2)`` ``[B, R]``."""
    square_BR = torch.addmm(landmark_Rd.square().sum(1), input_Bd, landmark_Rd.T, alpha=-2.0)
    square_BR.add_(input_Bd.square().sum(1, keepdim=True)).clamp_(min=0)
    return square_BR.mul_(-sharpness).exp_()


def median_square_distance(landmark_Rd: Tensor, most: int = 2048) -> float:
    """Median of squared distances between the first ``most`` landmarks; above 0."""
    some_rd = landmark_Rd[:most].double()
    return max(float(torch.pdist(some_rd).square().median()), 1e-12) if len(some_rd) > 1 else 1.0


class RidgeSums:
    """The sums ``K^T K`` and ``K^T (Y - share)`` over training images; sums of batches and ranks add up.

    Args:
        landmark_Rd: standardised features of the landmarks, projected on the basis where there is one.
        sharpness: of the Gaussian kernel.
        share_T: float32, share of training images with each tag.
        basis_Dd: see ``KernelHead``.
    """

    def __init__(
        self, landmark_Rd: Tensor, sharpness: float, share_T: Tensor, basis_Dd: Tensor | None = None
    ) -> None:
        self.landmark_Rd, self.sharpness, self.share_T = landmark_Rd, sharpness, share_T
        self.basis_Dd = basis_Dd
        marks = len(landmark_Rd)
        self.gram_RR = landmark_Rd.new_zeros(marks, marks)
        self.hits_RT = landmark_Rd.new_zeros(marks, len(share_T))

    def add(self, input_BD: Tensor, relevant_BT: Tensor) -> None:
        """Add images: standardised features, and which tags they carry (bool)."""
        for start in range(0, len(input_BD), _BLOCK):
            part = slice(start, start + _BLOCK)
            input_bd = project(input_BD[part], self.basis_Dd)
            kernel_bR = gaussian(input_bd, self.landmark_Rd, self.sharpness)
            self.gram_RR.addmm_(kernel_bR.T, kernel_bR)
            self.hits_RT.addmm_(kernel_bR.T, relevant_BT[part].to(kernel_bR.dtype) - self.share_T)

    def solve(
        self, ridge: float, factor: float, rows: int, start_RT: Tensor | None = None
    ) -> FittedKernel:
        """The weights W that minimise ``|Y - share - K W|^2 + ridge tr((W - S)^T K_RR (W - S))``.

        S is ``start_RT``, or 0. With S = 0 and all training images as landmarks it is kernel ridge
        regression.

        Args:
            ridge: weight of the penalty.
            factor: see ``KernelHead``.
            rows: training images; the floor of estimates is half of one in so many.
            start_RT: weights that the solution stays near: what is known of images that were not added.
        """
        own_RR = gaussian(self.landmark_Rd, self.landmark_Rd, self.sharpness).double()
        system_RR = self.gram_RR.double().add_(own_RR, alpha=ridge)
        # The sums are float32 and landmarks may be alike: the diagonal is raised until Cholesky succeeds. The
        # first step is about the rounding error.
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
        one = torch.ones(1, dtype=torch.float32, device=self.landmark_Rd.device)
        head = KernelHead(
            self.landmark_Rd,
            one * self.sharpness,
            weight_RT.float(),
            self.share_T,
            one * (0.5 / rows),
            one * factor,
            self.basis_Dd,
            noise_of(self.share_T),
        )
        return FittedKernel(head, factor_RR)


@dataclass(frozen=True)
class FittedKernel:
    """A regression, and what tells how much each training image pulled it to itself.

    Args:
        factor_RR: float64, the lower Cholesky factor of the system that was solved.
        shares: how much each of several features columns counts, where that was decided for this regression.
    """

    head: KernelHead
    factor_RR: Tensor
    shares: tuple[float, ...] = ()

    def leverage(self, kernel_BR: Tensor) -> Tensor:
        """float32 ``[B, 1]``, below 1: how far each image's estimate follows its own tags.

        Args:
            kernel_BR: the kernel of images that the regression was fitted to.
        """
        half_RB = torch.linalg.solve_triangular(self.factor_RR, kernel_BR.double().T, upper=False)
        return half_RB.square().sum(0).clamp(max=1 - 1e-6).float()[:, None]


def left_out(estimate_Bn: Tensor, leverage_B1: Tensor, relevant_Bn: Tensor) -> Tensor:
    """float32 ``[B, n]``: what a regression without each of its training images would say of it.

    In closed form: of an image with leverage h, estimate q and tags y it is ``(q - h y) / (1 - h)`` (Allen,
    1974, "The relationship between variable selection and data augmentation": the PRESS residual).

    Args:
        estimate_Bn: estimates of images that the regression was fitted to, for some tags.
        leverage_B1: see ``FittedKernel.leverage``.
        relevant_Bn: bool, the tags that they carry.
    """
    return (estimate_Bn - leverage_B1 * relevant_Bn.float()) / (1 - leverage_B1)
