"""The tag-embedding table in rows over ranks; no rank ever holds all of it.

Rank r owns the contiguous tags ``[r * ceil(T / W), (r + 1) * ceil(T / W))``, the layout of a
``Shard(0)`` DTensor, so that a checkpoint written at one world size loads at any other. Names are
ordered alphabetically, so that frequent tags fall on all ranks alike.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.training import collectives
from drel_core.model.tag_embedding import TableConfig, TagEmbedding
from drel_core.model.towers import ModelConfig


def owned_range(num_tags: int, world: int, rank: int) -> tuple[int, int]:
    """First and last-plus-one tag of a rank; empty for late ranks when T is small."""
    rows = -(-num_tags // world)
    return min(rank * rows, num_tags), min((rank + 1) * rows, num_tags)


class ShardedTagEmbedding:
    """The same methods as ``TagEmbedding``, for pools whose rows lie on many ranks.

    Args:
        num_tags: T.
        model, config, seed: as in ``TagEmbedding``.
    """

    def __init__(
        self,
        num_tags: int,
        model: ModelConfig,
        config: TableConfig,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self.num_tags = num_tags
        self.world, self.rank = collectives.world_size(), collectives.rank()
        start, stop = owned_range(num_tags, self.world, self.rank)
        self.local = TagEmbedding(start, stop, model, config, seed)
        if device is not None:
            self.local.to(device)

    def split_pool(self, pool_P: Tensor) -> tuple[Tensor, list[int]]:
        """The part of a sorted pool that this rank owns, and how many rows each rank owns."""
        if self.world == 1:
            return pool_P, [len(pool_P)]
        starts = [owned_range(self.num_tags, self.world, r)[0] for r in range(1, self.world)]
        cuts = torch.searchsorted(pool_P, torch.tensor(starts, device=pool_P.device)).tolist()
        bounds = [0, *cuts, len(pool_P)]
        mine = pool_P[bounds[self.rank] : bounds[self.rank + 1]]
        return mine, [bounds[r + 1] - bounds[r] for r in range(self.world)]

    def rows(self, local_pool_p: Tensor) -> Tensor:
        return self.local.rows(local_pool_p)

    def apply_gradient(self, local_pool_p: Tensor, gradient_pE: Tensor, lr: float) -> None:
        """Update owned rows. The loss was multiplied by W for gradient averaging: undone here."""
        self.local.apply_gradient(local_pool_p, gradient_pE / self.world, lr)

    def state_dict(self) -> dict[str, Tensor]:
        """Rows and optimiser state as ``Shard(0)`` DTensors over all ranks (no copy)."""
        weight, state = self.local.weight_nE, self.local.state_n
        if not dist.is_initialized():
            return {"weight": weight, "state": state}
        # Half a second to import, and not needed before the first checkpoint.
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = DeviceMesh(weight.device.type, list(range(self.world)))
        dim = weight.shape[1]
        return {
            "weight": DTensor.from_local(
                weight,
                mesh,
                [Shard(0)],
                run_check=False,
                shape=torch.Size([self.num_tags, dim]),
                stride=(dim, 1),
            ),
            "state": DTensor.from_local(
                state,
                mesh,
                [Shard(0)],
                run_check=False,
                shape=torch.Size([self.num_tags]),
                stride=(1,),
            ),
        }
