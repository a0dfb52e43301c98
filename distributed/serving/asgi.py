"""The scorer's HTTP application: the token first, then scoring, then all other routes. Errors have the API's
own form."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from distributed.serving.auth import Api, BearerAuth
from distributed.serving.metrics import CLIENT_LEFT
from distributed.serving.page_files import page
from distributed.serving.picture_routes import pictures
from distributed.serving.requests import fault, read_query
from distributed.serving.routes import ANNOTATE, annotate, feedback, health, model, scoring
from distributed.serving.schemas import AnnotateQuery, ApiError
from distributed.serving.service import ScorerService

_LOG = logging.getLogger("ray.serve.drel")


def create_app(service: ScorerService) -> ASGIApp:
    """The application of one replica. Nothing answers before the token has been looked at."""
    return BearerAuth(ScorerApp(service))


class ScorerApp:
    """Every request without the token: POST /v1/annotate goes straight to its function, all else by FastAPI's
    router, which answers fewer requests a second on its way to a function (docs/performance.md). A query that
    is wrong goes to the router too: it says why.

    Attributes:
        api: the router, and the description of all routes.
    """

    def __init__(self, service: ScorerService) -> None:
        self.service, self.api = service, create_api(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            query = read_query(scope["query_string"]) if path == ANNOTATE else None
            if query is not None:
                answer = await self._annotate(Request(scope, receive), query)
                await answer(scope, receive, send)
                return
        await self.api(scope, receive, send)

    async def _annotate(self, request: Request, query: AnnotateQuery) -> Response:
        try:
            return await annotate(request=request, service=self.service, query=query)
        except ApiError as error:
            return await _api_error(request, error)
        except ClientDisconnect as error:
            return await _client_left(request, error)
        except Exception as error:
            return await _failure(request, error)


def create_api(service: ScorerService) -> FastAPI:
    """All routes."""
    api = Api(
        title="DREL scorer",
        description="Tags for images, from their features or from pictures.",
        version="1",
        docs_url="/docs",
        redoc_url=None,
    )
    api.state.service = service
    for router in (scoring, model, pictures, feedback, health, page):
        api.include_router(router)
    handlers: dict[type[Exception], Any] = {
        ApiError: _api_error,
        ClientDisconnect: _client_left,
        HTTPException: _http_error,
        RequestValidationError: _validation_error,
        Exception: _failure,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)
    return api


def _error(status: int, code: str, message: str, row: int | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    at = {} if row is None else {"row": row}
    return JSONResponse({"error": {"code": code, "message": message, **at}}, status, headers)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(error.status, error.code, error.message, error.row)


async def _client_left(_: Request, error: Exception) -> Response:
    """Nobody sees it."""
    return Response(status_code=CLIENT_LEFT)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    answer = _error(
        error.status_code,
        codes.get(error.status_code, "error"),
        f"{request.method} {request.url.path}: {error.detail}; see /docs",
    )
    answer.headers.update(error.headers or {})
    if error.status_code == 405:  # the framework names the methods of the first route alone
        answer.headers["Allow"] = ", ".join(_methods(request))
    return answer


def _methods(request: Request) -> list[str]:
    """What the routes of a path take."""
    routes = (
        route for route in request.app.routes if route.matches(request.scope)[0] != Match.NONE
    )
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Of the routes that FastAPI checks, /v1/annotate alone takes no other names.
    return _error(422, "invalid_request", fault(error.errors()[0], AnnotateQuery))


async def _failure(_: Request, error: Exception) -> Response:
    _LOG.exception("request failed", exc_info=error)
    return _error(500, "internal", "the scorer failed; its log says why")
