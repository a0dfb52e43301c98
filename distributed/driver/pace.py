"""How fast this machine trains, and with how much memory: a few steps of all workers at the real shapes.

The workers are processes of their own in one gloo group, as in a run, without Ray. They read a few rows, take
steps, score some rows and end; nothing is kept.

Shapes: R landmarks, D features, d dimensions of the kernel, T tags, N rows.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import multiprocessing

from distributed.data.blocks import load_rows
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.driver.sizes import landmarks
from distributed.runtime.ray_session import MALLOC
from distributed.storage.files import write_json
from distributed.storage.scratch import scratch_folder
from distributed.training import collectives
from distributed.training.build import build_drel_learner
from distributed.training.config import TrainConfig
from distributed.training.size_rule import DataSize

_SECONDS = 4.0  # for steps
_LEAST_STEPS, _MOST_STEPS = 3, 200
_MOST_TAGS = 200_000  # of a table that is only made to be measured
_SQUARE = 1024
_SCORED = 512


@dataclass(frozen=True)
class Pace:
    """What was measured, of the worker that has most.

    Attributes:
        step: seconds of a step.
        pool: tags of a step.
        score: seconds to score a row with all tags and count what is right.
        read: seconds to read a row of the store.
        multiply: floating-point operations a second, in matrices.
        held: bytes of a worker that has trained and scored, but for kernel, decisions and most rows.
    """

    step: float
    pool: int
    score: float
    read: float
    multiply: float
    held: int


def measure(config: TrainConfig, survey: StoreSurvey, world: int, cores: int) -> Pace:
    """
    Args:
        config: without ``AUTO``, of a method that learns in steps.
        survey: of rows of the store; its tags may be more than those of the rows.
        world: workers of the run; on this machine they share its cores.
    """
    threads = config.threads or max(1, cores // world)
    folder = scratch_folder()
    before = {name: os.environ.get(name) for name in MALLOC}
    os.environ.update(MALLOC)  # as workers have it
    try:
        near = min(world, cores)  # of a cluster's workers as many as have a core here
        images = max(1, config.batch_size // world)
        multiprocessing.spawn(
            _worker, (near, threads, str(folder), config, images, _smaller(survey)), nprocs=near
        )
        texts = [(folder / f"{rank}.json").read_text() for rank in range(near)]
        found = [Pace(**json.loads(text)) for text in texts]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    every = {name: [getattr(one, name) for one in found] for name in Pace.__dataclass_fields__}
    return Pace(
        **{name: (min if name == "multiply" else max)(all_) for name, all_ in every.items()}
    )


def _worker(
    rank: int,
    world: int,
    threads: int,
    folder: str,
    config: TrainConfig,
    images: int,
    survey: StoreSurvey,
) -> None:
    torch.set_num_threads(threads)
    place = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world)
    started = time.perf_counter()
    rows = _some_rows(config, survey, 2 * images)
    read = (time.perf_counter() - started) / len(rows)
    learner = build_drel_learner(config, survey, torch.device("cpu"))
    pools: list[int] = []

    def step(number: int) -> None:
        part = rows.select(torch.arange(number * images, (number + 1) * images) % len(rows))
        done = learner.run(
            part.features_BD,
            part.tags,
            epoch=0,
            step=number,
            progress=0.5,
            global_batch=images * world,
        )
        pools.append(done.pool)

    took = _steady(step)
    some = rows.select(torch.arange(min(len(rows), _SCORED)))
    started = time.perf_counter()
    learner.evaluate([some], config.k, torch.from_numpy(survey.count_T > 0))
    score = (time.perf_counter() - started) / len(some)
    pace = Pace(took, max(pools), score, read, _multiply_rate(), _own_peak())
    write_json(f"{folder}/{rank}.json", vars(pace))
    dist.barrier()
    # Not through the interpreter's own end: a thread of gloo may outlive the group and abort the process
    # (seen in 1 of 5 runs, torch 2.13; https://github.com/pytorch/pytorch/pull/179291).
    os._exit(0)


def _steady(step: Callable[[int], None]) -> float:
    """Seconds of a step, the median, after two that are not counted; as many steps on all ranks."""
    took: list[float] = []
    count = 2
    while len(took) < count:
        started = time.perf_counter()
        step(len(took))
        took.append(time.perf_counter() - started)
        if len(took) == 2:
            wanted = min(_MOST_STEPS, max(_LEAST_STEPS, int(_SECONDS / max(took[1], 1e-3))))
            every = collectives.sum_over_ranks(torch.tensor(wanted))
            count += int(every) // collectives.world_size()
    return float(np.median(took[2:]))


def _own_peak() -> int:
    """Bytes that this process, and no other, held when it held most: without files that are mapped."""
    status = Path("/proc/self/status")
    if not status.exists():  # no Linux
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    most, *mapped = (int(lines[name].split()[0]) for name in ("VmHWM", "RssFile", "RssShmem"))
    return (most - sum(mapped)) << 10


def _some_rows(config: TrainConfig, survey: StoreSurvey, wanted: int) -> Rows:
    parts, count = [], 0
    for selection in survey.train:
        parts.append(load_rows(selection, config.data.columns, survey.index))
        count += len(parts[-1])
        if count >= wanted:
            break
    return Rows.cat(parts)


def _smaller(survey: StoreSurvey) -> StoreSurvey:
    """At most so many tags as a table is made of here: a step's time is that of its pool."""
    if len(survey.names) <= _MOST_TAGS:
        return survey
    return replace(survey, names=survey.names[:_MOST_TAGS], count_T=survey.count_T[:_MOST_TAGS])


def _multiply_rate() -> float:
    one = torch.randn(_SQUARE, _SQUARE)
    one @ one
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < 0.3:
        one @ one
        count += 1
    return 2 * count * _SQUARE**3 / seconds


def kernel_seconds(config: TrainConfig, size: DataSize, world: int, pace: Pace) -> float:
    """Of the kernel regression: its sums over each worker's rows, and the solution, which each has to find in
    float64, at half the rate."""
    marks = landmarks(config, size)
    dims = min(config.kernel.dims or size.dim, size.dim)
    rows = size.rows / world
    sums = rows * (size.dim * dims + marks * dims + marks**2 + marks * size.tags)
    solve = marks**3 / 6 + marks**2 * size.tags
    basis = 10 * marks * size.dim * (dims + 32) * (dims < size.dim)
    return 2 * (sums + 2 * solve + basis) / pace.multiply


def with_more_tags(survey: StoreSurvey, tags: int) -> StoreSurvey:
    """A survey of some rows, with as many tags as the whole store is thought to have."""
    more = tags - len(survey.names)
    if more <= 0:
        return survey
    unseen = pa.array([f"\x00unseen {number}" for number in range(more)], pa.string())
    return replace(
        survey,
        names=pa.concat_arrays([survey.names, unseen]),
        count_T=np.concatenate([survey.count_T, np.ones(more, np.int64)]),
    )
