"""Ray nodes as separate processes on this machine: started by `ray start --block`, ended by process id."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import command_line, descendants
from tests.helpers.commands import ROOT

SMALL = (
    "--model.image_hidden",
    32,
    "--model.tag_dim",
    16,
    "--model.tag_hidden",
    16,
    "--model.latent",
    16,
    "--batch_size",
    32,
    "--decision.held_out",
    0,
    "--kernel.landmarks",
    0,
)
"""Options of a model that trains in seconds."""
_HEAD = "ray.head.default"  # the name that Ray's fake provider gives to the head
_ALIVE = """
import sys
from ray._raylet import GcsClient
nodes = GcsClient(address=sys.argv[1]).get_all_node_info()
print(*(node_id.hex() for node_id, node in nodes.items() if node.state == 0))
"""
_TOKEN = "a-token-of-this-test-0123456789abcdef"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, true: Callable[[], Any], seconds: float = 60, pause: float = 0.3) -> Any:
    """What ``true`` gives once it is neither None nor False."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
    return found


@dataclass
class Node:
    process: subprocess.Popen[bytes]
    log: Path
    id: str = ""

    def kill(self) -> None:
        """kill -9 of everything that the node consists of, as when its machine goes."""
        everything = [self.process.pid, *descendants(self.process.pid)]
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def train_workers(self) -> list[int]:
        """Process ids of its Ray Train workers."""
        return [p for p in descendants(self.process.pid) if "RayTrainWorker" in command_line(p)]


class Cluster:
    """A head and other nodes, all on this machine; ends them when the block ends.

    Args:
        cpus: of the head.
        autoscaling: node types that an autoscaler may start, as {"small": {"CPU": 1}}; their number
            is at most ``most``.
        environment: for all nodes and for who joins.
    """

    def __init__(
        self,
        cpus: int = 0,
        autoscaling: dict[str, dict[str, int]] | None = None,
        most: int = 4,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="drel-ray-", dir="/tmp")
        )  # sockets need short paths
        self.port, self.dashboard = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _TOKEN,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self.cpus, self.autoscaling, self.most = cpus, autoscaling, most
        self.nodes: list[Node] = []
        self.drivers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def joining(self) -> dict[str, str]:
        """The environment of a driver."""
        return {**self.environment, "RAY_ADDRESS": self.address}

    def __enter__(self) -> Cluster:
        arguments = [
            "--head",
            f"--port={self.port}",
            f"--num-cpus={self.cpus}",
            f"--temp-dir={self.folder / 'session'}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}",
        ]
        if self.autoscaling is not None:
            arguments.append(f"--autoscaling-config={self._autoscaling_config()}")
            self.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        try:
            self._start(arguments)
            wait_until("the head answers", self._answers, 90)
            wait_until("the head counts", self._alive, 90)  # `add` would take it for its own node
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self.drivers:  # one that a failed test left behind
            if driver.poll() is None:
                driver.kill()
                driver.wait()
        for node in reversed(self.nodes):
            node.kill()
        if keep := os.environ.get("DREL_TEST_LOGS"):  # a folder for Ray's logs
            logs = next((self.folder / "session").glob("session_2*/logs"), None)
            if logs is not None:
                shutil.copytree(logs, Path(keep) / self.folder.name, dirs_exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, cpus: int = 1) -> Node:
        """One more node; returns once the cluster counts it."""
        before = self._alive()
        node = self._start([f"--address={self.address}", f"--num-cpus={cpus}"])
        joined: set[str] = wait_until("the node joins", lambda: self._alive() - before, 90)
        node.id = joined.pop()
        return node

    def _start(self, arguments: list[str]) -> Node:
        log = self.folder / f"node-{len(self.nodes)}.log"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [
                    "ray",
                    "start",
                    *arguments,
                    "--block",
                    "--disable-usage-stats",
                    "--object-store-memory=100000000",
                    f"--dashboard-agent-listen-port={free_port()}",
                    "--min-worker-port=0",
                    "--max-worker-port=0",
                ],
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd="/",
            )
        self.nodes.append(Node(process, log))
        return self.nodes[-1]

    def _answers(self) -> bool:
        assert self.nodes[0].process.poll() is None, self.nodes[0].log.read_text()
        done = self.call("ray", "health-check", "--address", self.address)
        return done.returncode == 0

    def _alive(self) -> set[str]:
        """Ids of the nodes that the cluster counts, as `ray` prints them. A process of its own, because
        Ray reads the token's settings once, when it is imported."""
        done = self.call(sys.executable, "-c", _ALIVE, self.address)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def call(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command beside the cluster, joined to it."""
        return subprocess.run(
            command, env=self.joining, capture_output=True, text=True, cwd=ROOT, **options
        )

    def driver(self, log: Path, *command: object) -> subprocess.Popen[bytes]:
        """Start a driver whose output goes to a file; its own process group."""
        with open(log, "wb") as out:
            driver = subprocess.Popen(
                [sys.executable, "-m", *map(str, command)],
                env=self.joining,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.drivers.append(driver)
        return driver

    def _autoscaling_config(self) -> Path:
        """For Ray's fake provider, whose nodes are processes beside the head."""
        assert self.autoscaling is not None
        node = {"use_node_id_as_ip": True, "gcs_address": self.address}
        types = {
            name: {
                "resources": resources,
                "node_config": {},
                "min_workers": 0,
                "max_workers": self.most,
            }
            for name, resources in self.autoscaling.items()
        }
        config = {
            "cluster_name": "drel-test",
            "max_workers": self.most,
            "upscaling_speed": 1,
            "idle_timeout_minutes": 0.1,
            "docker": {},
            "provider": {
                "type": "fake_multinode",
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                **node,
            },
            "auth": {},
            "available_node_types": {
                _HEAD: {"resources": {"CPU": self.cpus}, "node_config": {}, "max_workers": 0},
                **types,
            },
            "head_node_type": _HEAD,
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "initialization_commands": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        return path
