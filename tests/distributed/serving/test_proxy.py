"""Small requests in one call: which may go so, and what an application makes of them. The way through Serve's
own proxy is in tests/jobs/test_serve.py."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from distributed.serving.proxy import (
    ASKED,
    LARGEST,
    TAKES,
    SaysSo,
    TakesWhole,
    WholeRequests,
    _again,
    _body,
    _length,
    _timed_out,
    middlewares,
)

GONE: Message = {"type": "http.disconnect"}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def scope_of(path: str, method: str = "POST", **headers: str) -> Scope:
    told = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": told,
        "http_version": "1.1",
        "scheme": "http",
    }


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({}, 0),
        ({"content_length": "0"}, 0),
        ({"content_length": "12"}, 12),
        ({"content_length": "-1"}, -1),
        ({"content_length": "4, 4"}, -1),
        ({"content_length": ""}, -1),
        ({"content_length": "9" * 5000}, -1),
        ({"transfer_encoding": "chunked"}, -1),
        ({"x_request_timeout_seconds": "3", "content_length": "12"}, -1),
    ],
)
def test_length_of_a_body(headers: dict[str, str], length: int) -> None:
    assert _length(scope_of("/", **headers)) == length
    assert LARGEST >= 1 << 20


@pytest.mark.parametrize(
    "parts",
    [
        [part(b"abcd")],
        [part(b"ab", True), part(b"cd")],
        [part(b"", True), part(b"abcd", True), part(b"")],
    ],
)
def test_a_body_is_read_in_whatever_parts_it_comes(parts: list[Message]) -> None:
    coming = iter([*parts, GONE])

    async def receive() -> Message:
        return next(coming)

    async def both() -> tuple[bytes, Message, list[Message]]:
        body, last = await _body(receive)
        again = _again({**last, "body": body}, receive)
        return body, last, [await again(), await again()]

    body, last, later = asyncio.run(both())
    assert (body, last["type"]) == (b"abcd", "http.request")
    assert [(message["type"], message.get("body")) for message in later] == [
        ("http.request", b"abcd"),
        ("http.disconnect", None),
    ]


def test_a_client_that_goes_while_it_sends_is_seen_to_go() -> None:
    coming = iter([part(b"ab", True), GONE])

    async def receive() -> Message:
        return next(coming)

    assert asyncio.run(_body(receive)) == (b"", GONE)


application = FastAPI()
application.add_middleware(SaysSo)


@application.post("/echo")
async def echo(request: Request) -> dict[str, str]:
    return {"body": (await request.body()).decode()}


@application.post("/fails")
async def fails() -> None:
    raise OSError("a disk is gone")


class Deployment(TakesWhole):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope, receive, send)


def test_an_application_answers_a_whole_request_as_any() -> None:
    start, body = asyncio.run(Deployment().whole(scope_of("/echo"), b"abc"))
    assert (start["status"], body["body"]) == (200, b'{"body":"abc"}')
    assert TAKES.encode() not in dict(start["headers"])


def test_it_says_that_it_takes_whole_requests_where_it_is_asked() -> None:
    start, _ = asyncio.run(Deployment().whole({**scope_of("/echo"), ASKED: True}, b""))
    assert dict(start["headers"])[TAKES.encode()] == b"1"


def test_what_fails_in_an_application_is_its_answer() -> None:
    """Starlette answers with 500 and raises again: that must not look like a call that failed."""
    start, _ = asyncio.run(Deployment().whole(scope_of("/fails"), b""))
    assert start["status"] == 500


def test_what_fails_before_it_answers_is_a_call_that_failed() -> None:
    class Broken(TakesWhole):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise OSError("a disk is gone")

    with pytest.raises(OSError, match="a disk is gone"):
        asyncio.run(Broken().whole(scope_of("/"), b""))


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_around_anything_but_serves_proxy_it_only_passes_on(kind: str) -> None:
    handed: list[tuple[Scope, object, object]] = []

    async def receive() -> Message:
        raise AssertionError("nothing was to be received")

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        handed.append((scope, receive, send))

    (middleware,) = middlewares()
    assert middleware.cls is WholeRequests
    scope = {**scope_of("/"), "type": kind}
    asyncio.run(WholeRequests(inner)(scope, receive, receive))  # type: ignore[arg-type]
    assert handed == [(scope, receive, receive)]


def test_the_answer_to_a_request_that_takes_too_long() -> None:
    start, body = _timed_out("request 1 took longer than 2 s")
    assert start["status"] == 408
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


class Another:
    """A Serve proxy whose private names are there, but no longer as in Ray 2.60."""

    def __init__(self, changed: str) -> None:
        self.changed, self.request_timeout_s = changed, None
        self.proxy_router = self._proxy_metrics = self
        self.deployment_id, self.app_name, self.deployment_name = "id", "app", "deployment"
        self.streamed: list[bytes] = []

    def match_route(self, path: str) -> tuple[object, ...]:
        return ("/",) if self.changed == "match_route" else ("/", self, False)

    def match_route_pattern(self, prefix: str, scope: Scope) -> str:
        return prefix

    def options(self, **options: object) -> Another:
        if self.changed == "options":
            raise TypeError("no _by_reference")
        return self

    async def remote(self, scope: Scope, body: bytes) -> list[Message]:
        return await Deployment().whole(scope, body)

    def _ongoing_requests_start(self) -> None:
        if self.changed == "_ongoing_requests_start":
            raise TypeError("an argument is missing")

    def _ongoing_requests_end(self) -> None:
        pass

    def _should_emit_request_ingress_metrics(self) -> bool:
        return True

    def record_request(self, **what: object) -> None:
        if self.changed == "record_request":
            raise TypeError("no latency_ms")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve's way."""
        message = await receive()
        self.streamed.append(message["body"])
        (start, body) = await Deployment().whole(scope, message["body"])
        await send(start)
        await send(body)


