"""A scorer that asks for a token, over HTTP and from its page."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fastapi import FastAPI
from ray.serve.config import HTTPOptions

from distributed.serving.auth import OPEN, VARIABLE, allowed, read_token, require
from drel_core.errors import InputError
from jobs.serve import HttpConfig
from tests.conftest import Job
from tests.helpers.browser import start_browser
from tests.helpers.bundles import write_drel
from tests.helpers.guarded_server import TOKEN, D
from tests.helpers.server import Server


def ask(
    guarded: Server, path: str, *shown: str, body: bytes | None = None
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers, with these Authorization headers."""
    request = urllib.request.Request(guarded.address + path, body)
    if body is not None:
        request.add_header("Content-Type", "application/octet-stream")
    for value in shown:
        request.add_header("Authorization", value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text, told = answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        status, text, told = error.code, error.read().decode(), error.headers
    return status, text, {key.lower(): value for key, value in told.items()}


ROW = np.zeros(D, dtype="<f4").tobytes()
GUARDED = [
    ("/v1/annotate", ROW),
    ("/v1/model", None),
    ("/v1/tags", None),
    ("/v1/neighbours?tag=tag-01", None),
    ("/v1/examples", None),
    ("/v1/feedback", b"{}"),
    ("/v2/models/drel", None),
    ("/v2/models/drel/infer", b"{}"),
    ("/metrics", None),
    ("/v1/nothing", None),
]


@pytest.mark.parametrize(("path", "body"), GUARDED)
def test_who_shows_no_token_or_another_is_refused(
    guarded: Server, path: str, body: bytes | None
) -> None:
    status, text, headers = ask(guarded, path, body=body)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(text)["error"]["code"] == "unauthorized"
    for shown in (
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer \xe9",
    ):
        status, text, headers = ask(guarded, path, shown, body=body)
        assert status == 401, shown
        assert headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert TOKEN not in text
    assert ask(guarded, path, f"Bearer {TOKEN}", body=body)[0] != 401


def test_who_shows_it_is_answered(guarded: Server) -> None:
    for kind in ("Bearer", "bearer"):
        status, text, _ = ask(guarded, "/v1/annotate?k=3", f"{kind} {TOKEN}", body=ROW)
        assert status == 200 and len(json.loads(text)["results"][0]["tags"]) == 3


def test_two_authorization_headers_are_refused(guarded: Server) -> None:
    host, port = guarded.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        shown = f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer other\r\n"
        line.sendall(
            f"GET /v1/model HTTP/1.1\r\nHost: x\r\n{shown}Connection: close\r\n\r\n".encode()
        )
        assert b" 401 " in line.makefile("rb").readline()


def listeners(port: int) -> set[str]:
    """Addresses on which a TCP port is listened on, as /proc writes them."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, there = local.partition(":")
            if state == "0A" and int(there, 16) == port:
                found.add(address)
    return found


def test_it_listens_on_loopback_alone_unless_told(guarded: Server) -> None:
    """jobs.serve here; `serve run` by Serve's own default; files in tests/cluster/test_manifests.py."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        assert listeners(other.getsockname()[1]) == {"00000000"}  # the look can see more
    assert listeners(int(guarded.address.rpartition(":")[2])) == {"0100007F"}
    assert HttpConfig().host == "127.0.0.1"
    assert HTTPOptions().host == "127.0.0.1"


def test_health_page_and_description_are_open(guarded: Server) -> None:
    for path in OPEN:
        assert ask(guarded, path)[0] == 200, path


def test_a_large_body_without_a_token_gets_its_401(guarded: Server) -> None:
    assert ask(guarded, "/v1/annotate", body=bytes(4 << 20))[0] == 401


def test_the_description_says_who_must_show_a_token(guarded: Server) -> None:
    described = json.loads(ask(guarded, "/openapi.json")[1])
    for path, methods in described["paths"].items():
        for method in methods.values():
            assert ("security" in method) == (path not in OPEN) == ("401" in method["responses"]), (
                path
            )


def test_requests_made_from_the_schema_find_no_way_in(guarded: Server, tmp_path: Path) -> None:
    """``ignored_auth`` among the checks: what the schema says is guarded is tried without the token."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{guarded.address}/openapi.json",
            "--header",
            f"Authorization: Bearer {TOKEN}",
            "--checks",
            "not_a_server_error,ignored_auth,"
            "status_code_conformance,response_schema_conformance,content_type_conformance",
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            "5",
            "--seed",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "19 passed" in done.stdout


def session_of(process: subprocess.Popen[str]) -> Path:
    """Where the Ray that a process started keeps its logs."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = next(
                line for line in (entry / "status").read_text().splitlines() if line[:5] == "PPid:"
            )
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except (OSError, StopIteration):
            continue
        if parent.split()[1] == str(process.pid):
            for word in words:
                if word.startswith(("--session-dir=", "--session_dir=")):
                    return Path(word.partition("=")[2])
    raise AssertionError("no Ray found below the server")


