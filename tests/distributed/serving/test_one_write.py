"""What uvicorn writes of an answer, and when."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distributed.serving.one_write import OneWrite, hold_heads

ASKED = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(autouse=True)
def held() -> Iterator[None]:
    plain = HttpToolsProtocol.connection_made
    hold_heads()
    hold_heads()  # once is enough
    yield
    HttpToolsProtocol.connection_made = plain  # type: ignore[method-assign]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    size = int(scope["path"][1:])
    head = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", b"%d" % size)],
    }
    await send(head)
    if scope["query_string"] == b"later":
        await asyncio.sleep(0.2)
    await send({"type": "http.response.body", "body": b"x" * size})


class Recorder(asyncio.Transport):
    """Each call that reaches the operating system's side."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def pieces(path: bytes, wait: float, times: int = 1) -> list[bytes]:
    """What has been written that long after a request."""

    async def ask() -> list[bytes]:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        protocol = HttpToolsProtocol(config, uvicorn.Server(config).server_state, {})
        transport = Recorder()
        protocol.connection_made(transport)
        protocol.data_received(ASKED % path * times)
        await asyncio.sleep(wait)
        return transport.pieces

    return asyncio.run(ask())


@pytest.mark.parametrize("size", [1, 5000])
def test_head_and_body_are_one_piece(size: int) -> None:
    (one,) = pieces(b"/%d" % size, 0.05)
    assert one.startswith(b"HTTP/1.1 200") and one.endswith(b"\r\n\r\n" + b"x" * size)


def test_answers_to_requests_in_a_row_stay_apart_and_in_order() -> None:
    found = pieces(b"/3", 0.1, times=3)
    assert len(found) == 3 and all(one.endswith(b"\r\n\r\nxxx") for one in found)


def test_a_head_does_not_wait_for_a_body_that_takes_long() -> None:
    (head,) = pieces(b"/3?later", 0.1)
    assert head.endswith(b"\r\n\r\n")
    assert pieces(b"/3?later", 0.4) == [head, b"xxx"]


def test_an_answer_without_a_body_is_written() -> None:
    (one,) = pieces(b"/0", 0.05)
    assert one.endswith(b"\r\n\r\n")


def test_what_is_held_back_goes_out_before_the_connection_closes() -> None:
    async def close() -> Recorder:
        transport = Recorder()
        one = OneWrite(transport)
        one.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        one.close()
        await asyncio.sleep(0)
        return transport

    transport = asyncio.run(close())
    assert transport.pieces == [b"HTTP/1.1 400 Bad Request\r\n\r\n"] and transport.closed


def test_a_body_of_megabytes_arrives_whole() -> None:
    async def ask() -> bytes:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(ASKED % b"/8000000")
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(8_000_000)
            writer.close()
            server.should_exit = True
            await serving
        return body

    assert asyncio.run(ask()) == b"x" * 8_000_000
