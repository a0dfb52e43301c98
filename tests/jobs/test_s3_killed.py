"""kill -9 of jobs that write to s3://: the same command goes on, and the result equals an undisturbed one.

A request is held at the proxy, and the job is killed while it waits for the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distributed.storage.folder import Folder
from tests.cluster.nodes import Cluster
from tests.helpers.bundles import write_drel
from tests.helpers.commands import ROOT, run_here
from tests.helpers.s3_jobs import SCRIPT, Command, ingest, manifest, tune, write_sources
from tests.helpers.s3_server import Bucket


class Jobs:
    """Jobs in processes of their own, one after another in each."""

    def __init__(self, s3: Bucket, **environment: str) -> None:
        self.s3, self.environment = s3, {**os.environ, **environment}

    def start(self, *commands: Command) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=self.environment,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(commands))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, *commands: Command) -> str:
        process = self.start(*commands)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def kill_at(self, request: Callable[[str, str], bool], *commands: Command) -> None:
        """Kill the jobs when such a request comes, which is never answered."""
        proxy = self.s3.proxy
        proxy.held.clear()
        proxy.hold = request
        process = self.start(*commands)
        try:
            while not proxy.held.wait(1):
                assert process.poll() is None, process.communicate()[0]
        finally:
            process.kill()
            process.communicate()
            proxy.hold = None


def of(method: str, *words: str) -> Callable[[str, str], bool]:
    return lambda how, path: how == method and all(word in path for word in words)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_stores_and_searches_that_were_killed_equal_undisturbed_ones(
    s3: Bucket, tmp_path: Path
) -> None:
    local, remote = Folder.of(tmp_path / "here"), Folder.of(s3.at("there"))
    for at in (local, remote):
        write_sources(at)
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 0.001, high: 0.01, log: true}\n")
    with Cluster(cpus=2) as cluster:
        jobs = Jobs(s3, **cluster.joining)
        jobs.run(ingest(local), tune(local, space))
        for point in (
            of("PUT", "store.partial/parts/chunk-0000002.parquet"),
            of("PUT", "/store/train/part-"),
            of("DELETE", "/store/_writing.json"),
            of("DELETE", "store.partial/parts/"),
        ):
            jobs.kill_at(point, ingest(remote))
        said = jobs.run(ingest(remote))
        assert f"{remote / 'store'} is there already" in said  # it was whole before the last kill
        jobs.kill_at(of("PUT", "search/trials/trial-00001", "checkpoint"), tune(remote, space))
        said = jobs.run(tune(remote, space))
        assert "going on with the trials" in said

    one, other = manifest(local), manifest(remote)
    for name in ("rows", "D", "columns", "T", "rejected", "files", "features"):
        assert one[name] == other[name], name  # files with their hashes
    assert set((remote / "store").files()) == set((local / "store").files())
    assert not set((remote / "store.partial").files()) - {".lock"}

    trials = [json.loads((at / "search").read("trials.json") or b"") for at in (local, remote)]
    assert trials[0] == trials[1] and len(trials[0]) == 2
    best = [yaml.safe_load((at / "search").read("best.yaml") or b"") for at in (local, remote)]
    assert best[0] == best[1]


def test_an_export_that_was_killed_equals_an_undisturbed_one(s3: Bucket, tmp_path: Path) -> None:
    model = write_drel(tmp_path / "model")
    local, remote = Folder.of(tmp_path / "export"), Folder.of(s3.at("export"))
    jobs = Jobs(s3)

    def export(at: Folder) -> Command:
        return "export", ["--model", str(model), "--out", str(at)]

    assert run_here(export(local)[0], *export(local)[1]) == 0
    for name in ("vocabulary", "model.json"):  # among the files, and the last of them
        jobs.kill_at(of("PUT", f"export/{name}"), export(remote))
        assert not remote.has("model.json")
    assert run_here(export(remote)[0], *export(remote)[1]) == 0
    names = local.files()
    assert remote.files() == names
    assert all(remote.read(name) == local.read(name) for name in names)
