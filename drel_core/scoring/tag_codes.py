"""Encoded tags in a few bits a number: small enough that a million are read in milliseconds.

The score of image i and tag t is ``x_i . y_t + b_t``. Transform coding (Goyal, 2001, "Theoretical foundations
of transform coding") keeps what scores need of ``y_t``: its principal components, where they take fewer bits
than the numbers themselves, each in 4, 2, 1 or 0 bits by how much it adds to the scores. The bits fill parts
of 4 bits, which makes the code a product quantiser (Jégou et al., 2011, "Product quantization for nearest
neighbor search").

Shapes: L latent size, T tags, t some of them, n images, M parts of a code, h M / 2 bytes, C codes of a part
(16), S numbers that a part can hold (4), Q M S, p some parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PART_NUMBERS = 4
"""S: a part holds one number of 4 bits, two of 2 bits or four of 1 bit."""
_LEVELS = 16
_BIAS_PARTS = 16
_STEP = {4: 0.3352, 2: 0.9957, 1: 1.596}
"""Steps, in standard deviations, of the best uniform quantisers of a normal distribution (Max, 1960,
"Quantizing for minimum distortion"), by bits."""
_DISTORTION = {4: 0.01154, 2: 0.1188, 1: 0.3634, 0: 1.0}
"""The share of the variance that each loses."""
_BLOCK = 4096
_SAMPLE = 16384


@dataclass(frozen=True)
class TagCodes:
    """Codes of tags, and how images ask for them.

    Attributes:
        code_Th: uint8, two parts a byte, the first in the lower half.
        level_MCS: float32 ``[M, 16, 4]``: the numbers that each code of a part means.
        source_Q: int64 ``[4 M]``: which number of an image belongs to each number of the parts: L is a 1, for
            the parts of the bias, and L + 1 a 0, where nothing belongs.
        basis_LL: principal axes of the tags as columns; None where codes hold the latents' own numbers.
    """

    code_Th: Tensor
    level_MCS: Tensor
    source_Q: Tensor
    basis_LL: Tensor | None = None

    @property
    def parts(self) -> int:
        """M."""
        return len(self.level_MCS)

    def query(self, image_nL: Tensor) -> Tensor:
        """float32 ``[n, 4 M]``: what of each image meets the numbers of the parts."""
        latent_nL = image_nL if self.basis_LL is None else image_nL @ self.basis_LL
        one_n2 = image_nL.new_tensor([1.0, 0.0]).expand(len(image_nL), 2)
        return torch.cat([latent_nL, one_n2], 1)[:, self.source_Q]


def encode_tags(tag_TL: Tensor, bias_T: Tensor, image_nL: Tensor, distortion: float) -> TagCodes:
    """Codes of encoded tags.

    Args:
        tag_TL, bias_T: what scores are made of.
        image_nL: latents of some images, which tell how much each number counts.
        distortion: wanted share of the scores' variance over the tags that codes lose, about .012 to 1.
    """
    some_tL = tag_TL[:: max(1, len(tag_TL) // _SAMPLE)].double()
    mean_L = some_tL.mean(0)
    apart_tL = some_tL - mean_L
    weigh_L = image_nL.double().square().mean(0)
    variance_L, basis_LL = apart_tL.square().mean(0), None
    bits_L = allot_bits(variance_L * weigh_L, distortion)
    axis_LL = torch.linalg.eigh(apart_tL.T @ apart_tL).eigenvectors
    along_L = (apart_tL @ axis_LL).square().mean(0)
    along_bits_L = allot_bits(along_L * (image_nL.double() @ axis_LL).square().mean(0), distortion)
    if along_bits_L.sum() < 0.85 * bits_L.sum():  # turning every tag must be worth its time
        variance_L, bits_L, basis_LL = along_L, along_bits_L, axis_LL.float()
        mean_L = mean_L @ axis_LL
    return _encode(tag_TL, bias_T, mean_L.float(), variance_L.sqrt().float(), bits_L, basis_LL)


def allot_bits(weight_L: Tensor, distortion: float) -> Tensor:
    """int64 ``[L]``: bits of each number, 0, 1, 2 or 4, the fewest that lose at most a share of the weights.

    Every bit must save at least as much as any other bit does (Lagrange; Shoham and Gersho, 1988, "Efficient
    bit allocation for an arbitrary set of quantizers").

    Args:
        weight_L: float64, variance that is lost where a number has 0 bits.
        distortion: the share; less than what 4 bits lose gives 4 bits to all.
    """
    choice = torch.tensor(sorted(_DISTORTION))
    lost = torch.tensor([_DISTORTION[bits] for bits in sorted(_DISTORTION)], dtype=torch.float64)
    wanted = float(weight_L.sum()) * distortion
    low, high = 0.0, float(weight_L.max()) + 1e-30  # price of a bit
    best_L = torch.full_like(weight_L, 4, dtype=torch.int64)
    for _ in range(60):
        price = (low + high) / 2
        bits_L = choice[(weight_L[:, None] * lost + price * choice).argmin(1)]
        kept = float((weight_L * lost[torch.searchsorted(choice, bits_L)]).sum()) <= wanted
        low, high = (price, high) if kept else (low, price)
        if kept:
            best_L = bits_L
    return best_L


@dataclass(frozen=True)
class _Group:
    """Parts whose numbers have equally many bits.

    Attributes:
        bits: of a number; a part holds 4 / bits of them.
        number_pS: int64, which numbers; L + 1 where there is none.
        mean_pS, step_pS: of the numbers; a code's levels lie about the mean.
    """

    bits: int
    number_pS: Tensor
    mean_pS: Tensor
    step_pS: Tensor

    @staticmethod
    def of(bits: int, bits_L: Tensor, mean_L: Tensor, std_L: Tensor) -> _Group:
        number_g, none = (bits_L == bits).nonzero()[:, 0], len(bits_L) + 1
        fill = -len(number_g) % (4 // bits)
        number_pS = torch.cat([number_g, number_g.new_full((fill,), none)]).view(-1, 4 // bits)
        # What does not exist is 0, with a step of 1.
        mean_L2 = torch.cat([mean_L, torch.zeros(2)])
        step_L2 = torch.cat([_STEP[bits] * std_L.clamp(min=1e-30), torch.ones(2)])
        return _Group(bits, number_pS, mean_L2[number_pS], step_L2[number_pS])

    @property
    def most(self) -> int:
        """The highest code of a number."""
        return (1 << self.bits) - 1

    def levels(self) -> Tensor:
        """``[p, 16, 4]``. The mean is left out: it moves the scores of all tags alike."""
        level_pCS = torch.zeros(len(self.number_pS), _LEVELS, PART_NUMBERS)
        for place in range(self.number_pS.shape[1]):
            digit_C = (torch.arange(_LEVELS) >> (self.bits * place)) & self.most
            level_pCS[:, :, place] = self.step_pS[:, place, None] * (digit_C - self.most / 2)
        return level_pCS

    def codes(self, tag_tL2: Tensor) -> Tensor:
        """uint8 ``[t, p]`` of tags with two more numbers."""
        code_tp = torch.zeros(len(tag_tL2), len(self.number_pS), dtype=torch.uint8)
        for place in range(self.number_pS.shape[1]):
            apart_tp = tag_tL2[:, self.number_pS[:, place]].sub_(self.mean_pS[:, place])
            digit_tp = apart_tp.div_(self.step_pS[:, place]).add_(self.most / 2).round_()
            code_tp |= digit_tp.clamp_(0, self.most).to(torch.uint8) << (self.bits * place)
        return code_tp


@dataclass(frozen=True)
class _Bias:
    """A bias has 240 steps from the least to the greatest. Each of its parts takes a sixteenth of it, so that
    none is much larger than the others: the tables of look-ups share one scale."""

    low: float
    step: float

    @staticmethod
    def of(bias_T: Tensor) -> _Bias:
        low, high = (float(end) for end in torch.aminmax(bias_T))
        return _Bias(low, max((high - low) / (_BIAS_PARTS * (_LEVELS - 1)), 1e-30))

    def levels(self) -> Tensor:
        """``[16, 16, 4]``, less the least bias."""
        level_pCS = torch.zeros(_BIAS_PARTS, _LEVELS, PART_NUMBERS)
        level_pCS[:, :, 0] = self.step * torch.arange(_LEVELS)
        return level_pCS

    def codes(self, bias_t: Tensor) -> Tensor:
        """uint8 ``[t, 16]``."""
        whole_t1 = ((bias_t[:, None] - self.low) / self.step).round_().long()
        whole_t1.clamp_(0, _BIAS_PARTS * (_LEVELS - 1))
        more_tp = torch.arange(_BIAS_PARTS) < whole_t1 % _BIAS_PARTS
        return (whole_t1 // _BIAS_PARTS + more_tp).to(torch.uint8)


def _encode(
    tag_TL: Tensor,
    bias_T: Tensor,
    mean_L: Tensor,
    std_L: Tensor,
    bits_L: Tensor,
    basis_LL: Tensor | None,
) -> TagCodes:
    latent = tag_TL.shape[1]
    one, none = latent, latent + 1  # further numbers of an image: see TagCodes.source_Q
    groups = [_Group.of(bits, bits_L, mean_L, std_L) for bits in (4, 2, 1)]
    bias = _Bias.of(bias_T)
    levels, sources = [*(group.levels() for group in groups), bias.levels()], []
    for group in groups:
        source_pS = torch.full((len(group.number_pS), PART_NUMBERS), none)
        source_pS[:, : group.number_pS.shape[1]] = group.number_pS
        sources.append(source_pS)
    sources.append(torch.tensor([[one, none, none, none]] * _BIAS_PARTS))
    fill = sum(map(len, levels)) % 2  # whole bytes
    level_MCS = torch.cat([*levels, torch.zeros(fill, _LEVELS, PART_NUMBERS)])
    source_MS = torch.cat([*sources, torch.full((fill, PART_NUMBERS), none)])
    code_Th = torch.empty(len(tag_TL), len(level_MCS) // 2, dtype=torch.uint8)
    for start in range(0, len(tag_TL), _BLOCK):
        part = slice(start, start + _BLOCK)
        tag_tL = tag_TL[part] if basis_LL is None else tag_TL[part] @ basis_LL
        tag_tL2 = torch.cat([tag_tL, tag_tL.new_zeros(len(tag_tL), 2)], 1)
        codes = [*(group.codes(tag_tL2) for group in groups), bias.codes(bias_T[part])]
        code_tM = torch.cat([*codes, codes[0].new_zeros(len(tag_tL), fill)], 1)
        code_Th[part] = code_tM[:, 0::2] | (code_tM[:, 1::2] << 4)
    return TagCodes(code_Th, level_MCS, source_MS.flatten(), basis_LL)
