"""Bodies that go along with their request: which do, and that everybody else receives them as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from distributed.serving_api import ApiError, read_body
from distributed.serving_proxy import BODY, LARGEST, BodyAlong, middlewares


def received(length: object, messages: Iterable[Message]) -> tuple[Scope, list[Message]]:
    """The scope that an application behind the middleware sees, and what it receives."""
    scope: Scope = {"type": "http", "headers": [(b"host", b"x")]}
    if length is not None:
        scope["headers"].append((b"content-length", str(length).encode()))
    coming = iter([*messages, {"type": "http.disconnect"}])
    seen: list[Message] = []

    async def receive() -> Message:
        return next(coming)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while not seen or seen[-1]["type"] != "http.disconnect":
            seen.append(await receive())

    async def send(message: Message) -> None:
        raise AssertionError(message)

    (middleware,) = middlewares()
    assert middleware.cls is BodyAlong
    asyncio.run(BodyAlong(application)(scope, receive, send))
    return scope, seen


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("parts", [
    [part(b"abcd")], [part(b"ab", True), part(b"cd")], [part(b"", True), part(b"abcd", True), part(b"")],
])  # fmt: skip
def test_a_small_body_goes_along_and_is_received_too(parts: list[Message]) -> None:
    scope, seen = received(4, parts)
    assert scope[BODY] == b"abcd"
    assert seen == [part(b"abcd"), GONE]


@pytest.mark.parametrize("length", [None, 0, LARGEST + 1, -1, "4, 4", "", "9" * 5000])
def test_what_is_large_or_does_not_tell_its_length_is_left_alone(length: object) -> None:
    parts = [part(b"ab", True), part(b"cd")]
    scope, seen = received(length, parts)
    assert BODY not in scope
    assert seen == [*parts, GONE]


def test_a_client_that_goes_while_it_sends_is_seen_to_go() -> None:
    scope, seen = received(4, [part(b"ab", True)])
    assert BODY not in scope
    assert seen == [GONE]


def test_websockets_are_left_alone() -> None:
    scope: Scope = {"type": "websocket", "headers": [(b"content-length", b"4")]}
    handed: list[object] = []

    async def receive() -> Message:
        raise AssertionError("nothing was to be received")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        handed.append(receive)

    asyncio.run(BodyAlong(application)(scope, receive, receive))  # type: ignore[arg-type]
    assert handed == [receive]


def test_the_scorer_takes_what_came_along_within_its_limit() -> None:
    async def receive() -> Message:
        raise AssertionError("the body came along")

    request = Request({"type": "http", "headers": [], BODY: b"abcd"}, receive)
    assert asyncio.run(read_body(request, 4)) == b"abcd"
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(request, 3))
    assert caught.value.status == 413
