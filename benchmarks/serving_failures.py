"""What failures cost the scorer's clients: failed requests of all, and the time until all is as before.

    python -m benchmarks.serving_failures                    every failure, a table
    python -m benchmarks.serving_failures --part kill hang   these alone
    python -m benchmarks.serving_failures --ingress ray      with Serve's own proxy

Two replicas, sixteen clients that ask for one row again and again (binary, D = 1280, T = 374). Everything
runs on this machine: clients, ingress and replicas share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.http_client import Connection, request
from benchmarks.processes import command_line, descendants
from benchmarks.serving import PORT, bundle, serve_app, stop
from distributed.bundles.locate import publish
from distributed.serving.ingress import chosen_ingress

CLIENTS = 16
SLOW = 1.0  # seconds: an answer that takes longer counts as trouble, not as failure
ROW = np.random.default_rng(0).normal(size=(1, 1280)).astype("<f4").tobytes()
ASKED = request("/v1/annotate?k=5", ROW, "application/octet-stream")


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        answers: when an answer came, and what it took, in seconds.
        failures: when, and what.
        versions: answers by the version that made them.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    retry_after: int = 0
    """failures that said when to ask again"""
    ends: bool = False

    def recovered(self, since: float) -> float:
        """Seconds from ``since`` to the last failure or slow answer; 0 without one."""
        trouble = [at for at, took in self.answers if took > SLOW and at > since]
        trouble += [at for at, _ in self.failures if at > since]
        return max(trouble, default=since) - since


async def _client(seen: Seen, asked: bytes) -> None:
    connection = Connection(PORT)
    while not seen.ends:
        started = time.perf_counter()
        try:
            status, head, body = await connection.ask(asked)
        except (OSError, EOFError) as error:
            seen.failures.append((time.perf_counter(), type(error).__name__))
            await asyncio.sleep(0.05)
            continue
        now = time.perf_counter()
        if status == 200:
            seen.answers.append((now, now - started))
            version = json.loads(body)["model"]
            seen.versions[version] = seen.versions.get(version, 0) + 1
        else:
            seen.failures.append((now, str(status)))
            seen.retry_after += b"retry-after:" in head
            await asyncio.sleep(0.05)
    connection.close()


def under_load(
    event: Callable[[], None], after: float, clients: int = CLIENTS, asked: bytes = ASKED
) -> tuple[Seen, float]:
    """The clients ask, ``event`` happens, and ``after`` seconds later they end.

    Returns:
        What they saw, and when ``event`` began.
    """
    seen = Seen()

    def run() -> None:
        async def every() -> None:
            await asyncio.gather(*(_client(seen, asked) for _ in range(clients)))

        asyncio.run(every())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(3)
    began = time.perf_counter()
    try:
        event()
        time.sleep(after)
    finally:
        seen.ends = True
        thread.join()
    return seen, began


def replicas() -> list[int]:
    return [
        process
        for process in descendants(os.getpid())
        if "ServeReplica:drel:scorer" in command_line(process)
    ]


def two_replicas() -> None:
    """Wait until there are two that answer."""
    until = time.monotonic() + 90
    while len(replicas()) != 2:
        if time.monotonic() > until:
            raise RuntimeError(f"{len(replicas())} replicas after 90 s")
        time.sleep(0.5)
    time.sleep(4)  # the ingress knows of the new one


def kill(_: Path) -> tuple[Seen, float]:
    return under_load(lambda: os.kill(replicas()[0], signal.SIGKILL), 15)


def kill_all(_: Path) -> tuple[Seen, float]:
    """Requests wait for the first replica that is back."""

    def kill_each() -> None:
        for process in replicas():
            os.kill(process, signal.SIGKILL)

    return under_load(kill_each, 40)


def swap(versions: Path) -> tuple[Seen, float]:
    seen = under_load(lambda: publish(versions, "v2"), 6)
    assert len(seen[0].versions) == 2, seen[0].versions
    publish(versions, "v1")
    time.sleep(3)
    return seen


def upgrade(versions: Path) -> tuple[Seen, float]:
    """Other arguments: Serve replaces both replicas, one after the other."""
    old = set(replicas())
    seen = under_load(lambda: serve_app(versions, "2", poll=2.0), 10)
    assert not old & set(replicas()), "the replicas are the old ones"
    return seen


def _connections(count: int, sent: bytes = b"") -> list[socket.socket]:
    made = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(count)]
    for one in made:
        one.sendall(sent)
    return made


def slow(_: Path) -> tuple[Seen, float]:
    """200 clients that send their request a byte at a time."""

    def send() -> None:
        made = _connections(200, ASKED[:100])
        for at in range(100, 120):
            for one in made:
                one.sendall(ASKED[at : at + 1])
            time.sleep(0.25)
        for one in made:
            one.close()

    return under_load(send, 2)


def gone(_: Path) -> tuple[Seen, float]:
    """2,000 clients that go away, in turn in the middle of their request and before its answer."""

    def leave() -> None:
        for count in range(2000):
            sent = ASKED if count % 2 else ASKED[: len(ASKED) // 2]
            for one in _connections(1, sent):
                one.close()

    return under_load(leave, 2)


def idle(_: Path) -> tuple[Seen, float]:
    """10,000 connections of another process, which ask nothing."""
    program = (
        "import socket, sys\n"
        f"kept = [socket.create_connection(('127.0.0.1', {PORT})) for _ in range(10_000)]\n"
        "print(len(kept), flush=True)\n"
        "sys.stdin.read()\n"
    )

    def hold() -> None:
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "10000\n"
            time.sleep(5)
            other.communicate()

    return under_load(hold, 1)


def hang(_: Path) -> tuple[Seen, float]:
    """One replica is stopped (SIGSTOP): its port is open, and nothing comes."""
    return under_load(lambda: os.kill(replicas()[0], signal.SIGSTOP), 60)


def full(_: Path) -> tuple[Seen, float]:
    """200 clients of 64 rows: more than the 4,096 rows that may wait in each replica."""
    rows = request("/v1/annotate?k=5", ROW * 64, "application/octet-stream")
    seen, began = under_load(lambda: None, 6, 200, rows)
    refused = [what for _, what in seen.failures]
    assert set(refused) == {"503"} and seen.retry_after == len(refused), set(refused)
    return seen, began


PARTS = {
    "swap": ("hot swap", swap),
    "slow": ("200 slow clients", slow),
    "gone": ("2,000 clients that go away", gone),
    "idle": ("10,000 idle connections", idle),
    "kill": ("kill -9 of one of two replicas", kill),
    "kill-all": ("kill -9 of both replicas", kill_all),
    "upgrade": ("rolling upgrade", upgrade),
    "hang": ("one of two replicas hangs", hang),
    "full": ("more rows than may wait, each 503 with Retry-After", full),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--ingress", choices=["haproxy", "ray"])
    given = parser.parse_args()
    versions = Path(tempfile.mkdtemp())
    bundle(versions / "v1", 1280, 374)
    bundle(versions / "v2", 1280, 400, seed=1)
    publish(versions, "v1")
    try:
        with chosen_ingress(given.ingress, "127.0.0.1"):
            serve_app(versions, "2")
            print("| what | answered | failed | longest, ms | as before after, s |")
            print("| --- | --- | --- | --- | --- |", flush=True)
            for name in given.part:
                said, happen = PARTS[name]
                two_replicas()
                seen, began = happen(versions)
                what = sorted({what for _, what in seen.failures})
                longest = max(took for _, took in seen.answers) * 1000
                print(
                    f"| {said} | {len(seen.answers)} | {len(seen.failures)} {' '.join(what)} | "
                    f"{longest:.0f} | {seen.recovered(began):.1f} |",
                    flush=True,
                )
            began = time.perf_counter()
            stop()
            print(f"stopped in {time.perf_counter() - began:.1f} s")
    finally:
        shutil.rmtree(versions, ignore_errors=True)


if __name__ == "__main__":
    main()
