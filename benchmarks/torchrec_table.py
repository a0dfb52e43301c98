"""TorchRec's row-wise sharded table under the same towers and pool, for benchmarks.tag_table.

TorchRec wants a virtual environment of its own (it brings fbgemm): see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingEnv

from drel_core.model.pooled_step import PooledBatch
from drel_core.scoring.tag_lists import TagLists


def torchrec_step(
    tags: int,
    embedding_dim: int,
    step_module: nn.Module,
    features: torch.Tensor,
    lists: TagLists,
    pool: torch.Tensor,
) -> Callable[[int], None]:
    """A training step: rows by all-to-all, towers in DDP, fused row-wise Adagrad in backward."""
    device = torch.device("cpu")
    collection = EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name="tags", embedding_dim=embedding_dim, num_embeddings=tags, feature_names=["tag"]
            )
        ],
        device=torch.device("meta"),
    )
    sharder = EmbeddingCollectionSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.05}
    )
    ranks = dist.get_world_size()
    plan = construct_module_sharding_plan(
        collection,
        per_param_sharding={"tags": row_wise(compute_kernel="fused")},
        sharder=sharder,
        local_size=ranks,
        world_size=ranks,
        device_type="cpu",
    )
    group = dist.group.WORLD
    assert group is not None
    sharded = sharder.shard(collection, plan, ShardingEnv.from_process_group(group), device=device)
    towers = DistributedDataParallel(step_module)
    optimiser = torch.optim.SGD(towers.parameters(), lr=0.1)
    wanted = KeyedJaggedTensor(
        keys=["tag"], values=pool, lengths=torch.ones(len(pool), dtype=torch.int64)
    )
    batch = PooledBatch(features, lists, pool, tags, False)

    def take(step: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        rows = sharded(wanted).wait()["tag"].values()
        towers(batch, rows, 0.0)[0].backward()
        optimiser.step()

    return take
