"""The presets learn: ``paper`` as it is, from the start that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distributed.driver.in_process import launch
from jobs.train import main
from tests.helpers.stores import write_planted


def test_the_model_as_printed_passes_the_popularity_floor_in_seconds(tmp_path: Path) -> None:
    paths = {
        part: str(write_planted(tmp_path / f"{part}.parquet", rows, dim=64, tags=100, seed=seed))
        for seed, (part, rows) in enumerate({"train": 1000, "test": 300}.items())
    }
    out = tmp_path / "out"
    files = ["--data.train", paths["train"], "--data.test", paths["test"], "--out", str(out)]
    main([*files, "--preset", "paper", "--epochs", "3"], launch)
    found = json.loads((out / "metrics.json").read_text("utf-8"))
    assert found["F1"] > 0.3 > 5 * found["floor"]["F1"]
    assert found["oF1"] > 3 * found["floor"]["oF1"]
    # Its probabilities are learned from another fit, whose scores lie elsewhere: as many pairs are right as
    # are expected to be.
    bins = [row for row in found["reliability"] if row["pairs"]]
    expected, right = (
        sum(row["pairs"] * row[name] for row in bins) for name in ("probability", "right")
    )
    assert expected == pytest.approx(right, rel=0.25)
