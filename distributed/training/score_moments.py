"""Where a model's scores lie, so that what was learned from one model's scores can serve another's.

A loss over triplets knows differences of scores alone. Two fits to the same rows can therefore end with
scores that differ by a constant, beside being spread further or less far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from drel_core.decision.decider import Decider

_MOST = 10.0
"""Times that scores may be scaled: beyond it one of two models has hardly learned."""


@dataclass(frozen=True)
class ScoreMoments:
    """Of a model's scores of some images and tags.

    Attributes:
        mean: their mean.
        deviation: their standard deviation.
    """

    mean: float
    deviation: float


def for_moments(
    decider: Decider, kernel_factor: float | None, before: ScoreMoments | None, now: ScoreMoments
) -> tuple[Decider, float | None]:
    """A decider and the weight of the kernel's evidence, for scores that have come to lie elsewhere.

    Args:
        before: of the scores that both were learned from, and of the same images and tags as ``now``. None,
            or without a deviation, as of a single pair: both stay as they are.
    """
    if before is None or not before.deviation or not now.deviation:
        return decider, kernel_factor
    factor = min(max(before.deviation / now.deviation, 1 / _MOST), _MOST)
    calibration = decider.calibration.moved(factor, before.mean - factor * now.mean)
    return (
        replace(decider, calibration=calibration),
        None if kernel_factor is None else kernel_factor / factor,
    )
