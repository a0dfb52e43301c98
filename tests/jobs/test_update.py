"""jobs.update as a user runs it: a model learns new images, new tags and feedback."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.feedback import Correction, append
from distributed.training.config import DataConfig, TrainConfig
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import bundle_folder
from tests.conftest import Job
from tests.helpers.bundles import write_drel
from tests.helpers.commands import SMALL, run, run_here
from tests.helpers.stores import planted_table

HELD_OUT = ("tag-02", "tag-09")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Path:
    """A model that never saw two of twelve tags, the images that have them, and a test store."""
    folder = tmp_path_factory.mktemp("update")
    table = planted_table(600)
    flat = pc.list_parent_indices(table.column("tags")).to_numpy()
    held = pc.is_in(pc.list_flatten(table.column("tags")), value_set=pa.array(HELD_OUT)).to_numpy()
    has = np.zeros(len(table), dtype=bool)
    has[flat[held]] = True
    pq.write_table(table.filter(pa.array(~has)), folder / "old.parquet")
    pq.write_table(table.filter(pa.array(has)), folder / "new.parquet")
    pq.write_table(planted_table(120, seed=1, first=5000), folder / "test.parquet")
    code = run_here(
        "train",
        "--data.train",
        folder / "old.parquet",
        "--out",
        folder / "v1",
        "--epochs",
        30,
        "--workers",
        2,
        "--reservoir.rows",
        150,
        "--decision.held_out",
        0.2,
        *SMALL,
    )
    assert code == 0
    return folder


def test_a_model_learns_new_tags_and_keeps_old_ones(trained: Path, ray_job: Job) -> None:
    options = (
        "--model",
        trained / "v1",
        "--data",
        trained / "new.parquet",
        "--out",
        trained / "v2",
        "--data.test",
        trained / "test.parquet",
        "--workers",
        2,
        "--epochs",
        15,
        "--publish",
        "true",
    )
    done = ray_job("update", *options)
    assert done.returncode == 0, done.stderr
    assert "2 new tags" in done.stdout
    old, new = load_bundle(trained / "v1" / "model"), load_bundle(trained / "v2" / "model")
    assert new.vocabulary.names[:10] == old.vocabulary.names
    assert new.vocabulary.names[10:] == HELD_OUT
    assert new.info.parent == old.info.version != new.info.version
    assert bundle_folder(trained) == trained / "v2" / "model"
    metrics = json.loads((trained / "v2" / "metrics.json").read_text())
    assert metrics["tags_scored"] == 12 and metrics["F1"] > 0.5
    assert "old model" in done.stdout and "new model" in done.stdout
    kept = pq.read_table(trained / "v2" / "model" / "reservoir.parquet")
    tags = set(pc.list_flatten(kept.column("tags")).to_pylist())
    assert tags == set(new.vocabulary.names), "the reservoir keeps old and new tags"
    assert len(kept) == 150
    again = run("update", *options)
    assert again.returncode == 0 and "is there already" in again.stdout
    other = ray_job("update", *options, "--seed", 1)
    assert other.returncode == 2 and "another seed" in other.stderr


def test_a_model_learns_from_feedback(trained: Path, ray_job: Job) -> None:
    rows = planted_table(80, seed=4, first=9000)
    features = rows.column("features").combine_chunks().flatten().to_numpy().reshape(80, -1)
    words = [
        Correction(image_id, features[place], ["from people"], [], "v")
        for place, image_id in enumerate(rows.column("image_id").to_pylist())
        if "tag-05" in rows.column("tags")[place].as_py()
    ]
    append(str(trained / "feedback"), words)
    done = ray_job(
        "update",
        "--model",
        trained / "v1",
        "--from_feedback",
        trained / "feedback",
        "--out",
        trained / "v3",
        "--epochs",
        20,
    )
    assert done.returncode == 0, done.stderr
    new = load_bundle(trained / "v3")
    assert new.vocabulary.names[-1] == "from people"
    tags = new.annotate(torch.from_numpy(np.array([word.features_D for word in words])), 3)[1]
    assert (tags == new.num_tags - 1).any(1).float().mean() > 0.7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--data": "missing.parquet"}, "missing.parquet"),
        ({"--model": "nowhere"}, "no model bundle"),
        ({"--data": None}, "nothing to learn from"),
        ({"--data": "wide.parquet"}, "D = 9"),
        ({"--model": "svm"}, "drel and wsabie"),
        ({"--out": "v0"}, "bundle never changes"),
        ({"--epochs": "0"}, "epochs"),
        ({"--from_feedback": "none"}, "none"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    tmp_path: Path, job: Job, change: dict[str, str | None], words: str
) -> None:
    trained_with = asdict(TrainConfig(data=DataConfig(train="x"), out="y"))
    write_drel(tmp_path / "v0" / "model", config=trained_with)
    write_drel(tmp_path / "svm")
    about = json.loads((tmp_path / "svm" / "config.json").read_text())
    (tmp_path / "svm" / "config.json").write_text(json.dumps({**about, "method": "svm"}))
    pq.write_table(planted_table(10, dim=8), tmp_path / "new.parquet")
    pq.write_table(planted_table(10, dim=9), tmp_path / "wide.parquet")
    given = {"--model": "v0", "--data": "new.parquet", "--out": "v1", **change}
    arguments = []
    for name, value in given.items():
        if value is not None:
            arguments += [name, value if name == "--epochs" else str(tmp_path / value)]
    done = job("update", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert not (tmp_path / "v1" / "model").exists()
