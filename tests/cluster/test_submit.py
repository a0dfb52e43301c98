"""`ray job submit` of our jobs to a real head: success, wrong input, stop and the same command again."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import SMALL, Cluster, wait_until
from tests.helpers.commands import ROOT
from tests.helpers.stores import write_planted


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # By default `ray job stop` kills after 3 s; the time to write a checkpoint is ours to set.
    with Cluster(cpus=2, environment={"RAY_JOB_STOP_WAIT_TIME_S": "60"}) as started:
        yield started


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_planted(folder / "train.parquet", 301)
    write_planted(folder / "test.parquet", 60, seed=1, first=1000)
    return folder


def job(cluster: Cluster, verb: str, *more: object) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{cluster.dashboard}"
    return cluster.call("ray", "job", verb, "--address", address, *map(str, more), timeout=400)


def training(stores: Path, out: str, *more: object) -> list[object]:
    return [
        "--working-dir",
        ".",
        "--",
        "python",
        "-m",
        "jobs.train",
        "--data.train",
        stores / "train.parquet",
        "--data.test",
        stores / "test.parquet",
        "--out",
        stores / out,
        "--workers",
        2,
        *SMALL,
        *more,
    ]


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_submitted_job_streams_its_lines_and_succeeds(cluster: Cluster, stores: Path) -> None:
    done = job(cluster, "submit", *training(stores, "good", "--epochs", 40))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    lines = done.stdout.splitlines()
    # Ours alone, each once and whole: no prefix of a worker, no carriage return.
    progress = [line for line in lines if line.startswith("epoch ")]
    assert progress and len(progress) == len(set(progress)) and "\r" not in done.stdout
    assert not [line for line in lines if "RayTrainWorker" in line or "TrainController" in line]
    assert any(line.startswith("drel ") for line in lines), done.stdout  # the table of metrics
    assert (stores / "good" / "metrics.json").is_file()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_wrong_input_fails_the_job_with_one_line_and_exit_code_2(
    cluster: Cluster, stores: Path
) -> None:
    done = job(
        cluster,
        "submit",
        "--working-dir",
        ".",
        "--",
        "python",
        "-m",
        "jobs.train",
        "--data.train",
        stores / "nothing.parquet",
        "--out",
        stores / "none",
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1  # what Ray's command line makes of any failure
    assert "exit code 2" in said, said
    assert "nothing.parquet" in said and "Traceback" not in said.split("failed")[0], said
    assert not (stores / "none").exists()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_stopped_job_leaves_a_checkpoint_from_which_the_same_command_goes_on(
    cluster: Cluster, stores: Path
) -> None:
    command = training(stores, "stopped", "--epochs", 300, "--checkpoint.every", 1000000)
    begun = job(cluster, "submit", "--no-wait", "--submission-id", "one", *command)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    wait_until(
        "the first line of progress",
        lambda: "step " in job(cluster, "logs", "one").stdout,
        200,
        1.0,
    )
    stopped = job(cluster, "stop", "one")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    said = job(cluster, "logs", "one").stdout
    assert "stopped after step" in said and "the same command goes on" in said, said
    assert "was stopped" in job(cluster, "status", "one").stdout
    assert not (stores / "stopped" / "model").exists()
    step = int(said.partition("stopped after step ")[2].split()[0])

    again = job(cluster, "submit", "--submission-id", "two", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resuming at epoch {step // 10 + 1}, step {step} of 3000" in again.stdout, again.stdout
    assert (stores / "stopped" / "model" / "config.json").is_file()


def test_what_is_uploaded_is_small_and_runs(tmp_path: Path) -> None:
    """What Ray would send as the working directory of this checkout, by Ray's own rules."""
    from ray._private.runtime_env.packaging import create_package

    data = ROOT / "out" / "upload-test"
    data.mkdir(parents=True, exist_ok=True)
    (data / "store.parquet").write_bytes(b"0" * 1000)
    try:
        create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
    finally:
        (data / "store.parquet").unlink()
        data.rmdir()
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = package.namelist()
        package.extractall(tmp_path / "sent")
    assert (tmp_path / "package.zip").stat().st_size < 20 << 20
    unwanted = (".venv/", ".git/", "out/", "runs/", "__pycache__/", ".mypy_cache/", ".ruff_cache/")
    assert not [name for name in names if any(part in f"{name}/" for part in unwanted)]
    sent = tmp_path / "sent"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--help"], cwd=sent, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--workers" in done.stdout, done.stderr
    assert (sent / "examples" / "openclipart" / "train.parquet").is_file()
