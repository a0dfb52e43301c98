"""Finite or not, and sums for mean and standard deviation: one pass over a unit's features.

A block is small enough to stay in the cache, so that the double copy of it costs no memory traffic.
Shapes: B rows, D feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BLOCK_VALUES = 1 << 17  # 1 MiB of float64


@dataclass(frozen=True)
class FeatureSums:
    """Sums over chosen rows, and where values are no finite float32.

    Attributes:
        sum_D, square_D: float64.
        bad: (row, position, value) of the first such value of each row that has one.
    """

    sum_D: np.ndarray
    square_D: np.ndarray
    bad: list[tuple[int, int, float]]


def feature_sums(
    value_BD: np.ndarray, chosen_B: np.ndarray | None, power: float | np.ndarray = 1.0
) -> FeatureSums:
    """Check all rows; sum ``sign(x)|x|^power`` and its square over chosen rows that are finite.

    Args:
        value_BD: float16, float32 or float64. A float64 beyond the range of float32 counts as not
            finite, because models compute in float32.
        chosen_B: bool; None: no sums (zeros).
        power: one number, or ``[D]``.
    """
    rows, dim = value_BD.shape
    total_D, square_D = np.zeros(dim), np.zeros(dim)
    bad: list[tuple[int, int, float]] = []
    step = max(1, _BLOCK_VALUES // max(1, dim))
    ones_D = np.ones(dim, dtype=np.float32)
    for start in range(0, rows, step):
        block_bD = value_BD[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            single_bD = block_bD.astype(np.float32, copy=False)
            # A row's sum is finite unless the row holds NaN or Inf (or merely overflows): a cheap
            # sign of suspects, and only those are looked at value by value.
            suspects = np.flatnonzero(~np.isfinite(single_bD @ ones_D))
        wrong = []
        for row in suspects:
            places = np.flatnonzero(~np.isfinite(single_bD[row]))
            if len(places):
                wrong.append(row)
                bad.append((start + int(row), int(places[0]), float(block_bD[row, places[0]])))
        if chosen_B is None:
            continue
        weight_b = chosen_B[start : start + step].astype(np.float64)
        with np.errstate(invalid="ignore"):  # a signalling NaN
            double_bD = block_bD.astype(np.float64)
        double_bD[wrong] = 0.0
        if np.any(power != 1.0):
            double_bD = np.copysign(np.abs(double_bD) ** power, double_bD)
        total_D += weight_b @ double_bD
        np.multiply(double_bD, double_bD, out=double_bD)
        square_D += weight_b @ double_bD
    return FeatureSums(total_D, square_D, bad)