def test_the_token_is_in_no_log_and_no_answer(guarded: Server) -> None:
    ask(guarded, "/v1/annotate", f"Bearer {TOKEN}", body=b"broken")
    ask(guarded, "/v1/annotate", "Bearer wrong-one-987654321", body=ROW)
    time.sleep(1)
    logs = session_of(guarded.process)
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert any(path.name.startswith("replica_") for path in files)
    for path in files:
        content = path.read_bytes()
        assert TOKEN.encode() not in content and b"wrong-one-987654321" not in content, path
    for path, _ in GUARDED:
        assert TOKEN not in ask(guarded, path, f"Bearer {TOKEN}")[1]
    for path in OPEN:
        assert TOKEN not in ask(guarded, path)[1]


def test_the_page_asks_for_the_token_and_keeps_it_for_the_tab(guarded: Server) -> None:
    browser = start_browser()

    def until(script: str) -> None:
        end = time.monotonic() + 30
        while not browser.execute_script(f"return {script}"):
            assert time.monotonic() < end, browser.find_element("tag name", "body").text
            time.sleep(0.05)

    shown = "!document.getElementById('token-form').hidden"
    version = "document.getElementById('version').textContent"
    try:
        browser.get(guarded.address)
        until(shown)
        browser.find_element("id", "token").send_keys("wrong", "\n")
        until(f"{shown} && document.getElementById('state').textContent.includes('know you')")
        browser.find_element("id", "token").send_keys(TOKEN, "\n")
        until(f"{version} !== '…' && !({shown})")
        browser.refresh()
        until(f"{version} !== '…' && !({shown})")
        assert browser.execute_script("return sessionStorage.getItem('token')") == TOKEN
        assert browser.execute_script("return localStorage.length") == 0
        assert TOKEN not in browser.page_source and TOKEN not in browser.current_url
    finally:
        browser.quit()


# Without a server


def test_a_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_token() == ""
    monkeypatch.setenv(VARIABLE, f" {TOKEN}\n")
    assert read_token() == TOKEN
    path = tmp_path / "token"
    path.write_text("another-token-0123456789\n")
    assert read_token(str(path)) == "another-token-0123456789"


@pytest.mark.parametrize(
    "token", ["", "short", "with a space 0123456789", "tökén-0123456789012345"]
)
def test_a_token_that_is_none_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv(VARIABLE, token)
    (tmp_path / "token").write_text(token)
    for file in ("", str(tmp_path / "token")):
        with pytest.raises(InputError) as caught:
            read_token(file)
        assert "\n" not in str(caught.value) and "16" in str(caught.value)
        assert not token or token not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(str(tmp_path / "missing"))


def test_without_a_token_everybody_may_ask() -> None:
    try:
        require("")
        assert allowed("/v1/annotate", [])
        require(TOKEN)
        assert not allowed("/v1/annotate", []) and allowed(
            "/v1/annotate", [b"Bearer " + TOKEN.encode()]
        )
        assert allowed("/v1/health/live", [])
    finally:
        require("")


def test_the_token_is_asked_for_before_anything_else_answers() -> None:
    """Every route of the application, by every method, called without a server: the body is not asked for
    before the token, and no shortcut in front of the router comes first."""
    from distributed.serving.asgi import create_api, create_app

    app, api = create_app(Mock()), create_api(Mock())

    async def status(path: str, method: str) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "headers": [],
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "client": None,
            "server": None,
        }
        await app(scope, receive, send)
        return int(sent[0]["status"])

    paths = FastAPI.openapi(api)["paths"]
    routes = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    assert ("/v1/annotate", "POST") in routes and len(routes) > 12
    require(TOKEN)
    try:
        for path, method in routes:
            if path not in OPEN:
                assert asyncio.run(status(path, method)) == 401, (path, method)
    finally:
        require("")


@pytest.mark.parametrize("given", [{"--token_file": "missing"}, {VARIABLE: "short"}])
def test_a_bad_token_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job, given: dict[str, str]
) -> None:
    model = write_drel(tmp_path / "m")
    options = [word for pair in given.items() if pair[0].startswith("--") for word in pair]
    if VARIABLE in given:
        monkeypatch.setenv(VARIABLE, given[VARIABLE])
    done = job("serve", "--model", model, "--port", 0, *options)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "token" in done.stderr.lower() and done.stdout == ""
