"""Is a model better than naming the most frequent tags? In figures that chance alone cannot give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("F1", "oF1", "P@1", "mAP")
_CHANCE = 1.5  # an order of images by chance comes out up to this times its expectation


def beats_floor(found: Mapping[str, Any]) -> bool:
    """Whether metrics, with those of the popularity floor under ``floor``, are above it.

    F1 is of means over tags, and popularity predicts k tags only: noise has a higher F1. So F1 must be higher
    and one of the figures over all pairs too: oF1 or P@1, or mAP clearly above that of a random order. A rule
    that chooses tags for macro F1 may give up oF1 and P@1 for it.
    """
    floor = found["floor"]
    overall = [_above(found, floor, "oF1"), _above(found, floor, "P@1")]
    overall.append(_above(found, floor, "mAP", _CHANCE))
    return _above(found, floor, "F1") and any(overall)


def beside_floor(found: Mapping[str, Any]) -> str:
    """The figures as text: ``F1 0.313 (floor 0.000), oF1 …``."""
    floor = found["floor"]
    there = [key for key in KEYS if found.get(key) is not None and floor.get(key) is not None]
    return ", ".join(f"{key} {found[key]:.3f} (floor {floor[key]:.3f})" for key in there)


def _above(
    found: Mapping[str, Any], floor: Mapping[str, Any], key: str, times: float = 1.0
) -> bool:
    mine, low = found.get(key), floor.get(key)
    return mine is not None and low is not None and mine > times * low
