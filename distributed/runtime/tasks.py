"""Work over the units of a store: in this process where there is little, as Ray tasks where there is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ray

from distributed.runtime.ray_session import start_ray

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")
INLINE_BYTES = 256 << 20  # below this a task's start costs more than the work


def map_units(
    work: Callable[[Unit], Answer], units: Sequence[Unit], total_bytes: int, workers: int = 1
) -> Iterable[Answer]:
    """``work`` over units: here when there is little, as Ray tasks when much (then in any order).

    Args:
        workers: of the training that follows: a Ray that is started here has room for them.
    """
    if total_bytes <= INLINE_BYTES:
        yield from map(work, units)
        return
    start_ray(workers)
    yield from map_on_ray(work, units)


def map_on_ray(work: Callable[[Unit], Answer], units: Sequence[Unit]) -> Iterable[Answer]:
    """``work`` over units as Ray tasks, a few in flight; answers come as they are done."""
    task: Any = ray.remote(num_cpus=1, max_retries=3, retry_exceptions=False)(
        lambda unit: work(unit)
    )
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    flying: list[ray.ObjectRef] = []
    for unit in units:
        if len(flying) >= limit:
            done, flying = ray.wait(flying, num_returns=1)
            yield ray.get(done[0])
        flying.append(task.remote(unit))
    while flying:
        done, flying = ray.wait(flying, num_returns=1)
        yield ray.get(done[0])
