"""The scorer's HTTP application without its routes: errors as the interface has them, and who is let in.

Shapes of bodies: distributed.serving.schemas.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from ray import serve
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from distributed.serving.auth import Api, BearerAuth
from distributed.serving.proxy import SaysSo
from distributed.serving.schemas import MAX_K, ApiError, ErrorResponse

ANNOTATE = "/v1/annotate"
_LOG = logging.getLogger("ray.serve")


def described(kind: type[BaseModel], *others: str) -> dict[str, Any]:
    """OpenAPI of a body that the route reads itself: FastAPI's own reading would parse it twice."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            return inlined(parts[name]) if name else {k: inlined(v) for k, v in value.items()}
        return [inlined(item) for item in value] if isinstance(value, list) else value

    content: dict[str, Any] = {"application/json": {"schema": inlined(schema)}}
    for other in others:
        content[other] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse} for status in statuses}


app = Api(
    title="DREL scorer",
    description="Tags for images, from their features or from pictures.",
    version="1",
    docs_url="/docs",
    redoc_url=None,
)


def _error(status: int, code: str, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


@app.exception_handler(ApiError)
async def _api_error(_: Request, error: ApiError) -> Response:
    return _error(error.status, error.code, error.message)


@app.exception_handler(HTTPException)
async def _http_error(request: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    answer = _error(
        error.status_code,
        codes.get(error.status_code, "error"),
        f"{request.method} {request.url.path}: {error.detail}; see /docs",
    )
    answer.headers.update(error.headers or {})
    return answer


@app.exception_handler(RequestValidationError)
async def _validation_error(_: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _error(422, "invalid_request", f"{place}: {first['msg']}")


@app.exception_handler(Exception)
async def _failure(_: Request, error: Exception) -> Response:
    _LOG.exception("request failed", exc_info=error)
    return _error(500, "internal", "the scorer failed; its log says why")


class _ShortPath:
    """Takes plain requests to /v1/annotate before FastAPI's router, which answers fewer of them a
    second on its way to the same method (docs/performance.md). What is not plain goes on to it."""

    _plain = re.compile(rb"(?:k=([1-9]\d{0,3}))?")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            plain = self._plain.fullmatch(scope["query_string"]) if path == ANNOTATE else None
            k = int((plain and plain[1]) or 5)
            if plain and k <= MAX_K:
                request = Request(scope, receive)
                scorer: Any = serve.get_replica_context().servable_object
                try:
                    response = await scorer.annotate(request, k, None)
                except ApiError as error:
                    response = await _api_error(request, error)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


app.add_middleware(_ShortPath)
app.add_middleware(SaysSo)
app.add_middleware(BearerAuth)  # added last, it is asked first: no other way in may come after it
