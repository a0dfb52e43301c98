"""A disk that fills while a model trains: one line, and the same command goes on when there is room."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Job
from tests.helpers.bad_disks import fill, small_disk
from tests.helpers.commands import SMALL, run, start
from tests.helpers.stores import write_planted


@pytest.mark.ray
@pytest.mark.timeout(800)
def test_training_goes_on_after_the_disk_was_full(tmp_path: Path) -> None:
    store = write_planted(tmp_path / "train.parquet", 301)
    with small_disk(tmp_path / "small", 4096) as disk:
        out = disk / "out"
        arguments = ["--data.train", store, "--out", out, *SMALL, "--epochs", 80]
        arguments += ["--checkpoint.every", 20, "--decision.held_out", 0, "--data.watch", 0]
        arguments += ["--kernel.landmarks", 0, "--optim.lr", 0.001]
        listed = out / "checkpoints" / "checkpoint_manager_snapshot.json"
        with start("train", *arguments) as process:
            deadline = time.monotonic() + 300
            while not (listed.is_file() and "epoch-" in listed.read_text("utf-8")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "no checkpoint in time"
                time.sleep(0.05)
            filler = fill(disk)
            said, complained = process.communicate(timeout=250)
        assert process.returncode == 2, said + complained
        assert "No space left on device" in complained and str(disk) in complained
        assert "Traceback" not in complained
        filler.unlink()
        again = run("train", *arguments, timeout=250)
        assert again.returncode == 0, again.stderr
        assert "resuming at epoch" in again.stdout


def test_ingestion_goes_on_after_the_disk_was_full(tmp_path: Path, ray_job: Job) -> None:
    store = write_planted(tmp_path / "in.parquet", 400, row_group=50)
    with small_disk(tmp_path / "small", 1024) as disk:
        arguments = ["--source", "table", "--input", store, "--out", disk / "store"]
        arguments += ["--chunk_rows", 50]
        filler = fill(disk, left=24 << 10)
        full = ray_job("ingest", *arguments)
        assert full.returncode == 2, full.stdout + full.stderr
        assert "No space left on device" in full.stderr and str(disk) in full.stderr
        assert "Traceback" not in full.stderr
        filler.unlink()
        again = ray_job("ingest", *arguments)
        assert again.returncode == 0, again.stderr
        assert "400 training" in again.stdout
