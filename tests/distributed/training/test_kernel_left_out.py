"""A model whose kernel was left out after its last look at held-out rows says what it finds without it; an
update leaves none out, and gets none where its parent has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
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


@pytest.mark.parametrize("least_gain", [0.0, 0.999])
def test_an_update_has_a_kernel_where_its_parent_has(tmp_path: Path, least_gain: float) -> None:
    store = write_planted(tmp_path / "train.parquet", 400, seed=2)
    config = small_config(store, tmp_path / "v0", epochs=2)
    config.kernel.landmarks, config.kernel.least_gain = 100, least_gain
    train.run(config, log=lambda line: None, launcher=launch)
    # What the parent was trained with says that it would not be worth it now.
    path = tmp_path / "v0" / "model" / "config.json"
    info = json.loads(path.read_text())
    info["config"]["kernel"]["least_gain"] = 0.999
    path.write_text(json.dumps(info))
    more = write_planted(tmp_path / "more.parquet", 200, seed=3)
    later = UpdateConfig(
        model=str(tmp_path / "v0"),
        out=str(tmp_path / "v1"),
        data=UpdateData(new=str(more), validation=0.3),
        epochs=1,
    )
    update.run(later, lambda line: None, launcher=launch)
    for name in ("v0", "v1"):
        kernel = tmp_path / name / "model" / "kernel.safetensors"
        assert kernel.exists() == (least_gain == 0)
