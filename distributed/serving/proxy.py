"""Requests go from Serve's HTTP proxy to a replica in one call, and their answers come back with it.

Serve's proxy streams: it sends a replica the head of a request, the replica fetches the body with a call of
its own, and the answer comes back piece by piece. That suits any application; where requests and answers are
small, most of a request's time is spent on it (docs/performance.md). Serve takes a user's middleware into
its proxies where their environment names it (``VARIABLE=MIDDLEWARES``). This one hands a small request whole
to a deployment that takes such (``TakesWhole``), over the connection that the proxy's handle keeps to its
replica anyway. Whatever else comes, other applications' requests first of all, goes Serve's way, and so does
a request whose call fails: Serve then tries another replica, or says what is wrong.

What it uses of Serve's proxy is private to Ray 2.60. Where that is missing, or fails when it is used, the
middleware logs a line and lets every request go Serve's way from then on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARES = "distributed.serving.proxy.middlewares"
LARGEST = 1 << 20
"""bytes of a body that goes whole; what is larger is better read while it comes"""
ASKED = "drel.takes_whole"
"""in the scope of a request that went Serve's way: the proxy would like to know for the next one"""
TAKES = "x-drel-takes-whole"
"""header of the answer to that; clients do not see it"""

_SENT = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)
_OWN_TIMEOUT = b"x-request-timeout-seconds"  # Serve's way knows what to do with it
_PAUSE = 10.0  # seconds on Serve's way alone after a call failed
_LOG = logging.getLogger("ray.serve")


def choose_ingress(haproxy: bool) -> None:
    """Set this process's environment, before it imports ray.serve, for the proxies of a Ray that starts here;
    a cluster's nodes have their own."""
    if haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
    else:
        os.environ.setdefault(VARIABLE, MIDDLEWARES)


def middlewares() -> list[Middleware]:
    """What Serve asks for when a proxy starts."""
    return [Middleware(WholeRequests)]


class TakesWhole:
    """For a deployment with an ASGI application (``serve.ingress``): takes small requests in one call."""

    async def whole(self, scope: Scope, body: bytes) -> list[Message]:
        """A request to the ASGI application; every message of its answer."""
        coming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            # A client that goes away is not told of: the proxy does not wait for its end.
            return coming.pop() if coming else await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self(scope, receive, send)  # type: ignore[operator]
        except Exception:
            if not sent:
                raise
            # Starlette raises again, for the server's log, what it answered with 500.
        return sent


