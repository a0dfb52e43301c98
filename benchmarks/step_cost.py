"""What a training step costs a rank, from sizes alone: bytes sent, multiplications, and time.

B images of the global batch, W ranks, D features, H and h hidden units of the image and tag towers, E
embedding size, L latent size, T tags, P tags of the pool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One step of one run."""

    images: int
    world: int
    dim: int
    image_hidden: int
    tag_dim: int
    tag_hidden: int
    latent: int
    tags: int
    candidates: int
    tags_an_image: float
    item_bytes: int = 4
    """of an encoded number that travels: 4, or 2 with bf16; gradients of towers and M are always fp32"""
    zipf: float = 0.0
    """tag t has a share of relevant tags in proportion to t^-zipf; 0: all the same, the largest pool"""

    @property
    def parameters(self) -> int:
        """Of towers and M, with the linear paths, LayerNorms and biases of the preset ``best``."""
        image = self.dim * (self.image_hidden + self.latent) + self.image_hidden * (self.latent + 3)
        tag = self.tag_dim * (self.tag_hidden + self.latent) + self.tag_hidden * (self.latent + 3)
        return image + tag + 2 * self.latent + self.latent**2 + self.tag_dim + 1

    @property
    def pool(self) -> float:
        """Expected different tags among uniform candidates and the relevant ones of all images."""
        if self.tags <= self.candidates:
            return float(self.tags)
        return self._different(self.images * self.tags_an_image, self.candidates)

    @property
    def relevant_of_rank(self) -> float:
        """Expected different relevant tags of a rank's images."""
        return self._different(self.images / self.world * self.tags_an_image, 0)

    def _different(self, relevant: float, uniform: float) -> float:
        share_T = np.arange(1, self.tags + 1) ** -self.zipf
        share_T /= share_T.sum()
        none_T = relevant * np.log1p(-share_T) + uniform * math.log1p(-1 / self.tags)
        return float(-np.expm1(none_T).sum())


def bytes_sent(
    world: int, parameters: int, longest: float, columns: int, relevant: float, item_bytes: int = 4
) -> dict[str, float]:
    """Payload that a rank sends in a step, by collective, for ring algorithms.

    Args:
        parameters: of towers and M, which DistributedDataParallel all-reduces.
        longest: pool rows of the rank that owns most of them; others are padded to it.
        columns: L + 1.
        relevant: ids of the rank that has most; 0 when the pool is all tags.
    """
    others = world - 1
    block = longest * columns * item_bytes
    return {
        "relevant ids, all-gather": others * 8 * (relevant + 1) if relevant else 0.0,
        "encoded pool, all-gather": others * block,
        "their gradient, to the owner": others * block,
        "towers and M, all-reduce": 2 * others / world * parameters * 4,
    }


def multiplications(sizes: Sizes) -> dict[str, float]:
    """Multiply-adds of one rank in a step, forward and backward (twice the forward's)."""
    s = sizes
    images, pool_rows = s.images / s.world, s.pool / s.world
    image = s.dim * (s.image_hidden + s.latent) + s.image_hidden * s.latent
    tag = s.tag_dim * (s.tag_hidden + s.latent) + s.tag_hidden * s.latent
    on_tags = s.pool <= s.images
    # No gradient flows to the features: the first layer's backward is one product, not two.
    first = s.dim * (s.image_hidden + s.latent)
    return {
        "image tower": images * (3 * image - first),
        "tag tower": 3 * pool_rows * tag,
        "M": 3 * (pool_rows if on_tags else images) * s.latent**2,
        "scores": 3 * images * s.pool * s.latent,
    }


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The constants of a prediction. Each is measured or assumed; docs/performance.md says which.

    Attributes:
        flops: multiply-adds times two a second that a rank reaches in these matmuls.
        fixed: seconds of a step that no size changes (launches, Python, optimiser's overhead).
        optimiser: bytes of parameters and state a second that the optimiser passes over.
        local, wide: bytes a second that every rank of a ring sends, within a node and over nodes.
        local_hop, wide_hop: seconds of one hop of a ring within a node, and between nodes.
        ranks_a_node: that share a node.
        overlap: share of the all-reduce of towers and M that hides behind the backward pass.
    """

    flops: float
    fixed: float
    optimiser: float
    local: float
    wide: float
    local_hop: float
    wide_hop: float
    ranks_a_node: int
    overlap: float


def predict(sizes: Sizes, machine: Machine) -> dict[str, float]:
    """Seconds of a step, by part; ``step`` is the whole."""
    work = 2 * sum(multiplications(sizes).values()) / machine.flops
    sent = bytes_sent(
        sizes.world,
        sizes.parameters,
        sizes.pool / sizes.world,
        sizes.latent + 1,
        sizes.relevant_of_rank if sizes.tags > sizes.candidates else 0,
        sizes.item_bytes,
    )
    nodes = -(-sizes.world // machine.ranks_a_node)
    rate = machine.local if nodes == 1 else machine.wide
    hops = (nodes - 1) * machine.wide_hop + (sizes.world - nodes) * machine.local_hop
    towers = sent.pop("towers and M, all-reduce") / rate + 2 * hops
    # Ids take two collectives, the pool's rows go out and their gradients come back; one more scalar.
    pool = sum(sent.values()) / rate + (6 if sizes.tags > sizes.candidates else 4) * hops
    shown = max(0.0, towers - machine.overlap * work * 2 / 3)
    optimiser = 16 * sizes.parameters / machine.optimiser
    parts = {
        "compute": work,
        "pool": pool,
        "towers": shown,
        "optimiser": optimiser,
        "fixed": machine.fixed,
    }
    return {**parts, "step": sum(parts.values())}
