"""The pooled step against the paper's literal per-triplet step, and against the matmul peak.

    python -m benchmarks.train_step [--precision fp32|bf16]

Same model (the paper's sizes for D), same images and tags, same dtype, one process. The floor is the
rate of plain matmuls of the step's own shapes and of a 2048-cube, measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable

import torch

from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig, literal_triplet_loss
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists


def median_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median time of a call, over at least three calls and about ``seconds``."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def step_flops(model: DREL, batch: int, pool: int) -> float:
    """Multiply-adds of one pooled step, times two: forward, and backward to weights and inputs.

    The images need no gradient, so a first layer's input gradient is not counted.
    """
    config = model.config
    dim, hidden = model.image_dim, config.hidden_for(model.image_dim)
    latent = config.latent
    image = batch * (2 * dim * hidden + 3 * hidden * latent)
    tag = pool * 3 * (config.tag_dim * config.tag_hidden + config.tag_hidden * latent)
    metric = 3 * min(batch, pool) * latent * latent
    scores = 3 * batch * pool * latent
    return 2.0 * (image + tag + metric + scores)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / median_seconds(lambda: left @ right, device, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--tags", type=int, default=81)
    parser.add_argument("--literal", type=int, default=256, help="triplets of a literal step")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each measurement")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    bf16 = args.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32

    torch.manual_seed(0)
    config = ModelConfig()
    stepper = DRELLearner(
        DREL(args.dim, config),
        ShardedTagEmbedding(args.tags, config, TableConfig(optimiser="sgd"), 0, device),
        torch.ones(args.tags, dtype=torch.int64),
        LossConfig(),
        PoolConfig(),
        OptimConfig(precision=args.precision),
        seed=0,
        device=device,
    )
    features_BD = torch.randn(args.batch, args.dim, device=device)
    tags = TagLists.from_lists(
        torch.randperm(args.tags)[: 2 + i % 4].sort().values.tolist() for i in range(args.batch)
    ).to(device)
    triplets = 0

    def pooled() -> None:
        nonlocal triplets
        result = stepper.run(
            features_BD, tags, epoch=0, step=0, progress=0.0, global_batch=args.batch
        )
        triplets = int(result.stats.triplets)

    image_n = torch.randint(args.batch, (args.literal,))
    positive_n = tags.values[tags.offsets[image_n]]
    negative_n = (positive_n + 1) % args.tags
    table = stepper.table.local

    def literal() -> None:
        context = torch.autocast(device.type, dtype) if bf16 else contextlib.nullcontext()
        negative, positive = table.rows(negative_n), table.rows(positive_n)
        stepper.optimiser.zero_grad(set_to_none=True)
        with context:
            loss = literal_triplet_loss(
                stepper.model, features_BD[image_n], negative, positive, margin=1.0
            )
        loss.backward()
        stepper.optimiser.step()
        for tag, rows in ((negative_n, negative), (positive_n, positive)):
            assert rows.grad is not None
            table.weight_nE.index_add_(0, tag, rows.grad, alpha=-0.1)

    peak = matmul_rate(device, dtype)
    pooled_seconds = median_seconds(pooled, device, args.seconds)
    literal_seconds = median_seconds(literal, device, args.seconds)
    peak_after = matmul_rate(device, dtype)
    peak = max(peak, peak_after)
    flops = step_flops(stepper.model, args.batch, args.tags)
    pooled_rate = triplets / pooled_seconds
    literal_rate = args.literal / literal_seconds
    row = 4 if not bf16 else 2
    print(
        f"D={args.dim} B={args.batch} T={args.tags} {args.precision} on {device}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"pooled   {pooled_seconds * 1e3:9.1f} ms/step  {triplets:,} triplets  "
        f"{pooled_rate:,.0f} triplets/s  {args.batch / pooled_seconds:,.0f} images/s"
    )
    print(
        f"literal  {literal_seconds * 1e3:9.1f} ms/step  {args.literal:,} triplets  "
        f"{literal_rate:,.0f} triplets/s"
    )
    print(f"ratio    {pooled_rate / literal_rate:9.1f} x")
    print(
        f"matmul   {flops / pooled_seconds / 1e9:9.1f} GFLOP/s of {peak / 1e9:.1f} measured: "
        f"{flops / pooled_seconds / peak:.1%}"
    )
    print(
        f"feed     {args.batch / pooled_seconds * args.dim * row / 1e6:9.1f} MB/s of "
        f"{args.precision} features keep this device busy"
    )


if __name__ == "__main__":
    main()
