"""The scorer's routes, in four groups: scoring, model, feedback, health. The forms of bodies are in
``schemas``.

Every route gets the replica's ``ScorerService``. An ``ApiError`` that it raises is its answer (``asgi``).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse, Response
from starlette.requests import Request

from distributed.serving.answers import (
    AddTagsResponse,
    AnnotateResponse,
    DriftResponse,
    ExamplesResponse,
    FeedbackResponse,
    InferResponse,
    MetadataResponse,
    ModelResponse,
    NeighboursResponse,
    Status,
    TagsResponse,
    TrialResponse,
)
from distributed.serving.metrics import counted, read_exporter
from distributed.serving.request_body import header, read_body
from distributed.serving.requests import (
    ScoreRequest,
    check_fits,
    parse_annotate,
    parse_binary,
    parse_either,
    parse_infer,
    parse_json,
    parse_picture,
)
from distributed.serving.responses import ScoredResponse, annotate_json, infer_json
from distributed.serving.schemas import (
    AddTagsRequest,
    AnnotateQuery,
    AnnotateRequest,
    ApiError,
    FeedbackRequest,
    GroupName,
    InferRequest,
    Language,
    NamedFeedbackRequest,
    body_schema,
    error_responses,
)
from distributed.serving.service import ScorerService

ANNOTATE = "/v1/annotate"
INFER = "/v2/models/drel/infer"
FEEDBACK = "/v1/feedback"
TAGS = "/v1/tags"

scoring, model, feedback, health = APIRouter(), APIRouter(), APIRouter(), APIRouter()


async def no_query(request: Request) -> None:
    """Options that nobody reads would be taken for honoured.

    Raises:
        ApiError: 422, there is a query.
    """
    if request.query_params:
        names = ", ".join(request.query_params)
        raise ApiError(422, "invalid_request", f"query: {names}: this route takes none")


async def _service(request: Request) -> ScorerService:
    found: ScorerService = request.app.state.service
    return found


Service = Annotated[ScorerService, Depends(_service)]


@scoring.post(
    ANNOTATE,
    response_model=AnnotateResponse,
    responses=error_responses(400, 413, 415, 422, 503),
    openapi_extra=body_schema(AnnotateRequest, "application/octet-stream", "image/*"),
)
@counted(ANNOTATE)
async def annotate(
    request: Request, service: Service, query: Annotated[AnnotateQuery, Query()]
) -> Response:
    """Best tags of rows of features (JSON, or float32 little-endian bytes), of pictures (JSON, base64), or of
    one picture (its bytes as they are in the file)."""
    score_request = await _score_request(request, service, query)
    scored = await service.model.score(score_request)
    return ScoredResponse(annotate_json(scored, score_request.lang), scored)


async def _score_request(
    request: Request, service: ScorerService, query: AnnotateQuery
) -> ScoreRequest:
    kind = (header(request, b"content-type") or "application/json").partition(";")[0]
    kind = kind.strip().lower()  # names of media types are the same in any case
    body = await read_body(request, service.max_body_bytes)
    served, max_rows = service.model.ready(), service.config.max_rows
    decide = service.config.decide
    if kind == "application/octet-stream":
        score_request = parse_binary(body, query, served.image_dim, max_rows, decide)
    elif kind == "application/json":
        score_request = parse_annotate(
            body, served.image_dim, max_rows, decide, query, served.blocks
        )
    elif kind.startswith("image/"):
        score_request = parse_picture(body, query, max_rows, decide)
    else:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"content type {kind!r}; send application/json, application/octet-stream or image/*",
        )
    check_fits(score_request, served)
    return score_request


@scoring.post(
    INFER,
    response_model=InferResponse,
    responses=error_responses(400, 413, 415, 422, 503),
    openapi_extra=body_schema(InferRequest),
    dependencies=[Depends(no_query)],
)
@counted(INFER)
async def infer(request: Request, service: Service) -> Response:
    """Open Inference Protocol: best tags of rows of features; one FP32 input [B, D], outputs `tags` (BYTES)
    and `scores` (FP32)."""
    body = await read_body(request, service.max_body_bytes)
    dim = service.model.ready().image_dim
    score_request, identity = parse_infer(body, dim, service.config.max_rows)
    scored = await service.model.score(score_request)
    return ScoredResponse(infer_json(scored, identity), scored)


@model.get("/v1/model", response_model=ModelResponse, responses=error_responses(503))
async def describe(service: Service) -> Any:
    """The model that answers: version, size, what it takes, what it can decide, its figures."""
    served = service.model.ready()
    info = served.info
    return {
        "version": served.version,
        "method": info.method,
        "tags": len(served.names),
        "D": served.image_dim,
        "columns": [{"name": block.name, "D": block.dim} for block in served.blocks],
        "trained_at": info.trained_at,
        "metrics": info.train,
        "takes": ["features"] * served.takes_features + ["images"] * served.takes_images,
        "decisions": served.decisions,
        "probabilities": served.annotator.decider is not None,
        "search": served.search,
        "pictures": service.pictures is not None and served.kept_rows.are_there,
        "groups": [] if served.rules is None else [*served.rules.rules.groups],
        "languages": [] if served.rules is None else served.rules.rules.languages,
        "limits": {"rows": service.config.max_rows, "body_bytes": service.max_body_bytes},
        "parent": info.parent,
        "refused": service.model.refused,
    }


@model.get(
    "/v1/tags",
    response_model=TagsResponse,
    response_model_exclude_unset=True,
    responses=error_responses(422, 503),
)
async def tags(
    service: Service,
    prefix: Annotated[
        str, Query(max_length=1000, description="how the tags begin; empty: all tags")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="most tags of the answer")] = 50,
    group: Annotated[
        GroupName | None, Query(description="only tags of this group, see `groups` of /v1/model")
    ] = None,
    lang: Annotated[
        Language | None, Query(description="language of display names, as in de or pt-br")
    ] = None,
) -> Any:
    """Tags that begin with prefix, the most frequent first; also those whose other spelling or display name
    does."""
    served = service.model.ready()
    only_T = served.members(group)
    found = served.tag_names.found(prefix, limit, None if only_T is None else only_T.numpy())
    listed = []
    for tag, by in found:
        one = {"tag": served.names[tag], "count": int(served.counts[tag])}
        if by is not None:
            one["found_by"] = by
        if served.unseen_T is not None and served.unseen_T[tag]:
            one["unseen"] = True
        if lang is not None:
            one["name"] = served.display_name(tag, lang)
        listed.append(one)
    return {"model": served.version, "tags": listed}


@feedback.post(
    TAGS,
    response_model=AddTagsResponse,
    responses=error_responses(400, 413, 415, 422, 503),
    openapi_extra=body_schema(AddTagsRequest),
    dependencies=[Depends(no_query)],
)
@counted(TAGS)
async def add_tags(request: Request, service: Service) -> Any:
    """Tags that the model shall know by name alone; kept on disk when this answers, and taken up by the next
    jobs.update. Every replica gives them within `poll_seconds`, marked `unseen`."""
    body = await read_body(request, service.max_body_bytes)
    given = parse_json(AddTagsRequest, body)
    added, known = await asyncio.to_thread(service.added.keep, given.tags, service.model.ready())
    served = await service.model.look() if added else service.model.ready()
    return {"model": served.version, "added": added, "known": known}


@model.get(
    "/v1/neighbours", response_model=NeighboursResponse, responses=error_responses(404, 422, 503)
)
async def neighbours(
    service: Service,
    tag: Annotated[
        str, Query(min_length=1, max_length=1000, description="a tag of /v1/tags", examples=["sky"])
    ],
    limit: Annotated[int, Query(ge=1, le=100, description="most neighbours of the answer")] = 10,
    pictures: Annotated[
        int, Query(ge=0, le=6, description="most image_ids of a neighbour; with --pictures")
    ] = 0,
) -> Any:
    """Tags nearest to a tag, by the cosine of their latents."""
    served = service.model.ready()
    try:
        found = await asyncio.to_thread(served.neighbours, tag, limit)
    except KeyError:
        raise ApiError(404, "unknown_tag", f"no tag {tag!r}; see /v1/tags") from None
    if found is None:
        raise ApiError(422, "no_latents", f"method {served.info.method} has no tag latents")
    nearest: list[dict[str, Any]] = [{"tag": name, "score": score} for name, score in found]
    if pictures and (folder := service.pictures) is not None:
        for one in nearest:
            one["image_ids"] = await asyncio.to_thread(
                served.images_with, one["tag"], pictures, lambda name: folder.find(name) is not None
            )
    return {"model": served.version, "tag": tag, "neighbours": nearest}


@model.get("/v1/examples", response_model=ExamplesResponse, responses=error_responses(422, 503))
async def examples(
    service: Service,
    limit: Annotated[int, Query(ge=1, le=50, description="most rows of the answer")] = 12,
) -> Any:
    """Rows to try the scorer on: images of training that the model keeps for jobs.update."""
    served = service.model.ready()
    return {"examples": await asyncio.to_thread(served.examples, limit)}


@model.get("/v1/trial", response_model=TrialResponse, responses=error_responses(503))
async def trial(service: Service) -> Any:
    """The version that is tried beside the one that answers, as this replica sees it."""
    served = service.model.ready()
    return {"live": served.version, **service.model.trial.report()}


@model.get("/v1/drift", response_model=DriftResponse, responses=error_responses(503))
async def drift(service: Service) -> Any:
    """What this replica is asked beside what its model was trained on."""
    service.model.ready()
    return await asyncio.to_thread(service.model.drift.report)


@model.get("/v2/models/drel", response_model=MetadataResponse, responses=error_responses(503))
async def metadata(service: Service) -> Any:
    """Open Inference Protocol: name, version, and the shapes of what goes in and comes out."""
    served = service.model.ready()
    return {
        "name": "drel",
        "versions": [served.version],
        "platform": "drel",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, served.image_dim]}],
        "outputs": [
            {"name": "tags", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
        ],
    }


@feedback.post(
    FEEDBACK,
    response_model=FeedbackResponse,
    responses=error_responses(400, 413, 415, 422, 503),
    openapi_extra=body_schema(FeedbackRequest),
    dependencies=[Depends(no_query)],
)
@counted(FEEDBACK)
async def give_feedback(request: Request, service: Service) -> Any:
    """Tags that an image has (add) or has not (remove); kept on disk when this answers."""
    body = await read_body(request, service.max_body_bytes)
    served = service.model.ready()
    given = parse_either(FeedbackRequest, NamedFeedbackRequest, body)
    await service.feedback.keep(given, served)
    return {"image_id": given.image_id, "kept": True}


@health.get("/v1/health/live", response_model=Status)
async def live() -> Any:
    """The process answers. It may have no model yet."""
    return {"status": "live"}


@health.get("/v1/health/ready", response_model=Status, responses=error_responses(503))
async def ready(service: Service) -> Any:
    """The model is loaded, and has just scored a row."""
    served = await service.model.probe()
    return {"status": "ready", "model": served.version}


@health.get("/v2/health/live", response_model=Status)
async def live_v2() -> Any:
    """Open Inference Protocol: the same as /v1/health/live."""
    return await live()


@health.get("/v2/health/ready", response_model=Status, responses=error_responses(503))
async def ready_v2(service: Service) -> Any:
    """Open Inference Protocol: the same as /v1/health/ready."""
    return await ready(service)


@health.get("/v2/models/drel/ready", response_model=Status, responses=error_responses(503))
async def model_ready(service: Service) -> Any:
    """Open Inference Protocol: the same as /v1/health/ready."""
    return await ready(service)


@health.get("/metrics", response_class=PlainTextResponse, responses=error_responses(503))
async def metrics() -> Response:
    """What Ray's exporter on this node says of the scorer, for Prometheus."""
    text = await asyncio.to_thread(read_exporter)
    return Response(text, media_type="text/plain; version=0.0.4")
