"""A model whose kernel was left out after its last look at held-out rows says what it finds without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distributed.driver import train
from distributed.driver.in_process import launch
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config


@pytest.mark.parametrize("held", ["validation", "watch"])
def test_figures_are_those_of_the_model_without_it(tmp_path: Path, held: str) -> None:
    store = write_planted(tmp_path / "train.parquet", 400, seed=2)

    def trained(least_gain: float) -> tuple[bool, dict[str, Any]]:
        config = small_config(store, tmp_path / str(least_gain), epochs=3)
        config.kernel.landmarks, config.kernel.least_gain = 100, least_gain
        if held == "validation":
            config.data.validation = 0.3
        else:
            config.data.watch = 100
        train.run(config, log=lambda line: None, launcher=launch)
        model = Path(config.out) / "model"
        figures = json.loads((model / "config.json").read_text())["train"]["watch"]
        return (model / "kernel.safetensors").exists(), figures

    (has, found), (has_none, without) = trained(0.0), trained(0.999)
    assert has and not has_none
    assert without["rows"] == found["rows"]
    assert without["P@1"] < found["P@1"] and without["F1"] < found["F1"]
