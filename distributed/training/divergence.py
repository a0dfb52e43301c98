"""What ends badly is noticed: values that are no numbers, a loss that stays where it began."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distributed.training.run_spec import RunSpec
from drel_core.errors import Diverged

_START_STEPS = 50  # at most, and at most a hundredth of the run
_MOVED = 0.02  # share of the first loss
_JUDGED = 0.3  # share of the steps after which the loss must have moved


def check_finite(spec: RunSpec, model: nn.Module, gradient_norm: Tensor, step: int) -> None:
    """End a run whose towers or whose gradient hold NaN or Inf. Makes a GPU wait, so not for every step.

    Towers and gradient are the same on all ranks: where all look after the same step, all end.

    Args:
        gradient_norm: of the last step.
        step: the last one of the run.

    Raises:
        Diverged: says what to change.
    """
    if (wrong := _not_finite(model, gradient_norm)) is not None:
        raise diverged(spec, f"after step {step} {wrong} holds NaN or Inf")


def _not_finite(model: nn.Module, gradient_norm: Tensor) -> str | None:
    norms = [gradient_norm, torch.nn.utils.get_total_norm(list(model.parameters()))]
    gradient, weights = torch.stack([norm.detach().float() for norm in norms]).tolist()
    if not math.isfinite(gradient):
        return "the gradient"
    return None if math.isfinite(weights) else "the model"


def diverged(spec: RunSpec, what: str) -> Diverged:
    """The error that says what was seen and what to change."""
    config = spec.config
    change = f"--optim.lr (now {config.optim.lr:g}) or --table.lr (now {config.table.lr:g})"
    if spec.parent is not None:
        change = "--lr"
    if config.optim.precision != "fp32":
        change += f", or with --optim.precision fp32 (now {config.optim.precision})"
    return Diverged(
        f"training diverged: {what}; no model was written. Train again in a new --out with a lower {change}"
    )


class LossCourse:
    """Whether the loss of one rank has moved from where it began.

    Args:
        total: steps of the whole run.
        start: the loss at its start, where an earlier attempt saw it.
        fresh: the run is at its first step.
    """

    def __init__(self, total: int, start: float | None, fresh: bool) -> None:
        self.total, self.start = total, start
        self.missing = max(1, min(_START_STEPS, total // 100)) if fresh else 0
        self.sums: list[Tensor] = []
        self.latest: float | None = None
        self.judged = False

    def step(self, loss_and_weight: Tensor) -> None:
        """Sums of the loss and of its weight in a step."""
        if len(self.sums) < self.missing:
            self.sums.append(loss_and_weight)

    def settle(self) -> float | None:
        """The loss at the start, once all of its steps are taken."""
        if self.start is None and self.missing and len(self.sums) == self.missing:
            total, weight = torch.stack(self.sums).sum(0).tolist()
            self.start = total / max(weight, 1e-12)
        return self.start

    def line(self, loss: float, step: int) -> None:
        """The mean loss since the last line, after ``step`` steps of the run."""
        self.settle()
        self.latest = loss
        self.judged = step >= _JUDGED * self.total

    @property
    def unmoved(self) -> str | None:
        """What to say where the loss is still where it began, after a third of the steps."""
        start, latest = self.start, self.latest
        if start is None or latest is None or not self.judged:
            return None
        if latest < start - _MOVED * abs(start):
            return None
        return f"the loss has not moved from its start ({start:.4f}, now {latest:.4f})"
