"""What the training loop asks of the thing that learns; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distributed.data.rows import Rows
from distributed.training.optim import StepResult
from drel_core.scoring.tag_lists import TagLists


class Learner(Protocol):
    """One rank's part of a model in training.

    Attributes:
        model: what all ranks hold alike.
        optimiser: of the model's parameters.
    """

    optimiser: torch.optim.Optimizer

    @property
    def model(self) -> nn.Module: ...

    def run(
        self,
        features_BD: Tensor,
        tags: TagLists,
        *,
        epoch: int,
        step: int,
        progress: float,
        global_batch: int,
    ) -> StepResult:
        """Learn from this rank's part of a global batch (it may be empty)."""
        ...

    def sharded_state(self) -> dict[str, Any]:
        """State that lies in parts over the ranks, as tensors that a checkpoint fills in place."""
        ...

    def evaluate(self, batches: Iterable[Rows], k: int, trained_T: Tensor) -> dict[str, Any]:
        """Metrics over all ranks' rows; the same answer on all ranks."""
        ...

    def write(self, folder: Path) -> dict[str, Any]:
        """Write this rank's tensors of the bundle; gives what ``config.json`` says of them."""
        ...