@pytest.mark.parametrize(
    ("changed", "streamed"),
    [
        ("nothing", 1),  # the first, which tells that the deployment takes whole requests
        ("match_route", 3),
        ("options", 3),
        ("_ongoing_requests_start", 3),
        ("record_request", 2),  # the second was answered whole: it is not asked for again
    ],
)
def test_where_serves_proxy_is_another_one_requests_go_its_way(changed: str, streamed: int) -> None:
    proxy = Another(changed)
    middleware = WholeRequests(proxy)

    async def ask(body: bytes) -> bytes:
        sent: list[Message] = []

        async def receive() -> Message:
            return part(body)

        async def send(message: Message) -> None:
            sent.append(message)

        await middleware(scope_of("/echo", content_length=str(len(body))), receive, send)
        assert sent[0]["status"] == 200
        answer: bytes = sent[1]["body"]
        return answer

    for body in (b"a", b"b", b"c"):
        assert asyncio.run(ask(body)) == b'{"body":"%s"}' % body
    assert len(proxy.streamed) == streamed
    assert (middleware.proxy is None) == (changed != "nothing")


def test_serves_proxy_has_what_the_middleware_uses() -> None:
    from ray.serve._private.proxy import HTTPProxy
    from ray.serve._private.proxy_router import ProxyRouter
    from ray.serve._private.request_ingress_metrics import RequestIngressMetrics

    def arguments(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)  # type: ignore[arg-type]

    assert arguments(ProxyRouter.match_route) == ["self", "target_route"]
    assert arguments(ProxyRouter.match_route_pattern) == ["self", "route_prefix", "asgi_scope"]
    for name in (
        "_ongoing_requests_start",
        "_ongoing_requests_end",
        "_should_emit_request_ingress_metrics",
    ):
        assert arguments(getattr(HTTPProxy, name)) == ["self"]
    assert {
        *("route", "method", "application", "deployment_name"),
        *("status_code", "is_error", "latency_ms"),
    } <= set(arguments(RequestIngressMetrics.record_request))
