"""Step time and memory as the tag table grows, against a replicated table with dense gradients.

    python -m benchmarks.tag_table --tags 1000 100000 1000000 [--ranks 2] [--torchrec 1000 100000]

Each size runs in fresh gloo ranks. The pool is held fixed (candidates and batch), so the step's work
is the same at every T. Peak memory is the highest resident size less that of the same program with
one tag a rank, beside rows/W x (E x 4 + 4) bytes.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import time
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig, PooledBatch, PooledStep
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists

DIM, BATCH, CANDIDATES, EMBEDDING = 256, 256, 512, 256
CONFIG = ModelConfig(image_hidden=256, tag_dim=EMBEDDING, tag_hidden=256, latent=256)


class ReplicatedTable(nn.Module):
    """What plain DDP offers: the whole table on each rank, a dense gradient of its full size."""

    def __init__(self, tags: int, pool: torch.Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tags, EMBEDDING)
        self.step = PooledStep(DREL(DIM, CONFIG), LossConfig(), torch.ones(tags))
        self.pool = pool

    def forward(self, features: torch.Tensor, tags: TagLists) -> torch.Tensor:
        batch = PooledBatch(features, tags, self.pool, self.embedding.num_embeddings, False)
        return self.step(batch, self.embedding(self.pool), 0.0)[0]


def _rank(
    rank: int, ranks: int, port: int, tags: int, kind: str, steps: int, out: SimpleQueue[Any]
) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    torch.manual_seed(0)
    size = BATCH // ranks
    relevant = torch.randint(tags, (size * 3,)).view(size, 3).sort(1).values
    lists = TagLists(relevant.flatten(), torch.arange(0, size * 3 + 1, 3))
    features = torch.randn(size, DIM)
    if kind == "sharded":
        stepper = DRELLearner(
            DREL(DIM, CONFIG),
            ShardedTagEmbedding(tags, CONFIG, TableConfig(), 0),
            torch.ones(tags, dtype=torch.int64),
            LossConfig(),
            # Below T = candidates the pool would be all tags: keep it a sample at every size.
            PoolConfig(candidates=min(CANDIDATES, tags - 1), sampler="mixed"),
            OptimConfig(),
            seed=0,
        )

        def take(step: int) -> None:
            stepper.run(features, lists, epoch=0, step=step, progress=0.0, global_batch=BATCH)
    elif kind == "torchrec":
        from benchmarks.torchrec_table import torchrec_step

        pool = torch.cat([relevant.flatten(), torch.randint(tags, (CANDIDATES,))]).unique()
        towers = PooledStep(DREL(DIM, CONFIG), LossConfig(), torch.ones(tags))
        take = torchrec_step(tags, EMBEDDING, towers, features, lists, pool)
    else:
        pool = torch.cat([relevant.flatten(), torch.randint(tags, (CANDIDATES,))]).unique()
        model = DistributedDataParallel(ReplicatedTable(tags, pool))
        optimiser = torch.optim.Adagrad(model.parameters(), lr=0.05)

        def take(step: int) -> None:
            optimiser.zero_grad(set_to_none=True)
            model(features, lists).backward()
            optimiser.step()

    times = []
    for step in range(steps + 3):
        start = time.perf_counter()
        take(step)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.put((rank, sorted(times[3:])[steps // 2], peak))
    dist.barrier()
    os._exit(0)  # see tests/helpers/spawn_ranks.py: the interpreter's own end may abort under gloo


def measure(ranks: int, tags: int, kind: str, steps: int) -> tuple[float, float]:
    """Median seconds of a step (slowest rank) and peak bytes of the largest rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    out = context.SimpleQueue()
    processes = [
        context.Process(target=_rank, args=(rank, ranks, port, tags, kind, steps, out))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a rank ended with {process.exitcode} at T = {tags}, {kind}")
    answers = [out.get() for _ in processes]
    return max(seconds for _, seconds, _ in answers), max(peak for _, _, peak in answers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tags", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--replicated", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument(
        "--torchrec",
        type=int,
        nargs="*",
        default=[],
        help="sizes for TorchRec, where it is installed",
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    _, constant = measure(args.ranks, 2 * args.ranks, "sharded", args.steps)
    print(
        f"{args.ranks} ranks, E={EMBEDDING}, pool about {BATCH * 3 + CANDIDATES} tags; "
        f"constant {constant / 2**20:.0f} MiB a rank"
    )
    print(f"{'T':>11} {'table':>11} {'ms/step':>9} {'x first':>8} {'MiB':>8} {'x formula':>10}")
    first = None
    for kind, sizes in (
        ("sharded", args.tags),
        ("replicated", args.replicated),
        ("torchrec", args.torchrec),
    ):
        for tags in sizes:
            seconds, peak = measure(args.ranks, tags, kind, args.steps)
            first = first or seconds
            formula = -(-tags // args.ranks) * (EMBEDDING * 4 + 4)
            print(
                f"{tags:>11,} {kind:>11} {seconds * 1e3:9.1f} {seconds / first:8.2f} "
                f"{(peak - constant) / 2**20:8.0f} {peak / (formula + constant):10.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
