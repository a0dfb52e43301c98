"""A scorer as `python -m jobs.serve` starts it, and requests to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.serving.auth import VARIABLE
from tests.helpers.commands import ROOT, command


@dataclass
class Server:
    """A scorer that runs, and the folder of versions that it follows."""

    address: str
    versions: Path
    process: subprocess.Popen[str]
    token: str = ""
    """shown by ``ask``; empty: the scorer asks for none"""

    def ask(
        self, path: str, body: Any = None, kind: str = "application/json", method: str | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"content-type": kind} if body is not None else {}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content, told = answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            status, content, told = error.code, error.read(), error.headers
        is_json = "json" in told.get("content-type", "")
        return status, json.loads(content) if is_json else content.decode(), dict(told)

    def wait_for(self, key: str, value: Any) -> None:
        """Until the description of the model holds this."""
        until = time.monotonic() + 30
        while (found := self.ask("/v1/model")[1][key]) != value:
            assert time.monotonic() < until, f"{key} is {found!r}, not {value!r}"
            time.sleep(0.1)

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(model: Path, *arguments: str, token: str = "") -> Server:
    """A scorer that answers, on a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if token:
        environment[VARIABLE] = token
    process = subprocess.Popen(
        command("serve", "--model", model, "--port", 0, *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"http://\S+:\d+", line):
            return Server(found.group(), model, process, token)
    raise AssertionError(said)


@contextmanager
def serving(model: Path, *arguments: str, token: str = "") -> Iterator[Server]:
    """A scorer while the block runs; it has to end well."""
    running = start(model, *arguments, token=token)
    code = None
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0
