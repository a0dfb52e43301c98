"""Now and then, all ranks agree at the same step whether to go on; rank 0 says how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from distributed.runtime.signals import LoopAction
from distributed.training import collectives


class Heartbeat:
    """One all-reduce of two numbers about every ``seconds``, whatever a step takes.

    The step of the next beat follows from what was reduced, so that ranks agree on it as well.

    Args:
        begin: rank 0 tells the steps done before the first one of this attempt.
        ask: rank 0 tells the steps done and those until the next beat, and gets the order.
        notice: whether a node is about to go; called on all ranks together, every tenth beat. It says
            yes once for each such event.
    """

    def __init__(
        self,
        begin: Callable[[int], object] = lambda done: None,
        ask: Callable[[int, int], int] = lambda done, until: LoopAction.GO_ON,
        notice: Callable[[], bool] = lambda: False,
        device: torch.device | None = None,
        seconds: float = 0.5,
    ) -> None:
        self._begin, self.ask, self.notice = begin, ask, notice
        self.device, self.seconds = device, seconds
        self.every = self.until = 1
        self.beats = 0
        self.is_beat = False  # after the last step
        self.last = time.perf_counter()

    def begin(self, done: int) -> None:
        """Right before the first step, with ``done`` steps of the whole run behind."""
        if collectives.rank() == 0:
            self._begin(done)
        self.last = time.perf_counter()

    def after_step(self, done: int) -> LoopAction:
        """What to do after ``done`` steps of the whole run; the same answer on all ranks."""
        self.until -= 1
        self.is_beat = self.until <= 0
        if not self.is_beat:
            return LoopAction.GO_ON
        now = time.perf_counter()
        order = self.ask(done, self.every) if collectives.rank() == 0 else LoopAction.GO_ON
        local = torch.tensor([float(order), now - self.last], device=self.device)
        agreed, elapsed = collectives.sum_over_ranks(local).tolist()
        # The first beat comes after one step, which takes longer than others.
        per_step = max(elapsed / collectives.world_size() / self.every, 1e-6)
        self.every = self.until = min(max(1, int(self.seconds / per_step)), 2 * self.every, 1000)
        self.last = time.perf_counter()
        self.beats += 1
        noticed = self.beats % 10 == 0 and self.notice()
        return max(LoopAction(int(agreed)), LoopAction.CHECKPOINT if noticed else LoopAction.GO_ON)
