"""Small bodies go from Serve's HTTP proxy to a replica together with their request.

Serve's proxy sends a replica the head of a request, and the replica fetches the body with a call of its own,
which nearly halves the requests a second of whatever reads one (docs/performance.md). Serve takes a user's
middleware into its proxies where their environment names it (``VARIABLE=MIDDLEWARES``); this one reads a
small body and lays it into the ASGI scope, which Serve sends whole. What does not look there receives the
body as ever.
"""

from __future__ import annotations

import asyncio

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
MIDDLEWARES = "distributed.serving_proxy.middlewares"
BODY = "drel.body"
"""where a body lies in the scope"""
LARGEST = 64 << 10
"""bytes; Ray puts arguments above 100 KiB into its object store, which takes longer than asking"""


def middlewares() -> list[Middleware]:
    """What Serve asks for when a proxy starts."""
    return [Middleware(BodyAlong)]


class BodyAlong:
    """ASGI middleware: a body whose length is told and at most ``LARGEST`` is laid into the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and 0 < _length(scope) <= LARGEST:
            body, last = b"", await receive()
            while last["type"] == "http.request":
                body += last.get("body", b"")
                if not last.get("more_body"):
                    scope[BODY] = body
                    last = {"type": "http.request", "body": body, "more_body": False}
                    break
                last = await receive()
            receive = _again(last, receive)
        await self.app(scope, receive, send)


def came_along(scope: Scope, receive: Receive) -> bytes | None:
    """The body that lies in the scope; None where it must be received.

    Serve's ``receive`` would still fetch it, at the request's first wait. It is told that nothing more comes:
    a client that goes away is seen by the proxy, which cancels the request.
    """
    body: bytes | None = scope.get(BODY)
    if body is not None and hasattr(receive, "_receive_asgi_messages"):
        receive._receive_asgi_messages = _nothing
    return body


async def _nothing(_: object) -> bytes:
    return await asyncio.get_running_loop().create_future()


def _length(scope: Scope) -> int:
    """As the request tells it; 0 where it does not, or not in a few digits."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 10 else 0
    return 0


def _again(message: Message, receive: Receive) -> Receive:
    """``receive`` with a message before the others."""
    waiting = [message]

    async def received() -> Message:
        return waiting.pop() if waiting else await receive()

    return received
