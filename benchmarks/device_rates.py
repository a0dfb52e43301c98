"""How fast a device takes training steps, copies features, and finds the best tags.

Work is timed in windows of several calls, the device waited for at the end of a window: a training loop does
not wait after each step either. A time is the median of the windows.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device_workload import BEST, Workload, precision, random_table
from distributed.data.rows import Rows
from distributed.training.drel_learner import PoolConfig
from distributed.training.optim import OptimConfig, StepResult
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.topk import topk_blockwise

Take = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured.

    Attributes:
        matmul: sides of the square matrices whose product gives the matmul rate.
        moved: bytes of what is copied.
        table_rows: T of the steps on tables of growing size; ``table_step`` is the step.
        topk_tags, topk_latents, topk_images: sizes of the scorer's part.
        compiled: how many of ``steps`` are measured compiled as well, in how many of ``precisions``.
        seconds: for a measurement, about.
    """

    name: str
    matmul: tuple[int, ...]
    moved: int
    steps: dict[str, Workload]
    table_step: Workload
    table_rows: tuple[int, ...]
    topk_tags: int
    topk_latents: tuple[int, ...]
    topk_images: tuple[int, ...]
    precisions: tuple[str, ...]
    compiled: int
    seconds: float


def _paper(dim: int, batch: int, **model: Any) -> Workload:
    """As the preset ``paper`` learns, without its momentum and start."""
    return Workload(
        dim=dim,
        batch=batch,
        tags=81,
        model=ModelConfig(**model),
        table=TableConfig(optimiser="sgd"),
    )


def _best(dim: int, batch: int, tags: int, candidates: int, **model: Any) -> Workload:
    """As the preset ``best`` learns."""
    return Workload(
        dim=dim,
        batch=batch,
        tags=tags,
        model=ModelConfig(**{**BEST, **model}),
        loss=LossConfig(kind="smooth", tag_weight_power=0.0),
        pool=PoolConfig(candidates=candidates),
        optim=OptimConfig(optimiser="adamw", lr=0.001, tf32=False),
    )


FULL = Sizes(
    name="full",
    matmul=(4096, 8192),
    moved=1 << 30,
    steps={
        "paper": _paper(4096, 1024),
        "paper, large batch": _paper(4096, 8192),
        "best": _best(2048, 4096, 100_000, 4096),
    },
    table_step=_best(2048, 1024, 0, 4096),
    table_rows=(1000, 100_000, 1_000_000, 10_000_000),
    topk_tags=1_000_000,
    topk_latents=(256, 1024),
    topk_images=(1, 64, 1024),
    precisions=("fp32", "tf32", "bf16"),
    compiled=3,
    seconds=1.0,
)
_SMALL_MODEL = {"image_hidden": 128, "tag_dim": 64, "tag_hidden": 96, "latent": 128}
_SMALL_ROWS = {"image_hidden": 128, "tag_dim": 128, "latent": 128}
_LINEAR = {"image_tower": "linear", "tag_tower": "none", "tag_dim": 128, "latent": 128}
SMALL = Sizes(
    name="small",
    matmul=(512,),
    moved=1 << 24,
    steps={
        # One matrix product: compiled without a C++ compiler, which takes a busy CPU a minute.
        "linear": _paper(256, 32, **_LINEAR),
        "paper": _paper(256, 32, **_SMALL_MODEL),
        "best": _best(128, 32, 2000, 256, **_SMALL_ROWS),
    },
    table_step=_best(128, 32, 0, 256, **_SMALL_ROWS),
    table_rows=(1000, 10_000, 100_000),
    topk_tags=20_000,
    topk_latents=(64,),
    topk_images=(1, 16),
    precisions=("fp32", "bf16"),
    compiled=1,
    seconds=0.1,
)


