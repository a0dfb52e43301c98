"""jobs.train and jobs.evaluate as a user runs them: real processes, real Ray, two workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Job
from tests.helpers.commands import ROOT, SMALL, command, run, start
from tests.helpers.stores import planted_table, write_planted


def train_arguments(folder: Path, out: str, *more: object) -> list[object]:
    return [
        "--data.train",
        folder / "train.parquet",
        "--data.test",
        folder / "test.parquet",
        "--out",
        folder / out,
        *SMALL,
        *more,
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_planted(folder / "train.parquet", 301)
    write_planted(folder / "test.parquet", 60, seed=1, first=1000)
    return folder


def bundle_tensors(out: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for part in sorted((out / "model").glob("*.safetensors")):
        tensors |= {f"{part.name}:{name}": value for name, value in load_file(part).items()}
    return tensors


@pytest.mark.timeout(900)  # trains four times, twice after a start of Ray
def test_killed_training_resumes_and_ends_as_an_undisturbed_one(stores: Path, ray_job: Job) -> None:
    """Invariant 6: kill -9 of the driver, then the same command; Ctrl-C, and the same command again."""
    options = ("--workers", 2, "--epochs", 30, "--checkpoint.every", 33, "--decision.held_out", 0.2)
    whole = ray_job("train", *train_arguments(stores, "whole", *options))
    assert whole.returncode == 0, whole.stderr

    broken = stores / "broken"
    with open(stores / "driver.log", "w") as log:
        driver = subprocess.Popen(
            command("train", *train_arguments(stores, "broken", *options)),
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300  # where much else runs, Ray alone takes two minutes
        # Ray Train takes up what its own list names, a moment after the files are there.
        listed = broken / "checkpoints" / "checkpoint_manager_snapshot.json"
        while not (listed.is_file() and "epoch-" in listed.read_text("utf-8")):
            assert driver.poll() is None, (stores / "driver.log").read_text()
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert not (broken / "model").exists()
    time.sleep(3)  # the killed driver's Ray notices and ends

    arguments = train_arguments(stores, "broken", *options)
    second = start("train", *arguments, new_session=True)
    assert second.stdout is not None
    resumed = next(line for line in second.stdout if "resuming at epoch" in line)
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does
    said, complained = second.communicate(timeout=200)
    assert second.returncode == 130, complained
    assert complained.startswith("stopped; the same command") and complained.count("\n") == 1
    if "stopped before this attempt took a step" in said:  # on a machine with much else to do
        said = resumed.replace(", step ", ", stopped after step ")
    assert not (broken / "model").exists()
    again = ray_job("train", *arguments)
    assert again.returncode == 0, again.stderr
    step = re.search(r"stopped after step (\d+) of", said)[1]
    assert f"step {step} of 300" in again.stdout, again.stdout
    one, other = bundle_tensors(stores / "whole"), bundle_tensors(broken)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name

    metrics = json.loads((stores / "whole" / "metrics.json").read_text())
    # Two tags an image and five predictions: precision cannot pass 0.4, recall can.
    assert metrics["mR"] > 0.9 > metrics["floor"]["mR"]
    assert {"mP", "mR", "N+", "mAP", "oP", "oR", "oF1", "tags_scored"} <= metrics.keys()
    assert metrics["train"]["workers"] == 2
    scored = run(
        "evaluate",
        "--model",
        stores / "whole" / "model",
        "--data",
        stores / "test.parquet",
        "--json",
        stores / "again.json",
    )
    assert scored.returncode == 0, scored.stderr
    assert json.loads((stores / "again.json").read_text())["F1"] == pytest.approx(metrics["F1"])

    assert said_at_the_end(whole.stdout)[0].startswith(
        "above the popularity floor on 60 test images"
    )
    assert metrics["warnings"] == [] and metrics["train"]["watch"]["rows"] == 301

    different = ray_job("train", *train_arguments(stores, "whole", *options, "--seed", 4))
    assert different.returncode == 2
    assert "another seed" in different.stderr and different.stderr.count("\n") == 1


def said_at_the_end(output: str) -> list[str]:
    """What comes after the places of model and TensorBoard."""
    lines = output.splitlines()
    return lines[1 + max(place for place, line in enumerate(lines) if "TensorBoard" in line) :]


def test_training_that_diverges_ends_with_one_line_and_exit_code_1(
    stores: Path, ray_job: Job
) -> None:
    wild = ("--optim.lr", 1000, "--workers", 2, "--epochs", 200, "--decision.held_out", 0)
    done = ray_job("train", *train_arguments(stores, "wild", *wild))
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: training diverged: after step ")
    assert "lower --optim.lr (now 1000)" in done.stderr and done.stderr.count("\n") == 1
    assert not (stores / "wild" / "model").exists()


def spoiled(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.parquet"
    table = planted_table(20)
    features = table.column("features").to_pylist()
    ids, tags = table.column("image_id").to_pylist(), table.column("tags").to_pylist()
    fixed = True
    if kind == "nan":
        features[7][3] = float("nan")
    elif kind == "inf":
        features[7][3] = float("inf")
    elif kind == "wrong-d":
        features[7], fixed = features[7][:5], False
    elif kind == "null-id":
        ids[7] = None
    elif kind == "duplicate-id":
        ids[7] = ids[2]
    elif kind == "no-tags":
        tags = [[] for _ in tags]
    columns = {
        "image_id": pa.array(ids, pa.string()),
        "features": pa.array(features, pa.list_(pa.float32(), 16 if fixed else -1)),
        "tags": pa.array(tags, pa.list_(pa.string())),
    }
    if kind == "missing-column":
        del columns["tags"]
    pq.write_table(pa.table(columns), path)
    if kind == "empty-file":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "not-parquet":
        path.write_text("image,tags\n")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", ["row 7", "NaN"]),
        ("inf", ["row 7", "Inf"]),
        ("wrong-d", ["row 7", "D = 5"]),
        ("null-id", ["row 7", "null"]),
        ("duplicate-id", ["row 7", "row 2"]),
        ("no-tags", ["no tags"]),
        ("missing-column", ["'tags'"]),
        ("empty-file", ["0 bytes"]),
        ("truncated", ["truncated"]),
        ("not-parquet", ["not a Parquet"]),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    tmp_path: Path, job: Job, kind: str, words: list[str]
) -> None:
    path = spoiled(kind, tmp_path)
    done = job("train", "--data.train", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in [path.name, *words]:
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--workers", "0"], "workers"),
        (["--preset", "nicest"], "best, cnn, knn-chosen, paper"),
        (["--loss.miner", "medium"], "miner"),
        (["--unknown", "1"], "unknown"),
    ],
)
def test_bad_options_give_one_line_and_exit_code_2(
    tmp_path: Path, job: Job, arguments: list[str], word: str
) -> None:
    done = job("train", "--data.train", "x.parquet", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert word in done.stderr
