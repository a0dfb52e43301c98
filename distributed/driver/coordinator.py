"""The actor through which workers, Ray Train's controller and the driver exchange the state of a run.

It is on the driver's node, so it lives as long as the driver and sees all attempts of a run: what a worker
group had done when it was lost, and what the next one begins with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import UserCallback

from distributed.driver.checkpoint_list import keep_copy
from distributed.runtime.signals import LoopAction
from distributed.storage.folder import Folder


def actor_name(run: str) -> str:
    """Of the coordinator of a run, as Ray finds it."""
    return f"drel-coordinator-{run}"


@dataclass(frozen=True)
class RunStatus:
    """What the driver learns from the coordinator.

    Attributes:
        lines: of progress, to be shown.
        running: workers are there; if not, for how many seconds (``idle``).
        refused: why no attempt can help, as a worker found: the input is wrong, or
        diverged: the training came to nothing.
        given_up: why the run does not go on.
        stopped: steps done when the run was stopped as asked.
    """

    lines: list[str]
    running: bool
    idle: float
    refused: str | None
    given_up: str | None
    stopped: int | None
    diverged: bool = False


class RunCoordinator:
    """State of one run. All times are of its own clock.

    Args:
        failures: how often in a row a run may fail without a new checkpoint between.
        every: steps between checkpoints.
    """

    def __init__(
        self, failures: int, every: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures, self.every, self.clock = failures, every, clock
        self.lines: list[str] = []
        self.action = LoopAction.GO_ON
        self.world = 0
        self.reach = 0  # the most steps that may be done
        self.seen = clock()  # last sign of life
        self.running = False
        self.open = False  # an attempt is under way
        self.lost: tuple[int, int, float] | None = None  # reach, workers and time before a restart
        self.begun = self.checkpoint = 0
        self.failed = 0
        self.checkpoint_failed = -1
        self.refused: str | None = None
        self.diverged = False
        self.given_up: str | None = None
        self.stopped: int | None = None

    # Workers.

    def may_begin(self) -> bool:
        """Whether a new attempt makes sense; asked by every rank before it does anything."""
        self.open = True
        return self.refused is None and self.given_up is None

    def begin(self, world: int, step: int) -> None:
        """Rank 0: an attempt is about to take its first step, with so many steps done."""
        if self.world:
            self.lost = (self.reach, self.world, self.seen)
        self.world, self.begun, self.running = world, step, True
        self.reach, self.seen = step, self.clock()

    def beat(self, done: int, until_next: int) -> int:
        """Rank 0: steps done, and how many more until it reports again. Gives what to do now."""
        now = self.clock()
        if self.lost is not None and done > self.begun:
            reach, world, since = self.lost
            lost = max(0, min(reach - self.begun, self.every))
            ranks = f"{self.world} worker" + "s" * (self.world > 1)
            before = "" if world == self.world else f" ({world} before)"
            self.lines.append(
                f"going on after {now - since:.1f} s with {ranks}{before} from step {self.begun}: "
                + (f"at most {lost} steps lost" if lost else "no step lost")
            )
            self.lost = None
        self.reach, self.seen = done + until_next, now
        return self.action

    def log(self, line: str) -> None:
        self.lines.append(line)

    def refuse(self, message: str, diverged: bool = False) -> None:
        """The input is wrong, or the training has diverged: no attempt can help."""
        self.refused, self.diverged = message, diverged

    def stopped_at(self, done: int) -> None:
        self.stopped = done

    # Ray Train's controller.

    def checkpoint_saved(self, done: int) -> None:
        """A checkpoint after so many steps is complete."""
        self.checkpoint = done

    def failure(self, what: str, detail: str) -> None:
        """The attempt failed. Too many in a row without a new checkpoint end the run."""
        self.running = False
        if not self.open:  # known: Ray Train tells it as long as the workers are there
            return
        self.open = False
        self.failed = 1 if self.checkpoint > self.checkpoint_failed else self.failed + 1
        self.checkpoint_failed = self.checkpoint
        if self.refused is not None:
            return
        if self.failed > self.failures:
            self.given_up = (
                f"failed {self.failed} times in a row without a new checkpoint between, the last time: "
                f"{what}\n{detail}"
            )
        else:
            self.lines.append(f"{what}; starting again from the last checkpoint")

    # The driver.

    def stop(self) -> None:
        self.action = LoopAction.STOP

    def status(self, after: int) -> RunStatus:
        """The state now, with the lines after the first ``after``."""
        idle = 0.0 if self.running else self.clock() - self.seen
        return RunStatus(
            self.lines[after:],
            self.running,
            idle,
            self.refused,
            self.given_up,
            self.stopped,
            self.diverged,
        )


class CoordinatorCallback(UserCallback):
    """Tells the coordinator what Ray Train's controller sees."""

    def __init__(self, coordinator: Any, checkpoints: Folder) -> None:
        self.coordinator, self.checkpoints = coordinator, checkpoints

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        if checkpoint is not None:
            keep_copy(self.checkpoints)
            self.coordinator.checkpoint_saved.remote(metrics[0]["done"])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Before the next attempt asks whether it may begin.
        detail = "\n".join(f"worker {rank}: {error}" for rank, error in worker_exceptions.items())
        what = failure_summary(worker_exceptions)
        ray.get(self.coordinator.failure.remote(what, detail))


def failure_summary(failures: dict[int, Exception]) -> str:
    """One line: the workers that are gone, or else the first error. When one is gone, the others fail
    in their next collective, which says nothing of the cause."""
    gone = sorted(
        rank for rank, error in failures.items() if isinstance(error, ray.exceptions.RayActorError)
    )
    if gone:
        names = ", ".join(map(str, gone))
        return f"lost worker{'s' * (len(gone) > 1)} {names} (process or node gone)"
    rank, error = min(failures.items())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"worker {rank} failed: {type(error).__name__}: {lines[-1] if lines else ''}"
