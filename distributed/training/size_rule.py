"""Settings that follow from the size of the data: how an option that says ``AUTO`` gets its value.

What regularises helps a few thousand images and harms a million, and a million images do not train 30
times. The rule has one number for both ends, the strength ``s = min(1, 20,000 / rows)``, and was chosen over
stores of 4,500 to a million rows (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from distributed.data.replay_buffer import reservoir_rows
from distributed.training.config import TrainConfig, option, with_option
from drel_core.auto import AUTO

_FULL = 20_000  # rows up to which all regularisation is in force
_LEAST = 0.02  # a smaller share of units dropped, or of noise, does nothing and costs time


def _strength(rows: int) -> float:
    return min(1.0, _FULL / rows)


def _share(full: float, least: float = 0.0) -> Callable[[int, int], float]:
    """``full`` times the strength; 0 where that is below ``least``."""

    def value(rows: int, tags: int) -> float:
        share = round(full * _strength(rows), 4)
        return share if share >= least else 0.0

    return value


def epochs(rows: int, tags: int = 0) -> int:
    """30 up to 10,000 rows, 8 for 100,000, 2 for a million."""
    return max(1, min(30, round(30 * (10_000 / rows) ** 0.6)))


def batch_size(rows: int, tags: int = 0, power: float = 1.0) -> int:
    """128 up to 10,000 rows, then with the rows: 1024 for 100,000, 4096 for a million; with a power of them
    where one is given."""
    doublings = round(power * math.log2(max(rows, 10_000) / 10_000))
    return int(128 * 2 ** min(doublings, 5))


def _scale(rows: int, tags: int) -> float:
    """``2 log T``: a cosine of 1/2 then tells a tag from all others."""
    return round(2 * math.log(max(tags, 10)), 2)


def _landmarks(rows: int, tags: int) -> int:
    return 5000 if rows <= _FULL else 0


def _reservoir(rows: int, tags: int) -> int:
    return reservoir_rows(rows)


_RULE: dict[str, Callable[[int, int], float]] = {
    "epochs": epochs,
    "batch_size": batch_size,
    "model.input_dropout": _share(0.5, _LEAST),
    "model.input_noise": _share(0.3, _LEAST),
    "model.dropout": _share(0.3, _LEAST),
    "model.scale": _scale,
    "loss.tag_weight_power": _share(0.5, _LEAST),
    "optim.weight_decay": _share(1.0),
    "kernel.landmarks": _landmarks,
    "reservoir.rows": _reservoir,
}


def apply_size_rule(config: TrainConfig, rows: int, tags: int) -> tuple[TrainConfig, str]:
    """The configuration without ``AUTO``, and a line that says what the rule gave; empty if nothing.

    Args:
        rows: training images.
        tags: T.
    """
    values = {
        name: rule(rows, tags) for name, rule in _RULE.items() if option(config, name) == AUTO
    }
    for name, value in values.items():
        config = with_option(config, name, value)
    if not values:
        return config, ""
    shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return config, f"settings for {rows} rows and {tags} tags (docs/settings.md): {shown}"


def settled(config: TrainConfig) -> dict[str, Any]:
    """By dotted name, the values of all options that follow from the data where they say ``AUTO``."""
    return {name: option(config, name) for name in ("model.power", "model.power_blocks", *_RULE)}
