"""Every command of docs/tutorial.md, typed into a shell in its order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from tests.helpers.commands import ROOT
from tests.helpers.markdown import FENCE

PAGE = ROOT / "docs" / "tutorial.md"
SERVE = "python -m jobs.serve"


def blocks() -> list[str]:
    """Blocks that are typed, as the page has them, without the installation."""
    found = [block[2] for block in FENCE.finditer(PAGE.read_text("utf-8")) if block[0][3:5] == "sh"]
    assert found[0].startswith("make demo\n"), "the tutorial begins with the installation"
    return found[1:]


class Reader:
    """Who follows the page: a shell in the project's folder, and a second one for the scorer.

    Args:
        folder: stands for out/tutorial.
        ray_address: the Ray that jobs join, so that each does not start one.
    """

    def __init__(self, folder: Path, ray_address: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.own = {**os.environ, "PATH": path}
        self.joined = {**self.own, "RAY_ADDRESS": ray_address}
        self.scorer: subprocess.Popen[str] | None = None

    def type(self, block: str) -> str:
        """What the shell says.

        Raises:
            AssertionError: a command fails.
        """
        line = block.replace("out/tutorial", str(self.folder)).replace("8000", str(self.port))
        if line.startswith(SERVE):
            self._serve(line)
            return ""
        done = subprocess.run(
            ["bash", "-eu", "-c", line],
            cwd=ROOT,
            env=self.joined,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, line: str) -> None:
        self.scorer = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=ROOT,
            env=self.own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.scorer.stdout is not None
        said = ""
        for told in self.scorer.stdout:
            said += told
            if told.startswith("try it"):
                return
        raise AssertionError(said)

    def stop(self) -> None:
        if self.scorer is not None and self.scorer.poll() is None:
            self.scorer.send_signal(signal.SIGINT)
            self.scorer.communicate(timeout=60)


@pytest.fixture
def reader(shared_ray: None, tmp_path: Path) -> Iterator[Reader]:
    address = ray.get_runtime_context().gcs_address
    found = Reader(tmp_path / "tutorial", address)
    found.folder.mkdir()
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.timeout(900)  # 155 s on two quiet cores, three times that on slow ones
def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    said = {}
    *first, last = blocks()
    for block in first:
        said[block] = reader.type(block)
    asked = next(block for block in first if "Content-Type: image/jpeg" in block)
    assert last == asked, "the last command asks again what was asked before"
    version, *tags = re.findall(r'"(?:model|tag)":"([^"]+)"', said[asked])
    assert "bicycle" in tags and "cycling" not in tags
    until = time.monotonic() + 60
    while (answer := re.findall(r'"(?:model|tag)":"([^"]+)"', reader.type(last)))[0] == version:
        assert time.monotonic() < until, "the scorer stays with the old model"
        time.sleep(0.5)
    learned = {"bicycle", "vehicle", "transportation", "cycling"}
    assert learned == {*answer[1:5]}, answer

    folder = reader.folder
    assert "<img" in (folder / "report.html").read_text("utf-8")
    assert pq.read_table(folder / "tags").num_rows == 100
    assert (folder / "models" / "latest").read_text("utf-8").strip() == "v2"
    shown = PAGE.read_text("utf-8")
    listed = next(out for block, out in said.items() if block.startswith("ls "))
    assert listed in shown, "the page shows what its first commands say"
