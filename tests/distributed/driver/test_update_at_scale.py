"""An update of a model of many tags, most of which are on no image of it, with the default preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.later_rows import WithNewTags
from benchmarks.make_store import Planted
from benchmarks.update import score
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import TrainConfig, config_from
from drel_core.annotators.load import load_bundle

ROOT = Path(__file__).parents[3]
ROWS, LATER = 6144, 512
WORLD = Planted(ROWS, 64, 1500, 3.0, 1.0, 1.0, 0.0, 0)
NEW = {f"tag{WORLD.tags + tag}" for tag in range(4)}
TABLE = "tag_embedding-00000-of-00001.safetensors"


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images that come later, and some to score on."""
    folder = tmp_path_factory.mktemp("scale")
    pq.write_table(WORLD.read(0, ROWS).table.drop_columns(["split"]), folder / "old.parquet")
    source = WithNewTags(**{**vars(WORLD), "rows": ROWS + 3 * LATER}, new_tags=len(NEW))
    for start, rows, name in ((ROWS, LATER, "later"), (ROWS + LATER, 2 * LATER, "unseen")):
        table = source.read(start, rows).table.drop_columns(["split"])
        pq.write_table(table, folder / f"{name}.parquet")
    preset = yaml.safe_load((ROOT / "jobs" / "presets" / "best.yaml").read_text("utf-8"))
    small = {"image_hidden": 64, "tag_dim": 64, "latent": 64}
    off = {"input_dropout": 0.0, "input_noise": 0.0, "dropout": 0.0}
    config = config_from(
        TrainConfig,
        {
            **preset,
            "data": {"train": str(folder / "old.parquet"), "watch": 0},
            "out": str(folder / "v0"),
            "epochs": 5,
            "model": {**preset["model"], **small, **off},
            "optim": {**preset["optim"], "weight_decay": 0.1},
            "decision": {"held_out": 0.0},
            "kernel": {"landmarks": 0},
        },
    )
    train.run(config, log=quiet, launcher=launch)
    return folder


def updated(folder: Path, name: str, **options: Any) -> dict[str, float]:
    config = UpdateConfig(
        model=str(folder / "v0"),
        out=str(folder / name),
        data=UpdateData(new=str(folder / "later.parquet"), watch=0),
        **options,
    )
    update.run(config, log=quiet, launcher=launch)
    return scored(folder, name)


def scored(folder: Path, name: str) -> dict[str, float]:
    old = set(load_bundle(folder / "v0" / "model").vocabulary.names)
    return score(folder / name / "model", folder / "unseen.parquet", NEW, old | NEW)


def test_old_tags_do_not_pay_for_new_ones(begun: Path) -> None:
    before, after = scored(begun, "v0"), updated(begun, "v1")
    careless = updated(begun, "careless", epochs=40, towers=1.0, replay_ratio=0.0)
    print(before, after, careless)
    assert before["old F1"] > 0.3
    assert after["old F1"] > 0.97 * before["old F1"] and after["new F1"] > 0.8
    assert careless["old F1"] < 0.97 * before["old F1"], "the test can fail"


def test_the_rows_of_tags_that_no_image_has_stay(begun: Path) -> None:
    if not (begun / "v1").exists():
        updated(begun, "v1")
    names = load_bundle(begun / "v0" / "model").vocabulary.names
    shown: set[str] = set()
    for file in (begun / "later.parquet", begun / "v1" / "replay.parquet"):
        shown |= set(pq.read_table(file)["tags"].combine_chunks().flatten().to_pylist())
    rests_T = torch.from_numpy(np.array([name not in shown for name in names]))
    assert 50 < int(rests_T.sum()) < len(names) - 50
    before, after = (load_file(begun / name / "model" / TABLE) for name in ("v0", "v1"))
    for name in ("weight", "state"):
        same_T = (before[name] == after[name][: len(names)]).reshape(len(names), -1).all(1)
        assert torch.equal(same_T, rests_T)
