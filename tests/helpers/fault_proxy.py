"""A proxy before an S3 server that spoils a share of the requests, as a busy or broken one would.

Faults, chosen with equal chance by a seeded generator: 503 SlowDown; 500 InternalError; a connection
reset, before the server has the request or after it has done it; an answer whose body ends in the middle.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

KINDS = ("slow down", "internal error", "reset", "truncated")
STATUS = {
    "slow down": ("503 Slow Down", b"SlowDown"),
    "internal error": ("500 Internal Server Error", b"InternalError"),
}


@dataclass
class FaultProxy:
    """Listens on a free port of 127.0.0.1 while it is entered.

    Args:
        target: port of the S3 server on 127.0.0.1.
        rate: share of requests that are spoiled; may be changed while it runs.
        kinds: the faults to choose from.
        hold: which requests (method, path) are kept waiting for good; may be changed while it runs.

    Attributes:
        held: set when one is.
        injected: faults so far by kind.
        requests: (method, path with query) of every request that came.
        key: access key of the last one that was signed.
    """

    target: int
    rate: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    hold: Callable[[str, str], bool] | None = None
    held: threading.Event = field(default_factory=threading.Event)
    injected: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str]] = field(default_factory=list)
    key: str = ""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._random = random.Random(self.seed)
        self._clients: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _stop(self) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients)

    def _run(self, ready: threading.Event) -> None:
        async def listen() -> None:
            self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._request(reader, writer):
                pass
        self._clients.discard(task)
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection lives on."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (one.partition(":") for one in lines if one)
        }
        if headers.pop("expect", ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(reader, headers)
        self.requests.append((method, path))
        if "Credential=" in (signed := headers.get("authorization", "")):
            self.key = signed.partition("Credential=")[2].partition("/")[0]
        if self.hold is not None and self.hold(method, path):
            self.held.set()
            await asyncio.Event().wait()
        fault = self._random.choice(self.kinds) if self._random.random() < self.rate else ""
        early = self._random.random() < 0.5
        if fault:
            self.injected[fault] += 1
        if fault in STATUS:
            status, code = STATUS[fault]
            form = b'<?xml version="1.0"?><Error><Code>%b</Code><Message>%b</Message></Error>'
            text = form % (code, b"m" * 300)  # as long as Amazon's own
            writer.write(_answer(status, {"Content-Type": "application/xml"}, text))
            await writer.drain()
            return True
        if fault == "reset" and early:
            return _reset(writer)
        status, answer, content = await self._forward(method, path, headers, body)
        if fault == "reset" or (fault and len(content) < 2):
            return _reset(writer)
        whole = _answer(status, answer, content, method)
        if fault == "truncated":
            writer.write(whole[: len(whole) - len(content) // 2 - 1])
            await writer.drain()
            return False
        writer.write(whole)
        await writer.drain()
        return True

    async def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[str, dict[str, str], bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        headers = {**headers, "connection": "close", "content-length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        head, _, content = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        first, *rest = head.decode("latin-1").split("\r\n")
        answer = {n.strip(): v.strip() for n, _, v in (one.partition(":") for one in rest)}
        return first.split(" ", 1)[1], answer, content


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.pop("transfer-encoding", "") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return b"".join(parts)


def _answer(status: str, headers: dict[str, str], content: bytes, method: str = "GET") -> bytes:
    kept = {n: v for n, v in headers.items() if n.lower() not in ("connection", "content-length")}
    given = {n.lower(): v for n, v in headers.items()}.get("content-length", "0")
    length = given if method == "HEAD" else str(len(content))
    lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in kept.items())]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode("latin-1") + content


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close with RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
