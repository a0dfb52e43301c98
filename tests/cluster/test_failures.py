"""Training over separate Ray nodes that are killed, added and started on demand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.nodes import SMALL, Cluster, wait_until
from tests.cluster.recording import rows_that_counted
from tests.helpers.stores import write_numbered, write_planted

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
ROWS = 301
WENT_ON = re.compile(
    r"going on after (?P<seconds>[\d.]+) s with (?P<workers>\d) workers?(?: \((?P<before>\d) before\))? "
    r"from step (?P<step>\d+): (?:at most (?P<lost>\d+) steps lost|no step lost)"
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_numbered(folder / "train.parquet", ROWS)
    write_planted(folder / "test.parquet", 60, seed=1, first=1000)
    return folder


def arguments(stores: Path, out: str, *more: object) -> list[object]:
    return [
        "--data.train",
        stores / "train.parquet",
        "--data.test",
        stores / "test.parquet",
        "--out",
        stores / out,
        *SMALL,
        *more,
    ]


def went_on(
    log: Path, driver: subprocess.Popen[bytes], workers: int, after: int, seconds: float = 240
) -> list[re.Match[str]]:
    """The lines of all recoveries, once the last of more than ``after`` is with so many workers."""

    def found() -> list[re.Match[str]] | None:
        lines = list(WENT_ON.finditer(log.read_text()))
        if len(lines) > after and int(lines[-1]["workers"]) == workers:
            return lines
        assert driver.poll() is None, log.read_text()
        return None

    lines: list[re.Match[str]] = wait_until(f"going on with {workers} workers", found, seconds)
    print(lines[-1].group(0))
    return lines


def steps_done(log: Path) -> int:
    found = re.findall(r"step (\d+)/", log.read_text())
    return int(found[-1]) if found else 0


def test_a_run_outlives_a_worker_and_a_node_and_grows_when_one_is_added(stores: Path) -> None:
    """Three nodes. kill -9 of a worker process, then of a whole node; then one more node."""
    every, epochs = 100, 400
    shared = ("--epochs", epochs, "--checkpoint.every", every)
    with Cluster(cpus=0) as cluster:
        nodes = [cluster.add(1) for _ in range(3)]
        whole = cluster.call(
            *("python", "-m", "jobs.train"),
            *map(str, arguments(stores, "whole", *shared)),
            timeout=600,
        )
        assert whole.returncode == 0, whole.stdout + whole.stderr

        log = stores / "elastic.log"
        driver = cluster.driver(
            log,
            "tests.cluster.recording",
            *arguments(stores, "elastic", *shared, "--workers", "1:3", "--cluster.resize_every", 5),
        )
        wait_until("the run is under way", lambda: steps_done(log) > every, 200)
        os.kill(nodes[0].train_workers()[0], signal.SIGKILL)
        lines = went_on(log, driver, 3, 0)
        time.sleep(4)
        nodes[1].kill()
        lines = went_on(log, driver, 2, len(lines))
        time.sleep(4)
        cluster.add(1)
        lines = went_on(log, driver, 3, len(lines))
        assert driver.wait(400) == 0, log.read_text()

    for line in lines:
        assert int(line["lost"] or 0) <= every and float(line["seconds"]) < 200
    metrics, undisturbed = (
        json.loads((stores / out / "metrics.json").read_text()) for out in ("elastic", "whole")
    )
    for name in ("F1", "mP", "mR"):
        assert abs(metrics[name] - undisturbed[name]) <= 0.02, name
    assert metrics["train"]["workers"] == 3
    counted = rows_that_counted(stores / "elastic")
    assert sorted(counted) == list(range(epochs))
    for epoch, rows in counted.items():
        assert Counter(rows) == Counter(range(ROWS)), epoch


def test_a_notice_that_a_node_goes_makes_a_checkpoint(stores: Path) -> None:
    """As cluster/drain.sh gives it, at a spot instance's notice or before a pod ends; then the node goes."""
    with Cluster(cpus=1) as cluster:
        node = cluster.add(1)
        log = stores / "noticed.log"
        driver = cluster.driver(
            log,
            "jobs.train",
            *arguments(
                stores,
                "noticed",
                "--workers",
                "1:2",
                "--epochs",
                1500,
                "--checkpoint.every",
                1000000,
            ),
        )
        wait_until("the run is under way", lambda: steps_done(log) > 20, 200)
        drained = cluster.call(
            *("ray", "drain-node", "--address", cluster.address, "--node-id", node.id),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"),
            *("--deadline-remaining-seconds", "40"),
        )
        assert drained.returncode == 0, drained.stdout + drained.stderr
        said = "a node is about to go: checkpoint after step "
        wait_until("the checkpoint", lambda: said in log.read_text(), 40)
        listed = stores / "noticed" / "checkpoints" / "checkpoint_manager_snapshot.json"
        wait_until("Ray lists the checkpoint", listed.exists, 30)
        node.kill()
        line = went_on(log, driver, 1, 0)[0]
        assert driver.wait(400) == 0, log.read_text()
    step = int(log.read_text().partition(said)[2].split()[0])
    assert (line["before"], int(line["step"])) == ("2", step)


def test_a_run_that_asks_for_too_much_says_so_and_gives_up_in_time(stores: Path) -> None:
    with Cluster(cpus=1) as cluster:
        done = cluster.call(
            "python",
            "-m",
            "jobs.train",
            *map(str, arguments(stores, "never", "--workers", 3, "--cluster.start_timeout", 12)),
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "waiting for 2 more workers of 1 CPU: the cluster has 1 of 1 CPUs free" in done.stdout
    assert "no autoscaler" in done.stdout
    assert done.stderr.count("\n") == 1 and "gave up after 12 s" in done.stderr, done.stderr


def test_the_autoscaler_is_asked_and_a_run_starts_when_its_nodes_are_there(stores: Path) -> None:
    """A head without work: two workers are started on demand."""
    with Cluster(cpus=0, autoscaling={"small": {"CPU": 1}}, most=2) as cluster:
        done = cluster.call(
            "python",
            "-m",
            "jobs.train",
            *map(str, arguments(stores, "asked", "--workers", 2, "--epochs", 3)),
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for 2 more workers of 1 CPU" in done.stdout, done.stdout
    assert "its autoscaler is asked for nodes" in done.stdout, done.stdout
    metrics = json.loads((stores / "asked" / "metrics.json").read_text())
    assert metrics["train"]["workers"] == 2


def test_an_elastic_run_begins_with_what_there_is_and_grows(stores: Path) -> None:
    with Cluster(cpus=1, autoscaling={"small": {"CPU": 1}}, most=1) as cluster:
        log = stores / "grows.log"
        driver = cluster.driver(
            log,
            "jobs.train",
            *arguments(
                stores,
                "grows",
                "--workers",
                "1:2",
                "--epochs",
                1500,
                "--checkpoint.every",
                100,
                "--cluster.resize_every",
                5,
            ),
        )
        assert went_on(log, driver, 2, 0)[0]["before"] == "1"
        assert driver.wait(400) == 0, log.read_text()
    assert json.loads((stores / "grows" / "metrics.json").read_text())["train"]["workers"] == 2
