"""Is a model better than naming the most frequent tags? In figures that chance alone cannot give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("F1", "oF1", "P@1", "mAP")
BELOW = "the model does not beat the popularity floor"


def beats_floor(found: Mapping[str, Any]) -> bool:
    """Whether metrics, with those of the popularity floor under ``floor``, are above it.

    F1 is of means over tags, and popularity predicts k tags only: noise has a higher F1. So oF1 must be
    higher too. P@1 does not do in its place: that of a model which names the most frequent tag first is the
    floor's, more or less by chance. Nor does mAP: it is high where each tag finds its images, however badly
    an image finds its tags.
    """
    return _above(found, "F1") and _above(found, "oF1")


def beside_floor(found: Mapping[str, Any]) -> str:
    """The figures as text: ``F1 0.313 (floor 0.000), oF1 …``."""
    floor = found["floor"]
    there = [key for key in KEYS if found.get(key) is not None and floor.get(key) is not None]
    return ", ".join(f"{key} {found[key]:.3f} (floor {floor[key]:.3f})" for key in there)


def first_check(k: int, num_tags: int) -> str:
    """What to look at first where a model does not beat the floor: a sentence without its full stop."""
    if k >= num_tags:
        return f"With k {k} all {num_tags} tags are said of every image: give a smaller --k"
    return "Check that the features and the tags of a row belong to the same image"


def _above(found: Mapping[str, Any], key: str) -> bool:
    mine, low = found.get(key), found["floor"].get(key)
    return mine is not None and low is not None and mine > low
