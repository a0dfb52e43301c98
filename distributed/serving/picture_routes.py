"""Routes for looking at rows of training: which are like an image, and their pictures. They answer only where
jobs.serve was told --pictures: what a scorer shows of its training is its owner's choice."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.requests import Request

from distributed.serving.answers import SimilarResponse
from distributed.serving.model import ServedModel
from distributed.serving.one_row import row_of
from distributed.serving.picture_folder import PictureFolder
from distributed.serving.request_body import read_body
from distributed.serving.requests import parse_either
from distributed.serving.routes import Service, no_query
from distributed.serving.schemas import (
    ApiError,
    NamedSimilarRequest,
    SimilarRequest,
    body_schema,
    error_responses,
)
from distributed.serving.service import ScorerService
from drel_core.errors import InputError

pictures = APIRouter()


def _shown(service: ScorerService) -> tuple[ServedModel, PictureFolder]:
    """Raises:
    ApiError: 404, this scorer shows none, or its model keeps none; 503, no model yet.
    """
    served = service.model.ready()
    if service.pictures is None:
        raise ApiError(404, "no_pictures", "this scorer shows none; see jobs.serve --pictures")
    if not served.kept_rows.are_there:
        raise ApiError(404, "no_pictures", "this model keeps no rows of its training")
    return served, service.pictures


@pictures.get(
    "/v1/pictures",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "a small copy of the picture"},
        **error_responses(404, 422, 503),
    },
)
async def picture(
    service: Service,
    image_id: Annotated[
        str,
        Query(
            min_length=1,
            max_length=1000,
            description="of a row that the model keeps",
            examples=["17"],
        ),
    ],
) -> Response:
    """The picture of a row of training that the model keeps, as a small JPEG. Only with --pictures."""
    served, folder = _shown(service)
    async with folder.turn:
        is_kept = await asyncio.to_thread(served.kept_rows.__contains__, image_id)
        small = await asyncio.to_thread(folder.small, image_id) if is_kept else None
    if small is None:
        raise ApiError(404, "no_picture", "no picture of a kept row has this image_id")
    headers = {"Cache-Control": "private, max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(small, media_type="image/jpeg", headers=headers)


@pictures.post(
    "/v1/similar",
    response_model=SimilarResponse,
    responses=error_responses(400, 404, 413, 415, 422, 503),
    openapi_extra=body_schema(SimilarRequest),
    dependencies=[Depends(no_query)],
)
async def similar(request: Request, service: Service) -> Any:
    """Rows of training nearest to an image, by the cosine of their latents. Only with --pictures."""
    body = await read_body(request, service.max_body_bytes)
    served, folder = _shown(service)
    given = parse_either(SimilarRequest, NamedSimilarRequest, body)

    def found() -> list[dict[str, Any]]:
        row_D = row_of(given, served)
        try:
            return served.kept_rows.similar(row_D, given.limit)
        except InputError as error:
            raise ApiError(422, "not_scorable", str(error)) from None

    async with folder.turn:
        return {"model": served.version, "rows": await asyncio.to_thread(found)}
