"""Candidate samplers: which tags join the relevant ones in the pool of a step.

All ranks draw with the same seed, so that candidates need no communication and do not depend on the world
size.

Shapes: T tags.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SamplerName = Literal["uniform", "frequency", "mixed"]


class CandidateSampler:
    """Draws tag ids with replacement.

    Args:
        count_T: training counts; used by ``frequency`` (proportional to count^0.75, Mikolov et al.,
            2013) and ``mixed`` (half of each).
        kind: uniform | frequency | mixed.
    """

    def __init__(self, count_T: Tensor, kind: SamplerName = "mixed", power: float = 0.75) -> None:
        self.num_tags = len(count_T)
        self.kind = kind
        self.cumulative_T: Tensor | None = None
        if kind != "uniform":
            # Inverse-transform sampling: a binary search per draw, and T float64 of memory.
            self.cumulative_T = count_T.clamp(min=1).double().pow(power).cumsum(0)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """int64 ``[size]`` tag ids."""
        uniform = {"uniform": size, "frequency": 0, "mixed": size - size // 2}[self.kind]
        tag = torch.randint(self.num_tags, (uniform,), generator=generator)
        if self.cumulative_T is None:
            return tag
        draw = torch.rand(size - uniform, dtype=torch.float64, generator=generator)
        place = torch.searchsorted(self.cumulative_T, draw * self.cumulative_T[-1], right=True)
        return torch.cat([tag, place.clamp_(max=self.num_tags - 1)])


def tags_outside(num_tags: int, size: int, pool_P: Tensor, generator: torch.Generator) -> Tensor:
    """Sorted, different tag ids that are not in a sorted pool: of ``size`` uniform draws, of all T tags where
    T is not above ``size``."""
    if size >= num_tags:
        tag = torch.arange(num_tags)
    else:
        tag = torch.randint(num_tags, (size,), generator=generator).unique()
    tag = tag.to(pool_P.device)
    place = torch.searchsorted(pool_P, tag).clamp_(max=len(pool_P) - 1)
    return tag[pool_P[place] != tag]


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the generator that a device draws from unless it is given one.

    torch.manual_seed does so for every kind of device, and where there is no GPU takes a millisecond to note
    that one would have to be seeded.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def step_generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator seeded by ``(seed, *place)``, for example by (seed, epoch, step).

    Random numbers that follow from their place in training need no state in a checkpoint: resuming is exact.
    """
    return torch.Generator().manual_seed(mix_seed(seed, *place))


def mix_seed(seed: int, *place: int) -> int:
    """A 63-bit seed from several integers (FNV-1a over their 8-byte words, then a finaliser)."""
    state = 0xCBF29CE484222325
    for word in (seed, *place):
        state = ((state ^ (word & 0xFFFFFFFFFFFFFFFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    state = (state * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return (state ^ (state >> 32)) & 0x7FFFFFFFFFFFFFFF
