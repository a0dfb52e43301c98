"""Work over the units of a store: in this process where there is little, as Ray tasks where there is much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ray

from distributed.runtime.ray_session import start_ray
from drel_core.errors import InputError

Unit = TypeVar("Unit")
Answer = TypeVar("Answer")
_SLICE = 0.5  # seconds after which a stop that was asked for is seen
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
            done, flying = _first_done(flying)
            yield ray.get(done)
        flying.append(task.remote(unit))
    while flying:
        done, flying = _first_done(flying)
        yield ray.get(done)


def get_all(tasks: Sequence[ray.ObjectRef]) -> list[Any]:
    """The answers of Ray tasks, in their order.

    Raises:
        InputError, OSError: as a task raised it, without Ray's traceback in its text.
    """
    try:
        return list(ray.get(list(tasks)))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError | OSError):
            raise error.cause from None
        raise


def _first_done(flying: list[ray.ObjectRef]) -> tuple[ray.ObjectRef, list[ray.ObjectRef]]:
    """One whose answer is there, and the others. Waits in slices: within ``ray.wait`` no signal is seen."""
    while True:
        done, rest = ray.wait(flying, num_returns=1, timeout=_SLICE)
        if done:
            return done[0], rest