class SaysSo:
    """ASGI middleware of such a deployment: tells a proxy that asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get(ASKED):
            await self.app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[TAKES] = "1"
            await send(message)

        await self.app(scope, receive, told)


class WholeRequests:
    """ASGI middleware around Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.proxy = _proxy_within(app)
        self.handles: dict[Any, tuple[Any, Any]] = {}
        """of deployments that take whole requests: the proxy's own, and the one for such requests"""
        self.paused: dict[Any, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        matched = self._match(scope)
        if matched is None:
            await self.app(scope, receive, send)
            return
        prefix, handle, target = matched
        own, whole = self.handles.get(target, (None, None))
        if own is not handle:  # not known, or deployed anew
            if self.paused.get(target, 0.0) < time.monotonic():
                scope, send = self._asking(scope, send, handle)
            await self.app(scope, receive, send)
            return
        body, last = await _body(receive)
        if last["type"] == "http.request":
            answer = await self._whole(scope, body, prefix, whole)
            if answer is not None:
                for message in answer:
                    await send(message)
                return
            self.paused[target] = time.monotonic() + _PAUSE
            self.handles.pop(target, None)
            last = {**last, "body": body}
        await self.app(scope, _again(last, receive), send)

    def _match(self, scope: Scope) -> tuple[str, Any, Any] | None:
        """Prefix, handle and deployment of the application, where the request may go whole."""
        if self.proxy is None or scope["type"] != "http" or not 0 <= _length(scope) <= LARGEST:
            return None
        path = scope["path"][len(scope.get("root_path", "")) :]
        if path.startswith("/-/"):  # Serve's own
            return None
        try:
            matched = self.proxy.proxy_router.match_route(path)
            if matched is None:  # no such application
                return None
            prefix, handle, other_language = matched
            return None if other_language else (prefix, handle, handle.deployment_id)
        except Exception as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        """Something of Serve's proxy is not as in Ray 2.60."""
        _LOG.warning("requests go Serve's way alone: its proxy is another one: %r", error)
        self.proxy = None

    def _asking(self, scope: Scope, send: Send, handle: Any) -> tuple[Scope, Send]:
        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if TAKES in headers:
                    del headers[TAKES]
                    try:
                        whole = handle.options(
                            method_name="whole",
                            stream=False,
                            request_serialization="pickle",
                            response_serialization="pickle",
                            _by_reference=False,
                        )
                        self.handles[handle.deployment_id] = handle, whole
                    except Exception as error:
                        self._give_up(error)
            await send(message)

        return {**scope, ASKED: True}, heard

    async def _whole(
        self, scope: Scope, body: bytes, prefix: str, handle: Any
    ) -> list[Message] | None:
        """The answer of one call; None where the call fails. Counted as Serve counts its own."""
        proxy, started = self.proxy, time.perf_counter()
        sent = {key: scope[key] for key in _SENT if key in scope}
        headers = MutableHeaders(scope=sent)
        identity = headers.get("x-request-id")
        if identity is None:
            identity = str(uuid.uuid4())
            headers["x-request-id"] = identity
        if prefix != "/":
            sent["root_path"] = sent.get("root_path", "") + prefix
        try:
            proxy._ongoing_requests_start()
            limit = asyncio.timeout(proxy.request_timeout_s)
        except Exception as error:
            self._give_up(error)
            return None
        try:
            async with limit:
                answer: list[Message] = await handle.remote(sent, body)
            start = answer[0]
        except Exception as error:
            if not limit.expired():
                _LOG.warning("a request goes Serve's way, its one call failed: %r", error)
                return None
            answer = _timed_out(f"request {identity} took longer than {proxy.request_timeout_s} s")
            start = answer[0]
        finally:
            proxy._ongoing_requests_end()
        MutableHeaders(scope=start)["x-request-id"] = identity
        try:
            self._record(sent, prefix, handle, start["status"], time.perf_counter() - started)
        except Exception as error:  # the answer is there: it must not be asked for again
            self._give_up(error)
        return answer

    def _record(self, scope: Scope, prefix: str, handle: Any, status: int, seconds: float) -> None:
        proxy = self.proxy
        if proxy is None or not proxy._should_emit_request_ingress_metrics():
            return
        proxy._proxy_metrics.record_request(
            route=proxy.proxy_router.match_route_pattern(prefix, scope),
            method=scope["method"],
            application=handle.app_name,
            deployment_name=handle.deployment_name,
            status_code=str(status),
            is_error=status >= 400,
            latency_ms=seconds * 1000,
        )


def _proxy_within(app: Any) -> Any:
    """Serve's proxy inside its middlewares; None in a Ray whose proxies are made otherwise."""
    for inner in _inwards(app):
        if hasattr(inner, "proxy_router"):
            needed = (
                "request_timeout_s",
                "_ongoing_requests_start",
                "_ongoing_requests_end",
                "_should_emit_request_ingress_metrics",
                "_proxy_metrics",
            )
            missing = [name for name in needed if not hasattr(inner, name)]
            if not missing:
                return inner
            _LOG.warning("requests go Serve's way alone: its proxy has no %s", ", ".join(missing))
    return None


def _inwards(app: Any) -> Iterator[Any]:
    while app is not None:
        yield app
        app = getattr(app, "app", None) or getattr(app, "_app", None)


def _length(scope: Scope) -> int:
    """Bytes of the body, 0 where there is none; -1 where that is not told, or not in a few digits."""
    length = 0
    for name, value in scope["headers"]:
        if name in (b"transfer-encoding", _OWN_TIMEOUT):
            return -1
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 10 else -1
    return length


async def _body(receive: Receive) -> tuple[bytes, Message]:
    """The body, and the message that ended it: the client may have gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"", message
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts), message


def _again(message: Message, receive: Receive) -> Receive:
    """``receive`` with a message before the others."""
    waiting = [message]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received


def _timed_out(text: str) -> list[Message]:
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    return [
        {"type": "http.response.start", "status": 408, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]
