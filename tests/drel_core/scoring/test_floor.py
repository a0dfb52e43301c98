"""What counts as better than naming the most frequent tags."""

from __future__ import annotations

from typing import Any

import pytest

from drel_core.scoring.floor import beats_floor, beside_floor, first_check

# Corel5k's test part; of features that were shuffled against the tags F1 is three times the floor's.
FLOOR = {"F1": 0.006, "oF1": 0.251, "P@1": 0.22, "mAP": 0.024}


@pytest.mark.parametrize(
    ("found", "beats"),
    [
        ({"F1": 0.017, "oF1": 0.187, "P@1": 0.2, "mAP": 0.024}, False),
        ({"F1": 0.017, "oF1": 0.187, "P@1": 0.2, "mAP": 0.03}, False),
        ({"F1": 0.006, "oF1": 0.251, "P@1": 0.22, "mAP": None}, False),
        ({"F1": 0.0, "oF1": 0.5, "P@1": 0.5, "mAP": 0.5}, False),
        ({"F1": 0.37, "oF1": 0.45, "P@1": 0.6, "mAP": 0.45}, True),
        ({"F1": 0.42, "oF1": 0.2, "P@1": 0.2, "mAP": 0.45}, False),
        ({"F1": 0.09, "oF1": 0.25, "P@1": 0.23}, False),
        ({"F1": 0.42, "oF1": 0.3}, True),
        ({"F1": 0.42}, False),
    ],
)
def test_f1_and_of1_must_be_higher(found: dict[str, Any], beats: bool) -> None:
    assert beats_floor({**found, "floor": FLOOR}) == beats


def test_figures_are_shown_beside_the_floors() -> None:
    found = {"F1": 0.3127, "oF1": 0.5, "P@1": 0.25, "mAP": None, "floor": FLOOR}
    assert beside_floor(found) == (
        "F1 0.313 (floor 0.006), oF1 0.500 (floor 0.251), P@1 0.250 (floor 0.220)"
    )


def test_first_to_look_at_is_whether_every_tag_is_said() -> None:
    assert "give a smaller --k" in first_check(12, 12)
    assert "belong to the same image" in first_check(11, 12)
