"""Temporary folders go with their process, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.storage.local_cache import cache_dir
from distributed.storage.scratch import scratch_folder
from tests.helpers.commands import ROOT

MAKE = """
import sys, time
from distributed.storage.scratch import scratch_folder
print(scratch_folder(), flush=True)
time.sleep(float(sys.argv[1]))
"""


def begin(seconds: float, scratch: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder for so long, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(seconds)],
        cwd=ROOT,
        env={**os.environ, "DREL_SCRATCH": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()


def test_what_a_killed_process_leaves_goes_with_the_next_and_a_living_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path))
    killed, left = begin(60, tmp_path)
    alive, held = begin(60, tmp_path)
    try:
        (left / "shard").write_bytes(b"state")
        end(killed)
        assert left.is_dir()
        mine = scratch_folder()
        assert mine.is_dir() and held.is_dir()
        assert not left.parent.exists()
    finally:
        end(alive)


def test_a_process_that_ends_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path))
    process, folder = begin(0, tmp_path)
    process.communicate()
    assert process.returncode == 0 and not folder.parent.exists()
    assert list(cache_dir("scratch").iterdir()) == []