def begin_peak(device: torch.device) -> None:
    """From here on ``peak_bytes`` counts."""
    gc.collect()  # a learner refers to itself: without this it stays
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux: the highest resident size starts anew
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes that torch held at most on a GPU, else the whole process in memory (0: not known)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(take: Take, device: torch.device, seconds: float) -> float:
    """Seconds of a call: three to warm up, then the median of at least five windows."""
    for _ in range(3):
        take()
    wait_for(device)
    start = time.perf_counter()
    take()
    wait_for(device)
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, min(1000, int(seconds / 10 / once)))
    windows: list[float] = []
    began = time.perf_counter()
    while len(windows) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for _ in range(calls):
            take()
        wait_for(device)
        windows.append((time.perf_counter() - start) / calls)
    return sorted(windows)[len(windows) // 2]


def matmul_rates(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Multiply-adds times two a second of square matrices, the best size of each precision."""
    rates: dict[str, float] = {}
    for name in sizes.precisions:
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        for side in sizes.matmul:
            left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            with precision(name):
                took = seconds_of(partial(torch.matmul, left, right), device, sizes.seconds / 2)
            rates[name] = max(rates.get(name, 0.0), 2.0 * side**3 / took)
    return rates


def memory_rates(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Bytes a second: read, read and written, and from the host's memory, pageable and pinned."""
    count = sizes.moved // 4
    there = torch.empty(count, device=device).fill_(1.0)
    other = torch.empty_like(there)
    host = torch.ones(count)
    rates = {
        "read": sizes.moved / seconds_of(there.sum, device, sizes.seconds / 2),
        "copy": 2 * sizes.moved / seconds_of(lambda: other.copy_(there), device, sizes.seconds / 2),
        "host_pageable": sizes.moved
        / seconds_of(lambda: there.copy_(host), device, sizes.seconds / 2),
    }
    if device.type == "cuda":
        pinned = host.pin_memory()
        took = seconds_of(lambda: there.copy_(pinned, non_blocking=True), device, sizes.seconds / 2)
        rates["host_pinned"] = sizes.moved / took
    return rates


class Stepping:
    """Calls that take one step after another of a workload, from features on the device."""

    last: StepResult

    def __init__(self, workload: Workload, device: torch.device, **optim: Any) -> None:
        self.workload, self.step = workload, 0
        table = random_table(workload.tags, workload.model, workload.table, device)
        self.learner = workload.learner(device, table, **optim)
        rows = workload.rows(0)
        self.rows = Rows(rows.features_BD.to(device), rows.tags.to(device))

    def __call__(self) -> None:
        self.last = self.workload.take(self.learner, self.rows, self.step)
        self.step += 1

    def flops(self) -> int:
        """Multiply-adds times two of the matmuls of one step, counted as they are called."""
        with FlopCounterMode(display=False) as counter:
            self()
        return int(counter.get_total_flops())


def step_rates(
    device: torch.device, sizes: Sizes, matmul: dict[str, float], has_time: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    """Every workload in every precision, first all as they are, then all compiled.

    Args:
        matmul: what ``matmul_rates`` gave.
        has_time: asked before each measurement with its name; what it refuses is left out.
    """
    for compiled in (False, True):
        most = sizes.compiled if compiled else None
        for (title, workload), name in product(
            list(sizes.steps.items())[:most], sizes.precisions[:most]
        ):
            if not has_time(f"steps: {title}, {name}{', compiled' * compiled}"):
                continue
            where = {
                "workload": title,
                "features": workload.dim,
                "batch": workload.batch,
                "tags": workload.tags,
                "precision": name,
                "compile": compiled,
            }
            try:
                yield where | _step_rate(workload, device, name, compiled, sizes, matmul[name])
            except Exception as error:  # a compiler that is not there, memory that does not do
                text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                yield where | {"failed": text[:300]}
            if compiled:
                torch.compiler.reset()


def _step_rate(
    workload: Workload, device: torch.device, name: str, compiled: bool, sizes: Sizes, matmul: float
) -> dict[str, Any]:
    with precision(name) as options:
        flops = Stepping(workload, device, **options).flops()
        begin_peak(device)
        take = Stepping(workload, device, compile=compiled, **options)
        started = time.perf_counter()
        take()
        wait_for(device)
        first = time.perf_counter() - started
        took = seconds_of(take, device, sizes.seconds)
    images = workload.batch / took
    return {
        "ms": took * 1e3,
        "first_step_ms": first * 1e3,
        "images_per_second": images,
        "triplets_per_second": int(take.last.stats.triplets) / took,
        "pool": take.last.pool,
        "flops": flops,
        "flops_per_second": flops / took,
        "share_of_matmul_rate": flops / took / matmul,
        "feed_rows_per_second": images,
        "feed_bytes_per_second": images * workload.dim * 4,
        "peak_bytes": peak_bytes(device),
    }


def feed_rates(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """The last workload in bf16 from features that lie on the device, and from the host's memory, which
    ``run`` copies before it begins: as the training loop does."""
    workload = list(sizes.steps.values())[-1]
    with precision("bf16") as options:
        take = Stepping(workload, device, **options)
        host_BD = workload.rows(0).features_BD
        places = {"device": take.rows.features_BD, "pageable": host_BD}
        if device.type == "cuda":
            places["pinned"] = host_BD.pin_memory()
        found = []
        for name, features_BD in places.items():
            take.rows = replace(take.rows, features_BD=features_BD)
            took = seconds_of(take, device, sizes.seconds)
            rate = workload.batch / took
            found.append(
                {
                    "features_in": name,
                    "ms": took * 1e3,
                    "rows_per_second": rate,
                    "bytes_per_second": rate * workload.dim * 4,
                }
            )
    return found


def table_rates(
    device: torch.device, sizes: Sizes, free: int, has_time: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    """The same step on tables of growing size.

    Args:
        free: bytes of the device's memory that may be used; larger tables are left out.
    """
    for rows in sizes.table_rows:
        held = rows * (sizes.table_step.model.tag_dim + 1) * 4
        if held > free:
            yield {"rows": rows, "table_bytes": held, "left_out": f"only {free} bytes are free"}
            continue
        if not has_time(f"table: {rows} rows"):
            continue
        # A sample at every size; what the smallest table has is less than the others' pool.
        candidates = min(sizes.table_step.pool.candidates, rows - 1)
        workload = replace(sizes.table_step, tags=rows, pool=PoolConfig(candidates=candidates))
        with precision("fp32") as options:
            begin_peak(device)
            take = Stepping(workload, device, **options)
            took = seconds_of(take, device, sizes.seconds)
        yield {
            "rows": rows,
            "table_bytes": held,
            "ms": took * 1e3,
            "pool": take.last.pool,
            "peak_bytes": peak_bytes(device),
        }
        del take


def score_rates(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """The step's product of images and tags, whose rows lie one bias apart, beside rows without the bias:
    kernels may want rows that begin at multiples of 16 bytes."""
    workload = list(sizes.steps.values())[-1]
    found = []
    for name in sizes.precisions:
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        latent = workload.model.latent
        image_BL = torch.randn(workload.batch, latent, device=device, dtype=dtype)
        tag_PL1 = torch.randn(workload.pool.candidates, latent + 1, device=device, dtype=dtype)
        tag_PL, bias_P = tag_PL1[:, :-1].contiguous(), tag_PL1[:, -1].contiguous()
        with precision(name):
            as_it_is = partial(DREL.score, image_BL, tag_PL1)
            apart = seconds_of(as_it_is, device, sizes.seconds / 4)
            without_gaps = partial(torch.addmm, bias_P, image_BL, tag_PL.T)
            dense = seconds_of(without_gaps, device, sizes.seconds / 4)
        found.append({"precision": name, "with_bias_ms": apart * 1e3, "dense_ms": dense * 1e3})
    return found


def topk_rates(
    device: torch.device, sizes: Sizes, free: int, read_rate: float, has_time: Callable[[str], bool]
) -> Iterator[dict[str, Any]]:
    """The scorer's search: the best 5 of all tags for some images, fp32 and (CUDA) TF32.

    Args:
        free: bytes of the device's memory that may be used.
        read_rate: bytes a second that the device's memory was read at.
    """
    tags = sizes.topk_tags
    for latent in sizes.topk_latents:
        held = tags * latent * 4
        if 2 * held > free:
            yield {"tags": tags, "latent": latent, "left_out": f"only {free} bytes are free"}
            continue
        tag_TL, bias_T = torch.randn(tags, latent, device=device), torch.randn(tags, device=device)
        for name in [name for name in sizes.precisions if name != "bf16"]:
            for images in sizes.topk_images:
                if not has_time(f"topk: {images} of {tags} x {latent} {name}"):
                    continue
                image_BL = torch.randn(images, latent, device=device)
                search = partial(topk_blockwise, image_BL, tag_TL, 5, bias_T)
                with torch.inference_mode(), precision(name):
                    took = seconds_of(search, device, sizes.seconds / 2)
                yield {
                    "tags": tags,
                    "latent": latent,
                    "images": images,
                    "precision": name,
                    "ms": took * 1e3,
                    "tag_bytes_per_second": held / took,
                    "share_of_read_rate": held / took / read_rate,
                    "flops_per_second": 2.0 * images * tags * latent / took,
                }
