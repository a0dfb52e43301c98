"""Ray as the pods of ``cluster/kuberay`` run it, and the way a node takes its leave: real nodes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.cluster.rules import CLUSTER
from tests.helpers.commands import ROOT

TOKEN = "a-token-of-this-test-0123456789abcdef"

# Run by a shell that is root in mount, process and network namespaces of its own: what a pod's
# securityContext asks of the container runtime. /tmp and /dev/shm are emptyDirs there.
SANDBOX = """
set -e
ip link set lo up
mount --make-rprivate /
{reach}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
cd {root}
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \\
  env -i HOME=/nonexistent PATH={path}:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
  RAY_AUTH_MODE=token RAY_AUTH_TOKEN={token} RAY_ADDRESS=127.0.0.1:6399 bash -c "$INSIDE"
"""

INSIDE = """
echo "user $(id -u), capabilities $(grep CapEff /proc/self/status | cut -f2)"
touch /etc/x 2>/dev/null && echo "wrote to the root file system"
touch ./x 2>/dev/null && echo "wrote beside the code"
ray start --head --num-cpus=0 --port=6399 --disable-usage-stats --block > /tmp/head.log 2>&1 &
until ray health-check --address 127.0.0.1:6399 2>/dev/null; do sleep 1; done
ray start --address=127.0.0.1:6399 --num-cpus=3 --block > /tmp/worker.log 2>&1 &
STORE=examples/openclipart
python -m jobs.train --data.train $STORE/train.parquet --data.test $STORE/test.parquet \\
  --out /tmp/out --workers 2 --epochs 1 2>&1
echo "train ended with $?"
test -s /tmp/out/metrics.json && test -s /tmp/out/model/config.json && echo "there is a model"
export RAY_AUTH_TOKEN=another-token-0123456789abcdefghij
python -c 'import ray; ray.init(address="auto")' > /tmp/wrong.log 2>&1 && echo "another token was let in"
grep -q -i authentic /tmp/wrong.log && echo "another token was refused"
"""


def reachable(path: Path) -> str:
    """Shell that shows ``path`` to another user where a folder above it is closed to others."""
    closed = [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001]
    if not closed:
        return ""
    return (
        f"mount --bind {path} /mnt\nmount -t tmpfs -o mode=755 tmpfs {closed[0]}\n"
        f"mkdir -p {path}\nmount --move /mnt {path}"
    )


@pytest.mark.cluster
def test_ray_trains_without_rights_on_a_read_only_root_with_a_token() -> None:
    """User 1000, no capability, only /tmp and /dev/shm to write to, a head without work."""
    tried = subprocess.run(
        ["unshare", "-m", "-n", "--pid", "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0 or shutil.which("setpriv") is None or os.getuid() != 0:
        pytest.skip("namespaces cannot be made here (needs root, unshare, ip and setpriv)")
    sandbox = SANDBOX.format(
        reach=reachable(Path(sys.base_prefix)),
        root=ROOT,
        path=Path(sys.executable).parent,
        token=TOKEN,
    )
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "-n",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
            sandbox,
        ],
        env={"PATH": os.environ["PATH"], "INSIDE": INSIDE},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    said = done.stdout
    assert "user 1000, capabilities 0000000000000000" in said, said + done.stderr
    assert "wrote" not in said
    assert "train ended with 0" in said and "there is a model" in said, said[-4000:]
    assert "another token was refused" in said and "was let in" not in said, said[-2000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def nodes() -> Iterator[dict[str, str]]:
    """A head without work and one worker node; gives the environment of who joins them."""
    port = free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    common = ["--block", "--disable-usage-stats"]
    folder = tempfile.mkdtemp(prefix="drel")  # short: names of sockets have at most 107 characters
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in (
            [
                "--head",
                f"--port={port}",
                "--num-cpus=0",
                "--include-dashboard=false",
                f"--temp-dir={folder}",
            ],
            [f"--address=127.0.0.1:{port}", "--num-cpus=2"],
        ):
            started.append(
                subprocess.Popen(
                    ["ray", "start", *arguments, *common],
                    env={key: value for key, value in environment.items() if key != "RAY_ADDRESS"},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            until = time.monotonic() + 60
            while subprocess.run(
                ["ray", "health-check", "--address", f"127.0.0.1:{port}"],
                env=environment,
                capture_output=True,
                check=False,
            ).returncode:
                assert time.monotonic() < until, "the head did not start"
                time.sleep(0.5)
        yield environment
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(started):
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


LOOK = """
import sys, time, ray
ray.init(logging_level="ERROR")
until = time.monotonic() + 60
while not (worker := [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]):
    assert time.monotonic() < until
    time.sleep(0.5)

@ray.remote(num_cpus=1)
class Work:
    def place(self): return ray.get_runtime_context().get_node_id()

held = Work.remote()
print(ray.get(held.place.remote()), flush=True)   # the worker's node id: the head takes no work
sys.stdin.readline()
ready, _ = ray.wait([Work.remote().place.remote()], timeout=8)
print("placed" if ready else "not placed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.cluster
def test_a_node_that_leaves_takes_no_more_work_and_waits_for_what_it_has(
    nodes: dict[str, str],
) -> None:
    """By the spot notice of a machine that stands in for EC2's metadata service (it speaks its protocol)."""
    noticed = threading.Event()

    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200, b"session")

        def do_GET(self) -> None:
            right = self.headers["X-aws-ec2-metadata-token"] == "session" and self.path.endswith(
                "/spot/instance-action"
            )
            self.answer(200 if right and noticed.is_set() else 404, b"{}")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    service = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    driver = subprocess.Popen(
        [sys.executable, "-c", LOOK],
        env=nodes,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin and driver.stdout
    node = driver.stdout.readline().strip()
    assert len(node) == 56
    leaving = subprocess.Popen(
        [str(CLUSTER / "drain.sh"), "--watch", "20", node],
        env={**nodes, "DREL_METADATA_URL": f"http://127.0.0.1:{service.server_port}"},
    )
    try:
        time.sleep(3)
        assert leaving.poll() is None  # no notice yet
        noticed.set()
        started = time.monotonic()
        time.sleep(12)  # it looks every 5 s; Ray's command takes 3
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline().strip() == "not placed"
        assert leaving.poll() is None  # the actor is still there
        driver.stdin.write("\n")
        driver.stdin.close()  # the driver ends, and with it the actor
        driver.wait(30)
        assert leaving.wait(30) == 0
        assert time.monotonic() - started < 40
    finally:
        for process in (leaving, driver):
            if process.poll() is None:
                process.kill()
        service.shutdown()


def test_drain_says_how_it_is_used() -> None:
    done = subprocess.run([str(CLUSTER / "drain.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage:")
