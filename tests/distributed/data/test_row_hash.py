"""Rows drawn by hash: each purpose draws its own, and what was drawn before is drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.row_hash import Purpose, hash_ids, is_drawn, is_short
from distributed.data.survey import survey_store
from tests.helpers.stores import write_planted

IDS = np.array([f"image-{row}" for row in range(20_000)], dtype=object)


@pytest.mark.parametrize("seed", [0, 1, 6, 123_456_789_012_345_678_901])
def test_what_one_purpose_draws_says_nothing_of_another(seed: int) -> None:
    drawn = {purpose: is_drawn(IDS, 0.2, purpose, seed) for purpose in get_args(Purpose)}
    for one in ("validation", "watch"):
        for other in set(drawn) - {one}:
            both = (drawn[one] & drawn[other]).mean()
            assert both == pytest.approx(0.04, abs=0.01), (one, other)
        assert drawn[one].mean() == pytest.approx(0.2, abs=0.015)
    assert (drawn["validation"] != is_drawn(IDS, 0.2, "validation", seed + 1)).mean() > 0.2


def test_splits_and_reservoirs_of_before_come_out_again() -> None:
    for seed in (0, 41):
        before = pd.util.hash_array(IDS, hash_key=f"{seed + 1:016d}", categorize=False)
        assert (hash_ids(IDS, "split", seed) == before).all()
    before = pd.util.hash_array(IDS, hash_key=f"{7:016d}", categorize=False)
    assert (hash_ids(IDS, "reservoir") == before).all()
    assert int(hash_ids(np.array(["a"], dtype=object))[0]) == 15049453508330490149


def test_a_line_says_when_few_rows_are_held_out(tmp_path: Path) -> None:
    path = write_planted(tmp_path / "a.parquet", 400)
    found = survey_store(FeatureStore.open(str(path)), "fail", Validation(0.2, 0))
    assert found.shortfall(0.2) is None
    line = found.shortfall(0.6)
    assert line is not None and f"only {found.validation_rows} are held out" in line
    assert "data.validation 0.6 asks for about 240 of 400 rows" in line
    assert not is_short(0, 10, 0.1) and is_short(46, 509, 0.2)
