"""Data sets as other tools wrote them, from s3:// through jobs.ingest on Ray to a model that jobs.train made.

All stores are made on one Ray, in a process of its own: workers must know the endpoint when they start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import jobs.train
from distributed.driver.in_process import launch
from distributed.storage.folder import Folder
from drel_core.annotators.load import load_bundle
from tests.helpers.commands import ROOT, SMALL
from tests.helpers.fault_proxy import FaultProxy
from tests.helpers.others import (
    NAMES,
    OTHERS,
    ROWS,
    TAGS,
    write_coco,
    write_files,
    write_open_images,
)
from tests.helpers.pictures import tiny_network
from tests.helpers.s3_jobs import SCRIPT, Command
from tests.helpers.s3_server import bucket_environment, make_bucket

TRAIN = (
    "--epochs",
    "40",
    "--decision.held_out",
    "0",
    "--kernel.landmarks",
    "0",
    "--data.watch",
    "0",
)
WHOLE, SPLIT = {"train": ROWS, "test": 0}, {"train": 18, "test": 6}
ROWS_OF = {
    "objects": WHOLE,
    "ray data": WHOLE,
    "spark": SPLIT,
    "coco": WHOLE,
    "open images": WHOLE,
    "web dataset": SPLIT,
}
"""Other kinds go the same way, without Ray, in tests/distributed/ingest/sources/test_others.py."""


def arguments(kind: str, at: Folder) -> list[str]:
    """Of jobs.ingest, for what lies below a folder."""
    labels = ["--tags", at.file("labels.csv"), "--classes", at.file("classes.csv")]
    given: dict[str, list[str]] = {
        "objects": ["images", at.file("objects.parquet"), "--tags_column", "objects.category"],
        "ray data": ["table", at.file("ray_data")],
        "spark": ["table", at.file("spark"), "--split", "column:split"],
        "coco": ["coco", at.file("pics"), "--tags", at.file("instances.json")],
        "open images": ["openimages", at.file("pics"), *labels],
        "web dataset": ["webdataset", at.file("web_dataset")],
    }
    source, address, *options = given[kind]
    return ["--source", source, "--input", address, *options]


def upload(folder: Path, to: Folder) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            to.put(path.relative_to(folder).as_posix(), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, s3_port: int) -> Iterator[Path]:
    """A folder with the store of every kind, and ``trained``, a model of one of them."""
    folder = tmp_path_factory.mktemp("others")
    make_bucket(s3_port, "others")
    with FaultProxy(s3_port) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket_environment(proxy.url, folder).items():
            patch.setenv(name, value)
        at = Folder.of("s3://others/some sets")
        write_files(folder / "written")
        write_coco(folder / "written")
        write_open_images(folder / "written")
        upload(folder / "written", at)
        at.put("objects.parquet", OTHERS / "hugging_face" / "objects.parquet")
        for name in ("ray_data", "spark", "web_dataset"):
            upload(OTHERS / name, at / name)
        proxy.rate = 0.02
        network = ["--cnn.backbone", tiny_network(folder / "tiny.pt"), "--cnn.actors", "1"]
        commands: list[Command] = [
            ("ingest", [*arguments(kind, at), *network, "--out", str(folder / kind)])
            for kind in ROWS_OF
        ]
        train = ["--data.train", str(folder / "coco" / "train"), "--out", str(folder / "trained")]
        commands.append(("train", [*train, *TRAIN, *SMALL]))
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps(commands),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder


def right(model: Path, store: Path) -> float:
    """The share of a store's images whose most probable tag is one of theirs."""
    annotator, table = load_bundle(model), pq.read_table(store)
    flat = table.column("features").combine_chunks().flatten().to_numpy().astype(np.float32)
    _, tag_B1 = annotator.annotate(torch.from_numpy(flat.reshape(len(table), -1)), 1)
    names = [annotator.vocabulary.names[tag] for tag in tag_B1[:, 0].tolist()]
    tags = table.column("tags").to_pylist()
    return float(np.mean([name in row for name, row in zip(names, tags, strict=True)]))


@pytest.mark.ray
@pytest.mark.timeout(500)
@pytest.mark.parametrize("kind", ROWS_OF)
def test_a_data_set_of_another_tool_becomes_a_model(kind: str, made: Path, tmp_path: Path) -> None:
    store = made / kind
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["rows"] == ROWS_OF[kind] and manifest["rejected"] == 0
    assert sorted(pq.read_table(store / "vocabulary.parquet")["tag"].to_pylist()) == (
        NAMES[:3] if kind == "spark" else NAMES  # whose test rows alone are white
    )
    tags = pq.read_table(store / "train")["tags"].to_pylist()
    tags += pq.read_table(store / "test")["tags"].to_pylist() if ROWS_OF[kind]["test"] else []
    assert sorted(map(sorted, tags)) == sorted(map(sorted, TAGS))
    options = ["--data.train", str(store / "train"), "--out", str(tmp_path / "out"), *TRAIN, *SMALL]
    jobs.train.main(options, launcher=launch)
    for part in [name for name, rows in ROWS_OF[kind].items() if rows]:
        assert right(tmp_path / "out" / "model", store / part) >= 0.9, part


@pytest.mark.ray
def test_workers_of_ray_train_it_as_well(made: Path) -> None:
    assert right(made / "trained" / "model", made / "coco" / "train") >= 0.9
