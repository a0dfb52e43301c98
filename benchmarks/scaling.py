"""How a training step scales with ranks: images/s, bytes sent against the formula, and a prediction.

    python -m benchmarks.scaling [--part speed|bytes|predict] [--ranks 1 2 4] [--threads 4]

speed: the same global batch on 1, 2 and 4 gloo ranks, the same number of threads in total. bytes: what
the kernel counts as sent on the TCP connections of a rank, against ``step_cost.bytes_sent``. predict:
``step_cost.predict`` for 8 to 512 GPUs, and for the gloo ranks of this machine beside what they take.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.step_cost import Machine, Sizes, bytes_sent, multiplications, predict
from distributed.data.epoch import EpochPlan
from distributed.training import collectives
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists

_BYTES_SENT = 200
"""Place of ``tcpi_bytes_sent`` in the kernel's ``struct tcp_info`` (Linux 4.19 and later)."""


def sent_by_this_process() -> int:
    """Bytes that the kernel sent on this process's TCP connections, each counted since it was opened."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.type != socket.SOCK_STREAM or connection.family == socket.AF_UNIX:
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                if len(info) >= _BYTES_SENT + 8:
                    total += struct.unpack_from("<Q", info, _BYTES_SENT)[0]
    return total


@dataclass(frozen=True)
class Measured:
    """Of one rank: median seconds of a step, of its parts, and bytes sent in one."""

    seconds: float
    sent: float
    formula: dict[str, float]
    pool: float


def take_steps(sizes: Sizes, steps: int, warm: int = 3) -> Measured:
    """Steps of the preset ``best`` on this rank, of random images and tags."""
    rank, world = collectives.rank(), collectives.world_size()
    config = ModelConfig(
        image_hidden=sizes.image_hidden,
        tag_dim=sizes.tag_dim,
        tag_hidden=sizes.tag_hidden,
        latent=sizes.latent,
        activation="gelu",
        latent_activation=False,
        layer_norm=True,
        linear_path=True,
        normalise=True,
        tag_bias=True,
        metric="identity",
    )
    stepper = DRELLearner(
        DREL(sizes.dim, config),
        ShardedTagEmbedding(sizes.tags, config, TableConfig(), 0),
        torch.ones(sizes.tags, dtype=torch.int64),
        LossConfig(kind="smooth"),
        PoolConfig(candidates=sizes.candidates, sampler="uniform"),
        OptimConfig(optimiser="adamw", lr=1e-3),
        seed=0,
    )
    assert sum(p.numel() for p in stepper.model.parameters()) == sizes.parameters
    mine = EpochPlan.make(sizes.images, world, sizes.images).size(rank, 0)
    generator = torch.Generator().manual_seed(rank)
    many = round(sizes.tags_an_image)
    features_BD = torch.randn(mine, sizes.dim, generator=generator)
    pools, seconds, longest, relevant = [], [], [], []

    def take(step: int) -> None:
        tag_Bk = torch.randint(sizes.tags, (mine, many), generator=generator)
        lists = TagLists.from_lists([sorted(set(row)) for row in tag_Bk.tolist()])
        start = time.perf_counter()
        result = stepper.run(
            features_BD, lists, epoch=0, step=step, progress=0.0, global_batch=sizes.images
        )
        seconds.append(time.perf_counter() - start)
        pools.append(result.pool)
        longest.append(max(stepper._rows_per_rank))
        relevant.append(len(lists.values.unique()))

    for step in range(warm):
        take(step)
    collectives.barrier()
    seconds.clear(), pools.clear(), longest.clear(), relevant.clear()
    before = sent_by_this_process()
    for step in range(warm, warm + steps):
        take(step)
    sent = (sent_by_this_process() - before) / steps
    most = torch.tensor(relevant, dtype=torch.int64)
    if world > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    formula = bytes_sent(
        world,
        sizes.parameters,
        sum(longest) / steps,
        sizes.latent + 1,
        float(most.double().mean()) if sizes.tags > sizes.candidates else 0.0,
    )
    return Measured(sorted(seconds)[steps // 2], sent, formula, sum(pools) / steps)


def _rank(
    rank: int, world: int, port: int, threads: int, sizes: Sizes, steps: int, out: SimpleQueue[Any]
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    out.put((rank, take_steps(sizes, steps)))
    collectives.barrier()
    os._exit(0)  # see tests/helpers/spawn_ranks.py: the interpreter's own end may abort under gloo


def measure(world: int, threads: int, sizes: Sizes, steps: int) -> list[Measured]:
    """Of every rank, ``threads`` in total."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    out = context.SimpleQueue()
    here = replace(sizes, world=world)
    processes = [
        context.Process(
            target=_rank, args=(r, world, port, max(1, threads // world), here, steps, out)
        )
        for r in range(world)
    ]
    for process in processes:
        process.start()
    answers = dict(out.get() for _ in processes)
    for process in processes:
        process.join()
    return [answers[rank] for rank in range(world)]


def speed(ranks: list[int], threads: int, sizes: Sizes, steps: int, rounds: int) -> None:
    """Rounds alternate, because a shared machine's speed drifts."""
    found: dict[int, list[float]] = {world: [] for world in ranks}
    for _ in range(rounds):
        for world in ranks:
            found[world].append(max(m.seconds for m in measure(world, threads, sizes, steps)))
    print(
        f"\nB = {sizes.images}, D = {sizes.dim}, T = {sizes.tags}, {threads} threads in total, "
        f"{os.cpu_count()} cores, {rounds} rounds of {steps} steps"
    )
    print(f"{'ranks':>5} {'ms/step':>9} {'images/s':>9} {'of 1 rank':>10}")
    first = sorted(found[ranks[0]])[rounds // 2]
    for world, seconds in found.items():
        middle = sorted(seconds)[rounds // 2]
        print(
            f"{world:>5} {middle * 1e3:9.1f} {sizes.images / middle:9.0f} {first / middle:10.2f}",
            flush=True,
        )


def traffic(ranks: list[int], threads: int, sizes: Sizes, steps: int) -> None:
    """Large towers and small ones, where the pool's bytes are most; the pool all tags and sampled."""
    small = replace(sizes, dim=64, image_hidden=64, tag_hidden=64, candidates=4096)
    for shape in (replace(s, tags=t) for s in (sizes, small) for t in (s.candidates, s.tags)):
        print(
            f"\nD = {shape.dim}, {shape.parameters:,} parameters, T = {shape.tags}, pool: "
            f"{'all tags' if shape.tags <= shape.candidates else 'sampled'}"
        )
        print(f"{'ranks':>5} {'sent, bytes':>12} {'formula':>12} {'ratio':>6}   by collective")
        for world in [w for w in ranks if w > 1]:
            of_rank = measure(world, threads, shape, steps)
            for one in of_rank[:1] if len({round(m.sent) for m in of_rank}) == 1 else of_rank:
                total = sum(one.formula.values())
                parts = ", ".join(
                    f"{name.partition(',')[0]} {n:,.0f}" for name, n in one.formula.items()
                )
                print(
                    f"{world:>5} {one.sent:12,.0f} {total:12,.0f} {one.sent / total:6.3f}   {parts}",
                    flush=True,
                )


GPU = Machine(
    flops=0.35 * 989e12,
    fixed=1.5e-3,
    optimiser=2.0e12,
    local=300e9,
    wide=320e9,
    local_hop=2e-6,
    wide_hop=10e-6,
    ranks_a_node=8,
    overlap=0.8,
)
"""An assumed H100 node with 8 x 400 Gb/s: 35% of the bf16 peak, 80% of the network."""
SLOW = replace(GPU, wide=10e9)
"""The same with one 100 Gb/s card a node."""
GPU_SIZES = Sizes(
    images=0,
    world=1,
    dim=4096,
    image_hidden=2048,
    tag_dim=256,
    tag_hidden=512,
    latent=256,
    tags=1_000_000,
    candidates=8192,
    tags_an_image=3,
    zipf=1.0,
    item_bytes=2,
)


def gpus() -> None:
    """Weak scaling (1024 images a rank) and strong scaling (65536 images in all)."""
    print(
        "\nGPUs, predicted; D = 4096, H = 2048, h = 512, L = 256, E = 256, T = 1,000,000 with Zipf's "
        "frequencies, 8192 candidates, 3 tags an image, bf16"
    )
    print(
        f"{'':>26} {'ranks':>5} {'P':>7} {'ms/step':>8} {'images/s':>11} {'efficiency':>10}   "
        "compute, pool, towers, optimiser, fixed in ms; MB sent"
    )
    slow, uniform = "weak, 100 Gb/s a node", "weak, all tags as frequent"
    for name, a_rank, in_all in (
        ("weak", 1024, 0),
        (slow, 1024, 0),
        (uniform, 1024, 0),
        ("strong", 0, 65536),
    ):
        first = 0.0
        for world in (8, 16, 32, 64, 128, 256, 512):
            sizes = replace(
                GPU_SIZES,
                world=world,
                images=in_all or a_rank * world,
                zipf=0.0 if name == uniform else 1.0,
            )
            parts = predict(sizes, SLOW if name == slow else GPU)
            rate = sizes.images / parts["step"]
            first = first or rate / world
            sent = bytes_sent(
                world,
                sizes.parameters,
                sizes.pool / world,
                sizes.latent + 1,
                sizes.relevant_of_rank,
                sizes.item_bytes,
            )
            shown = ", ".join(
                f"{parts[part] * 1e3:.2f}"
                for part in ("compute", "pool", "towers", "optimiser", "fixed")
            )
            print(
                f"{name:>26} {world:>5} {sizes.pool:7.0f} {parts['step'] * 1e3:8.2f} {rate:11,.0f} "
                f"{rate / world / first:10.2f}   {shown}; {sum(sent.values()) / 1e6:.0f}"
            )


def this_machine(ranks: list[int], threads: int, sizes: Sizes, steps: int) -> None:
    """The same model of a step, with constants of one rank and of one collective of this machine."""
    one = measure(1, threads, sizes, steps)[0]
    alone = replace(sizes, world=1)
    flops = 2 * sum(multiplications(alone).values()) / one.seconds
    loop = _all_reduce_rate(threads)
    machine = Machine(
        flops=flops,
        fixed=0.0,
        optimiser=float("inf"),
        local=loop,
        wide=loop,
        local_hop=2e-4,
        wide_hop=0.0,
        ranks_a_node=1 << 30,
        overlap=0.0,
    )
    print(
        f"\ngloo on this machine: one rank {flops / 1e9:.0f} GFLOP/s in a whole step, an all-reduce of "
        f"two ranks sends {loop / 1e6:.0f} MB/s a rank"
    )
    print(f"{'ranks':>5} {'predicted ms':>12} {'measured ms':>12} {'ratio':>6}")
    for world in [w for w in ranks if w > 1]:
        shared = replace(machine, flops=flops / world)
        told = predict(replace(sizes, world=world), shared)["step"]
        took = max(m.seconds for m in measure(world, threads, sizes, steps))
        print(f"{world:>5} {told * 1e3:12.1f} {took * 1e3:12.1f} {told / took:6.2f}", flush=True)


def _all_reduce_worker(rank: int, port: int, out: SimpleQueue[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    numbers = torch.ones(4 << 20)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        dist.all_reduce(numbers)
        times.append(time.perf_counter() - start)
    out.put(numbers.nbytes / sorted(times[2:])[5])  # a rank of two sends as much as there is
    dist.barrier()
    os._exit(0)


def _all_reduce_rate(threads: int) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    out = context.SimpleQueue()
    processes = [context.Process(target=_all_reduce_worker, args=(r, port, out)) for r in (0, 1)]
    for process in processes:
        process.start()
    rates = [out.get() for _ in processes]
    for process in processes:
        process.join()
    return min(rates)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        choices=["speed", "bytes", "predict"],
        nargs="+",
        default=["speed", "bytes", "predict"],
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=4, help="of all ranks together")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sizes = Sizes(
        images=1024,
        world=1,
        dim=4096,
        image_hidden=2048,
        tag_dim=256,
        tag_hidden=512,
        latent=256,
        tags=100_000,
        candidates=1024,
        tags_an_image=3,
    )
    if "speed" in args.part:
        speed(args.ranks, args.threads, sizes, args.steps, args.rounds)
    if "bytes" in args.part:
        traffic(args.ranks, args.threads, sizes, args.steps)
    if "predict" in args.part:
        this_machine(args.ranks, args.threads, sizes, args.steps)
        gpus()


if __name__ == "__main__":
    main()
