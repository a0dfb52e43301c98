"""Networks trained from pictures as a user runs them: two workers, evaluated from the bundle, decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from drel_core.decision.decider import Decider
from tests.conftest import Job
from tests.helpers.commands import run
from tests.helpers.pictures import picture_table, tiny_network, write_pictures


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "train.parquet", 160)
    write_pictures(folder / "test.parquet", 40, first=1000)
    tiny_network(folder / "tiny.pt")
    return folder


def test_pictures_train_on_two_workers_and_the_bundle_scores_alike(
    stores: Path, ray_job: Job
) -> None:
    out = stores / "out"
    done = ray_job(
        "train",
        "--method",
        "cnn-warp",
        "--data.train",
        stores / "train.parquet",
        "--data.test",
        stores / "test.parquet",
        "--out",
        out,
        "--workers",
        2,
        "--epochs",
        25,
        "--k",
        2,
        "--cnn.backbone",
        f"file:{stores / 'tiny.pt'}",
        "--cnn.size",
        32,
        "--cnn.augment",
        0.2,
        "--cnn.dropout",
        0,
        "--optim.lr",
        0.02,
        "--cnn.backbone_rate",
        0.5,
        "--batch_size",
        16,
        "--data.validation",
        0.2,
        "--patience",
        25,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert metrics["method"] == "cnn-warp" and metrics["train"]["workers"] == 2
    assert metrics["F1"] > metrics["floor"]["F1"] + 0.2, metrics
    for decide in ("macro", "threshold"):
        found = metrics["decisions"][decide]
        assert found["F1"] > metrics["floor"]["F1"] + 0.2, found
        assert 0.5 < found["tags_per_image"] < 3
    decider = Decider.load(out / "model", 4)
    assert decider is not None and decider.cut_T is not None

    asked = (
        "--model",
        out,
        "--data",
        stores / "test.parquet",
        "--k",
        2,
        "--json",
        stores / "again.json",
    )
    # In processes that have not trained: a bundle alone does not choose what code runs.
    refused = run("evaluate", *asked)
    assert refused.returncode == 2 and "whose code would run" in refused.stderr, refused.stderr
    again = run("evaluate", *asked, DREL_TRUSTED_BACKBONES=f"file:{stores / 'tiny.pt'}")
    assert again.returncode == 0, again.stderr
    assert "\nthreshold " in again.stdout and "expected calibration error" in again.stdout
    assert json.loads((stores / "again.json").read_text("utf-8"))["F1"] == metrics["F1"]


def test_a_store_of_features_is_refused_in_one_line(stores: Path, tmp_path: Path, job: Job) -> None:
    pq.write_table(picture_table(3).drop("image"), tmp_path / "none.parquet")
    done = job(
        "train",
        "--method",
        "cnn-softmax",
        "--data.train",
        tmp_path / "none.parquet",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no column 'image'" in done.stderr


def test_comparing_networks_needs_pictures(stores: Path, tmp_path: Path, job: Job) -> None:
    done = job(
        "compare",
        "--data.train",
        stores / "train.parquet",
        "--data.test",
        stores / "test.parquet",
        "--out",
        tmp_path / "out",
        "--methods",
        "cnn-warp",
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--images.train" in done.stderr
