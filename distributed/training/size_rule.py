"""Settings that follow from the size of the data: how an option that says ``AUTO`` gets its value.

What regularises helps a few thousand images and harms a million, and a million images do not train 30
times. The rule has one number for both ends, the strength ``s = min(1, 20,000 / rows)``, and was chosen over
stores of 4,500 to a million rows (docs/log.md). Dropout and noise keep the towers from learning images by
heart, which is easy where an image has many features: theirs is 8 D / rows, falls faster from 25 rows a
feature on, to .075, and is at most s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed.data.replay_buffer import reservoir_rows
from distributed.data.survey import StoreSurvey
from distributed.training.config import TrainConfig, option, with_option
from drel_core.auto import AUTO

_FULL = 20_000  # rows up to which all regularisation is in force
_LEAST = 0.02  # a smaller share of units dropped, or of noise, does nothing and costs time


_ROWS_PER_FEATURE = 8  # up to which dropout and noise are in full force
_ENOUGH_ROWS = 19  # a feature; (19 D / rows)^4 is the smaller one from 25 rows a feature on
_NOISE = 0.075  # what stays of them with any number of features


@dataclass(frozen=True)
class DataSize:
    """Training images, T and D."""

    rows: int
    tags: int
    dim: int

    @staticmethod
    def of(survey: StoreSurvey) -> DataSize:
        return DataSize(survey.train_rows, len(survey.names), survey.image_dim)

    @property
    def strength(self) -> float:
        return min(1.0, _FULL / self.rows)

    @property
    def noise(self) -> float:
        """The strength of dropout and noise."""
        features = self.dim / self.rows
        falling = min(_ROWS_PER_FEATURE * features, (_ENOUGH_ROWS * features) ** 4)
        return min(self.strength, max(_NOISE, falling))


def _least(share: float) -> float:
    share = round(share, 4)
    return share if share >= _LEAST else 0.0


def epochs(rows: int) -> int:
    """30 up to 10,000 rows, 8 for 100,000, 2 for a million."""
    return max(1, min(30, round(30 * (10_000 / rows) ** 0.6)))


def batch_size(rows: int, power: float = 1.0) -> int:
    """128 up to 10,000 rows, then with the rows: 1024 for 100,000, 4096 for a million; with a power of them
    where one is given."""
    doublings = round(power * math.log2(max(rows, 10_000) / 10_000))
    return int(128 * 2 ** min(doublings, 5))


_RULE: dict[str, Callable[[DataSize], float]] = {
    "epochs": lambda size: epochs(size.rows),
    "batch_size": lambda size: batch_size(size.rows),
    "model.input_dropout": lambda size: _least(0.5 * size.noise),
    "model.input_noise": lambda size: _least(0.3 * size.noise),
    "model.dropout": lambda size: _least(0.3 * size.noise),
    # A cosine of 1/2 then tells a tag from all others.
    "model.scale": lambda size: round(2 * math.log(max(size.tags, 10)), 2),
    "loss.tag_weight_power": lambda size: _least(0.5 * size.strength),
    "optim.weight_decay": lambda size: round(size.strength, 4),
    "kernel.landmarks": lambda size: 5000 if size.rows <= _FULL else 0,
    "reservoir.rows": lambda size: reservoir_rows(size.rows),
}


def apply_size_rule(config: TrainConfig, size: DataSize) -> tuple[TrainConfig, str]:
    """The configuration without ``AUTO``, and a line that says what the rule gave; empty if nothing."""
    values = {name: rule(size) for name, rule in _RULE.items() if option(config, name) == AUTO}
    for name, value in values.items():
        config = with_option(config, name, value)
    if not values:
        return config, ""
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return config, (
        f"settings for {size.rows} rows, {size.tags} tags and D = {size.dim} "
        f"(docs/reference/settings.md): {shown}"
    )


def settled(config: TrainConfig) -> dict[str, Any]:
    """By dotted name, the values of all options that follow from the data where they say ``AUTO``."""
    names = ("model.power", "model.power_blocks", "tags.text", *_RULE)
    return {name: option(config, name) for name in names}
