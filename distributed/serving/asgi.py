"""The scorer's HTTP application: routes, middlewares, and errors in the API's own form."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from distributed.serving.auth import Api, BearerAuth
from distributed.serving.proxy import SaysSo
from distributed.serving.requests import fault, read_query
from distributed.serving.routes import ANNOTATE, annotate, feedback, health, model, scoring
from distributed.serving.schemas import AnnotateQuery, ApiError
from distributed.serving.service import ScorerService

_LOG = logging.getLogger("ray.serve")


def create_app(service: ScorerService) -> FastAPI:
    """The application of one replica."""
    app = Api(
        title="DREL scorer",
        description="Tags for images, from their features or from pictures.",
        version="1",
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.service = service
    for router in (scoring, model, feedback, health):
        app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _failure)
    app.add_middleware(ShortPath, service=service)
    app.add_middleware(ApiErrors)
    app.add_middleware(SaysSo)
    app.add_middleware(BearerAuth)  # added last, it runs first: nothing may answer before it
    return app


class ApiErrors:
    """Middleware: an ``ApiError`` of a route is the answer, whether the router called it or ``ShortPath``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except ApiError as error:
            response = _error(error.status, error.code, error.message)
            await response(scope, receive, send)


class ShortPath:
    """Middleware: calls the function of /v1/annotate without FastAPI's router, which answers fewer requests a
    second on its way to the same function (docs/performance.md). A query that is wrong goes to the router,
    which says why."""

    def __init__(self, app: ASGIApp, service: ScorerService) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            query = read_query(scope["query_string"]) if path == ANNOTATE else None
            if query is not None:
                request = Request(scope, receive)
                response = await annotate(request=request, service=self.service, query=query)
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _error(status: int, code: str, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    answer = _error(
        error.status_code,
        codes.get(error.status_code, "error"),
        f"{request.method} {request.url.path}: {error.detail}; see /docs",
    )
    answer.headers.update(error.headers or {})
    return answer


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Of the routes that FastAPI checks, /v1/annotate alone takes no other names.
    return _error(422, "invalid_request", fault(error.errors()[0], AnnotateQuery))


async def _failure(_: Request, error: Exception) -> Response:
    _LOG.exception("request failed", exc_info=error)
    return _error(500, "internal", "the scorer failed; its log says why")
