"""Fixtures for all tests."""

from __future__ import annotations

import importlib
import os

# Tests run beside each other and beside Ray's workers. torch's threads wait for one another in busy loops,
# so that with more threads than cores a step of a small model takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.cli import run_job
from tests.helpers.fault_proxy import FaultProxy
from tests.helpers.s3_server import Bucket, bucket_environment, make_bucket, s3_server

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses ``shared_data``, before ``-m`` selects, so that nobody has to mark by hand."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared_data)


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an S3 server, a process of its own."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        yield port


@pytest.fixture
def s3(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket behind a proxy that can spoil requests, and the environment to use it."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(s3_port, name)
    with FaultProxy(s3_port) as proxy:
        for variable, value in bucket_environment(proxy.url, tmp_path).items():
            monkeypatch.setenv(variable, value)
        yield Bucket(name, proxy)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data sets, which are no part of the repository."""
    given = os.environ.get("DREL_SHARED_DATA")
    folder = Path(given).expanduser() if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set DREL_SHARED_DATA to where the larger data sets are")
    return folder.resolve()


Job = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Job:
    """``job(VERB, arguments…)``: what `python -m jobs.VERB` does, in this process, which has imported
    everything; for jobs that end before they start Ray."""

    def run(verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [f"jobs.{verb}", *map(str, arguments)])
        capfd.readouterr()
        terminated = signal.getsignal(signal.SIGTERM)
        code: object = 0
        try:
            run_job(importlib.import_module(f"jobs.{verb}").main)
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, terminated)
        said, complained = capfd.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(str(code or 0)), said, complained)

    return run
