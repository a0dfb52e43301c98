"""A real S3 server process (moto) for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.fault_proxy import FaultProxy


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """Port of a server on 127.0.0.1; it ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def make_bucket(port: int, name: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


@dataclass
class Bucket:
    """An empty bucket and the proxy in front of its server."""

    name: str
    proxy: FaultProxy

    def at(self, key: str) -> str:
        return f"s3://{self.name}/{key}"


def bucket_environment(url: str, folder: Path) -> dict[str, str]:
    """What a process needs to use the server, and nothing of this machine's AWS settings.

    Args:
        folder: its local copies go here.
    """
    local = folder / "local"
    local.mkdir(exist_ok=True)
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        "DREL_SCRATCH": str(local),
    }
