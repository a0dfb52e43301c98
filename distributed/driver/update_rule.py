"""Settings of an update that follow from its rows: how long it learns, and how fast.

An update that shows a model a small part of all rows must not move what the other rows have taught it. It
takes a share of the passes that a new model would take over all rows, old and new: of a million images few,
for more only learn its own rows by heart. Its batches are smaller than the model's were, for there are few of
them. The towers, which every tag shares, learn at a share of their rate:
the root of the part of all rows that the update learns from. Experiments: docs/log.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from distributed.data.replay_buffer import reservoir_rows
from distributed.driver.update_config import UpdateConfig
from distributed.training.config import TrainConfig
from distributed.training.size_rule import batch_size, epochs
from drel_core.auto import AUTO

_PASSES = 0.4  # of those that a new model takes over all rows
_FEWEST = 2
_LEAST = 0.01
_BATCH_POWER = 0.5  # of all rows: 512 images of 100,000, 1024 of a million


@dataclass(frozen=True)
class UpdateRows:
    """Numbers of rows.

    Attributes:
        new: to learn from.
        rehearsed: different ones beside them.
        known: that the older model has learned from, the rehearsed ones among them.
    """

    new: int
    rehearsed: int
    known: int

    @property
    def learned(self) -> int:
        return self.new + self.rehearsed

    @property
    def share(self) -> float:
        """The part of all rows, old and new, that the update learns from."""
        return min(1.0, self.learned / max(1, self.known + self.new))


def apply_update_rule(
    training: TrainConfig, config: UpdateConfig, rows: UpdateRows
) -> tuple[TrainConfig, str]:
    """The training run of an update, without ``AUTO``, and a line that says how it learns.

    Args:
        training: the older model's run with what the update's options say (``training_config``).
    """
    passes, towers, kept = config.epochs, config.towers, training.reservoir.rows
    if passes == AUTO:
        passes = max(_FEWEST, round(_PASSES * epochs(rows.known + rows.new)))
    if towers == AUTO:
        towers = max(_LEAST, round(math.sqrt(rows.share), 2))
    if kept == AUTO:
        kept = reservoir_rows(rows.known + rows.new)
    line = (
        f"learns {passes} passes, tags at {config.lr:g} and towers at {config.lr * towers:g} of the older "
        f"model's rates, rehearses {rows.rehearsed} of {rows.known} older images (docs/reference/settings.md)"
    )
    batch = training.batch_size
    if config.batch_size == AUTO:
        batch = min(batch, batch_size(rows.known + rows.new, power=_BATCH_POWER))
    training = replace(
        training,
        epochs=passes,
        batch_size=batch,
        optim=replace(training.optim, share=config.lr * towers),
        reservoir=replace(training.reservoir, rows=kept),
    )
    return training, line
