"""How good the model is while it learns, beside the popularity floor on the same rows.

These figures are for people. What stops a run early, or chooses its best epoch, is validation alone.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from distributed.data.epoch import ShardReader
from distributed.data.survey import WatchPlan
from distributed.training import collectives
from distributed.training.config import PICTURE_METHODS, TrainConfig
from distributed.training.divergence import diverged
from distributed.training.learner import Learner
from distributed.training.optim import sum_counts
from distributed.training.run_spec import RunSpec
from drel_core.annotators.popularity import floor_counts
from drel_core.errors import InputError
from drel_core.scoring.topk import NoBestScore

TRAINING_ROWS, HELD_OUT_ROWS, VALIDATION_ROWS = "training rows", "held-out rows", "validation rows"
MOST_ROWS, MOST_PICTURES = 1000, 200
HELD_OUT_FROM = 20_000  # rows of a store: from here on 2% are not missed
_SHARE = 0.02
_TIME = 0.03  # of the training time, for looks between the first and the last
_LOOKS = 10


def watch_plan(config: TrainConfig, rows: int) -> WatchPlan | None:
    """Which of ``rows`` rows of a store are scored while training; None where none are.

    With ``data.watch`` so many are held out. Else it follows from the size: of a large store 2% are held out,
    1000 at most; of a smaller one training rows are scored, which stay in training. Pictures, which take long
    to score, are fewer.

    Raises:
        InputError: more than half of the rows are asked for.
    """
    asked, seed = config.data.watch, config.seed
    in_epochs = config.method in ("drel", "wsabie", *PICTURE_METHODS)
    if config.data.validation or asked == 0 or not in_epochs:
        return None
    if asked is not None:
        if 2 * asked > rows:
            raise InputError(
                f"data.watch {asked} holds out more than half of {rows} rows; use a smaller number, or 0"
            )
        return WatchPlan(asked, True, seed)
    most = MOST_PICTURES if config.method in PICTURE_METHODS else MOST_ROWS
    if rows >= HELD_OUT_FROM:
        return WatchPlan(min(most, int(_SHARE * rows)), True, seed)
    return WatchPlan(min(most, rows), False, seed)


class WatchedRows:
    """Rows that are scored while a model is trained. All ranks look together and get the same figures.

    Args:
        reader: this rank's part of the rows.
        kind: what rows these are, for people.
    """

    def __init__(self, spec: RunSpec, learner: Learner, reader: ShardReader, kind: str) -> None:
        self.spec, self.learner, self.reader, self.kind = spec, learner, reader, kind
        self.count_T = torch.tensor(spec.survey.count_T)
        self.floor: dict[str, Any] | None = None

    def look(self) -> dict[str, Any]:
        """Metrics of the model as it is, with the floor's under ``floor`` and the ``kind`` of rows.

        Raises:
            Diverged: scores are NaN or infinite.
        """
        k = self.spec.config.k
        try:
            found = self.learner.evaluate(self.reader.epoch(0), k, self.count_T > 0)
        except NoBestScore:
            raise diverged(self.spec, "scores hold NaN or Inf") from None
        if self.floor is None:
            self.floor = self._popularity(k)
        return {**found, "floor": self.floor, "kind": self.kind}

    def _popularity(self, k: int) -> dict[str, Any]:
        found = floor_counts(self.count_T, self.reader.load().tags, k)
        metrics = sum_counts(found, device_of(self.learner)).result(self.count_T > 0)
        return {key: metrics[key] for key in ("F1", "N+", "oF1", "P@1")}


class LookPace:
    """When to look: after a tenth of the steps, then after every tenth as long as looks take little time, and
    at the end.

    Args:
        first: steps that were done before this attempt.
        total: steps of the whole run.
    """

    def __init__(self, first: int, total: int, device: torch.device) -> None:
        self.first, self.total, self.device = first, total, device
        self.places = {max(1, round(total * part / _LOOKS)) for part in range(1, _LOOKS + 1)}
        self.begun = time.perf_counter()
        self.spent = self.last = 0.0

    def due(self, done: int) -> bool:
        """Whether to look after ``done`` steps; the same answer on all ranks, which call together."""
        if done not in self.places:
            return False
        if done == self.total or not self.last:
            return True
        # The time that the whole attempt will take, at its pace so far; this look and the last one cost as
        # much as the one before.
        whole = (time.perf_counter() - self.begun) * (self.total - self.first) / (done - self.first)
        local = torch.tensor([whole, self.spent + 2 * self.last], device=self.device)
        budget, cost = collectives.sum_over_ranks(local).tolist()
        return bool(cost <= _TIME * budget)

    def looked(self, seconds: float) -> None:
        """A look took so long."""
        self.last = seconds
        self.spent += seconds


def device_of(learner: Learner) -> torch.device:
    """Where a learner's model lies."""
    return next(learner.model.parameters()).device
