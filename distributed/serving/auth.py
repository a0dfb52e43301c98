"""The scorer's bearer token: where it comes from, and who must show it.

The token lives in the environment of the nodes or in a file that they can read. It is no argument of the
application, because Serve shows arguments to whoever asks for its configuration.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distributed.serving.page_files import PAGE
from drel_core.errors import InputError

VARIABLE = "DREL_SCORER_TOKEN"
SHORTEST = 16
OPEN = frozenset(
    {
        *PAGE,  # it asks for the token itself
        "/docs",
        "/openapi.json",  # what the API is is no secret
        "/v1/health/live",
        "/v1/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/drel/ready",
    }
)
"""What answers without a token: load balancers and kubelets have none."""

# Of the token, in a replica's process; None: everybody may ask. Never the token itself, which a debugger or
# a dump of variables would show.
_digest: bytes | None = None


def read_token(file: str = "") -> str:
    """The token of ``file``, else of the environment; empty where there is none.

    Raises:
        InputError: the file cannot be read, or the token is too short to be one or cannot be sent.
    """
    if file:
        try:
            token = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise InputError(f"token_file {file}: cannot be read ({reason})") from None
        where = f"token_file {file}"
    else:
        token, where = os.environ.get(VARIABLE, "").strip(), VARIABLE
        if VARIABLE not in os.environ:
            return ""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{where}: must hold a token of at least {SHORTEST} printable ASCII characters without "
            "spaces, e.g. from `openssl rand -hex 32`"
        )
    return token


def require(token: str) -> None:
    """From now on this process answers only those who show ``token``; empty lets everybody ask."""
    global _digest
    _digest = hashlib.sha256(token.encode()).digest() if token else None


def allowed(path: str, authorization: list[bytes]) -> bool:
    """Whether a request with these Authorization headers may be answered.

    Digests are compared, in constant time, so that neither content nor length of the token shows in how
    long an answer takes.
    """
    if _digest is None or path in OPEN:
        return True
    if len(authorization) != 1:
        return False
    kind, _, given = authorization[0].partition(b" ")
    shown = hashlib.sha256(given.strip()).digest()
    return hmac.compare_digest(shown, _digest) and kind.lower() == b"bearer"


class BearerAuth:
    """ASGI middleware: 401 in the API's own form before a body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            shown = [value for name, value in scope["headers"] if name == b"authorization"]
            if not allowed(path, shown):
                await _refuse(bool(shown), receive, send)
                return
        await self.app(scope, receive, send)


async def _refuse(shown: bool, receive: Receive, send: Send) -> None:
    what = "another token is wanted" if shown else "a token is wanted"
    error = {"code": "unauthorized", "message": f"{what}: send Authorization: Bearer TOKEN"}
    body = json.dumps({"error": error}).encode()
    challenge = b'Bearer error="invalid_token"' if shown else b"Bearer"
    # A client that is cut off while it sends does not see the answer; what it sends is dropped.
    message: Message = {"type": "http.request", "more_body": True}
    taken = 0
    while message["type"] == "http.request" and message.get("more_body") and taken < 8 << 20:
        message = await receive()
        taken += len(message.get("body", b""))
    headers = [
        (b"content-type", b"application/json"),
        (b"www-authenticate", challenge),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Api(FastAPI):
    """FastAPI whose description says that a token is wanted, where one is."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None and _digest is not None:
            made = super().openapi()
            made.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            refused = {"$ref": "#/components/schemas/ErrorResponse"}
            for path, methods in made["paths"].items():
                for described in methods.values() if path not in OPEN else ():
                    described["security"] = [{"token": []}]
                    described["responses"]["401"] = {
                        "description": "No token, or another one",
                        "content": {"application/json": {"schema": refused}},
                    }
        return super().openapi()
