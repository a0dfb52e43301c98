"""Fixtures for all tests."""

from __future__ import annotations

import functools
import os

# Tests run beside each other and beside Ray's workers. torch's threads wait for one another in busy loops,
# so that with more threads than cores a step of a small model takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)  # tests start their own

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from xdist.scheduler import LoadScopeScheduling

from distributed.runtime.ray_session import start_ray
from tests.helpers.commands import ROOT, run_here
from tests.helpers.fault_proxy import FaultProxy
from tests.helpers.s3_server import Bucket, bucket_environment, make_bucket, s3_server

# Each starts a Ray, or a scorer on one of its own.
RAY_FIXTURES = {"shared_ray", "guarded", "server"}
# What files of tests share, the longest first.
GROUPS = ("killed jobs", "ray", "scorer", "ranks")


@functools.cache
def group_of(file: str) -> str:
    """What the file shares with others, by the words in it; else the file itself.

    The shared Ray has two groups, so that two processes, each with one, end at about the same time.
    """
    text = (ROOT / file).read_text("utf-8")
    if "ray_job" in text or "shared_ray" in text:
        return "killed jobs" if "SIGKILL" in text else "ray"
    if "Server" in text:
        return "scorer"
    return "ranks" if "spawn_ranks" in text else file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses ``shared_data`` or Ray, before ``-m`` selects, so that nobody has to mark by hand.

    Groups stay together, the long ones first.
    """
    groups: dict[str, list[pytest.Item]] = {group: [] for group in GROUPS}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "shared_data" in fixtures:
            item.add_marker(pytest.mark.shared_data)
        if fixtures & RAY_FIXTURES:
            item.add_marker(pytest.mark.ray)
        groups.setdefault(group_of(item.nodeid.partition("::")[0]), []).append(item)
    items[:] = [item for group in groups.values() for item in group]


class ByGroup(LoadScopeScheduling):
    """For several processes (pytest -n N --dist loadscope): a group is run by one of them."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return ByGroup(config, log) if config.getvalue("dist") == "loadscope" else None


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
def job(capfd: pytest.CaptureFixture[str]) -> Job:
    """``job(VERB, arguments…)``: what `python -m jobs.VERB` does, in this process, which has imported
    everything; for jobs that end before they start Ray."""

    def run(verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        code = run_here(verb, *arguments)
        said, complained = capfd.readouterr()
        return subprocess.CompletedProcess([verb, *arguments], code, said, complained)  # type: ignore[list-item]

    return run


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """One Ray, as jobs start it, for all tests that do not start, kill or join one."""
    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture
def ray_job(shared_ray: None, job: Job) -> Job:
    """``job`` for jobs that need Ray: they take the one of the session."""
    return job


@pytest.fixture(autouse=True)
def no_ray_unasked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that a test starts by accident would take its seconds and stay for the tests that follow."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this test starts Ray: let it use shared_ray, or mark it with ray")

    if not {"ray", "cluster"} & {mark.name for mark in request.node.iter_markers()}:
        monkeypatch.setattr(ray, "init", refuse)
