"""The HTTP scorer on Ray Serve: ``serve run distributed.serving:build_app model=OUT`` or jobs.serve.

A replica holds one version of a model. Requests that wait together are scored together; what takes long
goes to a thread, so that the next ones are read meanwhile. A new version is loaded and tried beside the
old one and takes its place between two batches; every answer names the version that made it.
"""

# No `from __future__ import annotations` here: Serve pickles the routes, and FastAPI could no longer
# resolve the names of their types.
import asyncio
import logging
import re
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from fastapi import Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from ray import serve
from ray.serve.metrics import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from distributed.batcher import Batcher
from distributed.bundles import find_bundle
from distributed.feedback import Word, append
from distributed.folder import Folder
from distributed.serving_api import (
    MAX_K,
    AnnotateRequest,
    AnnotateResponse,
    ApiError,
    ErrorResponse,
    ExamplesResponse,
    FeedbackRequest,
    FeedbackResponse,
    InferRequest,
    InferResponse,
    ModelResponse,
    NeighboursResponse,
    Question,
    Status,
    TagsResponse,
    annotate_question,
    binary_rows,
    check_size,
    decoded,
    infer_question,
    matrix,
    parse,
    read_body,
)
from distributed.serving_auth import VARIABLE, Api, BearerAuth, read_token, require
from distributed.serving_model import ServedModel
from drel_core.errors import InputError
from drel_core.pictures import BadPicture

ANNOTATE = "/v1/annotate"
PAGE = Path(__file__).with_name("serving_page.html")
_LOG = logging.getLogger("ray.serve")

# A thread that scores and the event loop hand the interpreter's lock to each other at every operation,
# and each waits up to 5 ms for it: work that is shorter is done where it stands.
_INLINE_SECONDS = 0.003


class ServeArgs(BaseModel):
    """What ``serve run`` and the ``args`` of a Serve config file take; jobs.serve fills it in."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="bundle, training folder, or folder of versions with `latest`")
    replicas: str = Field(
        "1", description="N, or MIN:MAX to follow the load", pattern=r"^\d+(:\d+)?$"
    )
    feedback: str = Field(
        "", description="folder or s3:// prefix; empty: `feedback` beside the model"
    )
    backbone: str = Field("", description="network for pictures where the model names none")
    threads: int = Field(
        0, ge=0, description="CPU threads of a replica; 0: the machine's cores / replicas"
    )
    max_rows: int = Field(1024, ge=1, description="most rows of a request")
    max_body_mib: int = Field(32, ge=1, description="largest body")
    queue_rows: int = Field(4096, ge=1, description="rows that may wait in a replica; then 503")
    poll_seconds: float = Field(
        5.0, gt=0, description="how often a replica looks for a new version"
    )
    token_file: str = Field(
        "", description="file with the token to ask for; empty: DREL_SCORER_TOKEN of the nodes"
    )
    require_token: bool = Field(False, description="without a token, do not start")


def _described(kind: type[BaseModel], *others: str) -> dict[str, Any]:
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


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
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
        error.status_code, codes.get(error.status_code, "error"),
        f"{request.method} {request.url.path}: {error.detail}; see /docs",
    )  # fmt: skip
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


# Above the class, because Serve pickles it, with the globals that there are, where it is decorated.


def _results(model: ServedModel, score_Bk: np.ndarray, tag_Bk: np.ndarray, threshold: Any) -> bytes:
    """The JSON of an answer; scores keep every digit of their float32."""
    if threshold == "per-tag":
        assert model.threshold_T is not None
        keep_Bk = score_Bk >= model.threshold_T[tag_Bk]
    elif threshold is not None:
        keep_Bk = score_Bk >= threshold
    else:
        keep_Bk = None
    results = []
    for row, (names, scores) in enumerate(
        zip(model.names[tag_Bk].tolist(), score_Bk.tolist(), strict=True)
    ):
        pairs: Iterable[tuple[str, float]] = zip(names, scores, strict=True)
        if keep_Bk is not None:
            kept = keep_Bk[row].tolist()
            pairs = ((n, s) for (n, s), keep in zip(pairs, kept, strict=True) if keep)
        results.append({"tags": [{"tag": name, "score": score} for name, score in pairs]})
    return to_json({"model": model.version, "results": results})


def _beside(model: str) -> str:
    """``feedback`` in the training folder or folder of versions: the bundle itself never changes."""
    place = Folder.of(model)
    return ((place.parent if place.has("config.json") else place) / "feedback").address


def _exported() -> str:
    node = ray.get_runtime_context().get_node_id()
    port = next((n["MetricsExportPort"] for n in ray.nodes() if n["NodeID"] == node), 0)
    address = next(
        (n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == node), "127.0.0.1"
    )
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise ApiError(503, "no_metrics", f"Ray's exporter does not answer ({error})") from None
    wanted = ("ray_drel_", "ray_serve_")
    lines = [
        line
        for line in text.splitlines()
        if line.startswith(wanted)
        or (line.startswith("# ") and line.split(" ", 3)[2].startswith(wanted))
    ]
    return "\n".join(lines) + "\n"


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
app.add_middleware(BearerAuth)  # added last, it is asked first: no other way in may come after it


@serve.deployment(
    name="scorer",
    # Requests wait in this project's own queue, which is bounded by rows and answers 503.
    max_ongoing_requests=2048,
    health_check_period_s=5,
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=20,
    # A line for each request would cost more than finding its tags; metrics count them.
    logging_config={"enable_access_log": False, "log_level": "INFO"},
)
@serve.ingress(app)
class Scorer:
    """One replica."""

    def __init__(self, args: ServeArgs) -> None:
        self.args = args
        token = read_token(args.token_file)
        if args.require_token and not token:
            raise InputError(f"a token is required: set {VARIABLE} for the nodes, or token_file")
        require(token)
        if args.threads:
            torch.set_num_threads(args.threads)
        self.model: ServedModel | None = None
        self.refused: str | None = None
        self.path = args.model
        self.waiting = 0
        self.batcher = Batcher(self._score, lambda question: question.rows, args.max_rows)
        self.body_limit = args.max_body_mib << 20
        self._swap = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self.feedback = args.feedback or _beside(args.model)
        keys: Any = ("route", "status", "model")
        self.requests = Counter("drel_requests", description="Requests answered.", tag_keys=keys)
        self.latency = Histogram(
            "drel_latency_ms", description="From a request's last byte to its answer.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000], tag_keys=("route",),
        )  # fmt: skip
        self.batch_rows = Histogram(
            "drel_batch_rows", description="Rows scored together.",
            boundaries=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], tag_keys=("model",),
        )  # fmt: skip
        self.version = Gauge(
            "drel_model_info", description="1 for the version that answers.", tag_keys=("model",)
        )

    # Versions

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve's ``user_config``: {"model": PATH} moves this replica to another bundle.

        The first one must load; a later one that does not is refused, and the old one stays.
        """
        self.path = config.get("model") or self.args.model
        await self._take(first=self.model is None)
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _take(self, first: bool = False) -> None:
        async with self._swap:
            try:
                _, version = await asyncio.to_thread(find_bundle, self.path)
                if self.model is not None and version == self.model.version:
                    self.refused = None
                    return
                fresh = await asyncio.to_thread(ServedModel, self.path, self.args.backbone)
                old = self.model
                if old is not None and fresh.image_dim != old.image_dim:
                    raise InputError(
                        f"{self.path}: D = {fresh.image_dim}, but the scorer answers D = {old.image_dim}; "
                        "start another scorer for other features"
                    )
            except Exception as error:  # whatever is wrong with a newer bundle, the old one answers
                if first:
                    raise
                reason = str(error) or type(error).__name__
                if reason != self.refused:
                    _LOG.error("bundle refused: %s", reason)
                self.refused = reason
                return
            self.model, self.refused = fresh, None
            if old is not None:
                self.version.set(0, {"model": old.version})
                _LOG.info("moved from version %s to %s", old.version, fresh.version)
            self.version.set(1, {"model": fresh.version})

    async def _watch(self) -> None:
        """Follow ``latest``. A version that was refused is tried again: it may have been mended."""
        while True:
            await asyncio.sleep(self.args.poll_seconds)
            try:
                await self._take()
            except Exception:  # the watcher must outlive whatever a file system does
                _LOG.exception("looking for a new version failed")

    async def check_health(self) -> None:
        if self._watcher is not None and self._watcher.done():
            raise RuntimeError("the watcher of versions has ended")

    def _ready(self) -> ServedModel:
        if self.model is None:
            raise ApiError(503, "not_ready", "no model is loaded yet")
        return self.model

    # Scoring

    async def _score(self, questions: list[Question]) -> list[Any]:
        """Questions that wait together, by one version of the model; answers are (model, scores, tags)."""
        model = self._ready()
        rows = sum(question.rows for question in questions)
        pictures = any(question.features_BD is None for question in questions)
        if not pictures and rows * model.row_seconds < _INLINE_SECONDS:
            return self._score_now(model, questions)
        return await asyncio.to_thread(self._score_now, model, questions)

    def _score_now(self, model: ServedModel, questions: list[Question]) -> list[Any]:
        answers: list[Any] = []
        rows: list[np.ndarray] = []
        for question in questions:
            try:
                if question.features_BD is not None:
                    rows.append(question.features_BD)
                else:
                    rows.append(model.features_of(question.pictures))
                answers.append(len(rows[-1]))
            except BadPicture as error:
                place = getattr(error, "index", 0)
                answers.append(ApiError(422, "bad_picture", f"images[{place}]: {error}"))
            except InputError as error:
                answers.append(ApiError(422, "no_images", str(error)))
        if not rows:
            return answers
        features_BD = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self.batch_rows.observe(len(features_BD), {"model": model.version})
        best = model.best(features_BD, max(question.k for question in questions))
        at = 0
        for place, question in enumerate(questions):
            if isinstance(answers[place], ApiError):
                continue
            end = at + answers[place]
            answers[place] = (
                model,
                best.score_Bk[at:end, : question.k],
                best.tag_Bk[at:end, : question.k],
            )
            at = end
        return answers

    async def _answer(self, question: Question) -> tuple[ServedModel, np.ndarray, np.ndarray]:
        if self.waiting + question.rows > self.args.queue_rows and self.waiting:
            raise ApiError(
                503, "overloaded", f"{self.waiting} rows wait already; try again in a moment"
            )
        self.waiting += question.rows
        try:
            answer = await self.batcher.ask(question)
        finally:
            self.waiting -= question.rows
        if isinstance(answer, ApiError):
            raise answer
        model, score_Bk, tag_Bk = answer
        return model, score_Bk, tag_Bk

    def _count(self, route: str, status: int, started: float) -> None:
        version = self.model.version if self.model else ""
        self.requests.inc(1, {"route": route, "status": str(status), "model": version})
        self.latency.observe((time.perf_counter() - started) * 1000, {"route": route})

    @app.post(
        ANNOTATE,
        response_model=AnnotateResponse,
        responses=_answers(400, 413, 415, 422, 503),
        openapi_extra=_described(AnnotateRequest, "application/octet-stream"),
    )
    async def annotate(
        self,
        request: Request,
        k: int = Query(5, ge=1, le=MAX_K, description="for binary rows"),
        threshold: float | None = Query(None, allow_inf_nan=False, description="for binary rows"),
    ) -> Response:
        """Best tags of rows of features (JSON, or float32 little-endian bytes) or of pictures."""
        started, status = time.perf_counter(), 200
        try:
            question = await self._question(request, k, threshold)
            model, score_Bk, tag_Bk = await self._answer(question)
            return Response(
                _results(model, score_Bk, tag_Bk, question.threshold), media_type="application/json"
            )
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._count(ANNOTATE, status, started)

    async def _question(self, request: Request, k: int, threshold: float | None) -> Question:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        body = await read_body(request, self.body_limit)
        model = self._ready()
        if kind == "application/octet-stream":
            features_BD = binary_rows(body, model.image_dim)
            check_size(len(features_BD), k, self.args.max_rows)
            question = Question(features_BD, [], k, threshold)
        elif kind == "application/json":
            question = annotate_question(body, model.image_dim, self.args.max_rows)
        else:
            raise ApiError(
                415, "unsupported_media_type",
                f"content type {kind!r}; send application/json or application/octet-stream",
            )  # fmt: skip
        if question.features_BD is not None and not model.takes_features:
            raise ApiError(422, "no_features", "this model reads pictures; send images")
        if question.threshold == "per-tag" and model.threshold_T is None:
            raise ApiError(
                422, "no_thresholds",
                "this model has no per-tag thresholds: it was trained without --data.validation",
            )  # fmt: skip
        return question

    @app.post(
        "/v2/models/drel/infer",
        response_model=InferResponse,
        responses=_answers(400, 413, 422, 503),
        openapi_extra=_described(InferRequest),
    )
    async def infer(self, request: Request) -> Response:
        """Open Inference Protocol: one FP32 input [B, D]; outputs `tags` (BYTES) and `scores`."""
        started, status = time.perf_counter(), 200
        try:
            body = await read_body(request, self.body_limit)
            dim = self._ready().image_dim
            question, identity = infer_question(body, dim, self.args.max_rows)
            model, score_Bk, tag_Bk = await self._answer(question)
            shape = list(score_Bk.shape)
            content = {
                "model_name": "drel",
                "model_version": model.version,
                **({"id": identity} if identity is not None else {}),
                "outputs": [
                    {"name": "tags", "shape": shape, "datatype": "BYTES",
                     "data": model.names[tag_Bk.reshape(-1)].tolist()},
                    {"name": "scores", "shape": shape, "datatype": "FP32",
                     "data": score_Bk.reshape(-1).tolist()},
                ],
            }  # fmt: skip
            return Response(to_json(content), media_type="application/json")
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._count("/v2/models/drel/infer", status, started)

    # The model and its tags

    @app.get("/v1/model", response_model=ModelResponse, responses=_answers(503))
    async def describe(self) -> Any:
        model = self._ready()
        about = model.about
        takes = ["features"] * model.takes_features + ["images"] * model.takes_images
        return {
            "version": model.version, "method": about["method"], "tags": len(model.names),
            "D": model.image_dim, "trained_at": about["trained_at"], "metrics": about["train"],
            "takes": takes, "thresholds": model.threshold_T is not None,
            "parent": about.get("parent"), "refused": self.refused,
        }  # fmt: skip

    @app.get("/v1/tags", response_model=TagsResponse, responses=_answers(422, 503))
    async def tags(
        self,
        prefix: str = Query("", max_length=1000),
        limit: int = Query(50, ge=1, le=1000),
    ) -> Any:
        """Tags that begin with prefix, the most frequent first."""
        model = self._ready()
        found = model.find_tags(prefix, limit)
        counts = model.counts
        return {"model": model.version,
                "tags": [{"tag": model.names[tag], "count": int(counts[tag])} for tag in found]}  # fmt: skip

    @app.get("/v1/neighbours", response_model=NeighboursResponse, responses=_answers(404, 422, 503))
    async def neighbours(
        self,
        tag: str = Query(min_length=1, max_length=1000),
        limit: int = Query(10, ge=1, le=100),
    ) -> Any:
        """Tags nearest to a tag, by the cosine of their latents."""
        model = self._ready()
        try:
            found = await asyncio.to_thread(model.neighbours, tag, limit)
        except KeyError:
            raise ApiError(404, "unknown_tag", f"no tag {tag!r}; see /v1/tags") from None
        if found is None:
            raise ApiError(422, "no_latents", f"method {model.about['method']} has no tag latents")
        return {"model": model.version, "tag": tag,
                "neighbours": [{"tag": name, "score": score} for name, score in found]}  # fmt: skip

    @app.get("/v1/examples", response_model=ExamplesResponse, responses=_answers(422, 503))
    async def examples(self, limit: int = Query(12, ge=1, le=50)) -> Any:
        """Rows to try the scorer on: images of training that the model keeps for jobs.update."""
        model = self._ready()
        return {"examples": await asyncio.to_thread(model.examples, limit)}

    # Feedback

    @app.post(
        "/v1/feedback",
        response_model=FeedbackResponse,
        responses=_answers(400, 413, 422, 503),
        openapi_extra=_described(FeedbackRequest),
    )
    async def give_feedback(self, request: Request) -> Any:
        """Tags that an image has (add) or has not (remove); kept on disk when this answers."""
        started, status = time.perf_counter(), 200
        try:
            body = await read_body(request, self.body_limit)
            word = await asyncio.to_thread(self._word, self._ready(), parse(FeedbackRequest, body))
            await self._keep(word)
            return {"image_id": word.image_id, "kept": True}
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._count("/v1/feedback", status, started)

    def _word(self, model: ServedModel, given: FeedbackRequest) -> Word:
        both = set(given.add) & set(given.remove)
        if both:
            raise ApiError(422, "invalid_request", f"{min(both)!r} is both in add and in remove")
        if not given.add and not given.remove:
            raise ApiError(422, "empty", "nothing in add or remove")
        if (given.features is None) == (given.image is None):
            raise ApiError(422, "invalid_request", "give either features or image")
        if given.features is not None:
            features_D = matrix([given.features], model.image_dim)[0]
        else:
            assert given.image is not None
            try:
                features_D = model.features_of(decoded([given.image], "image"))[0]
            except BadPicture as error:
                raise ApiError(422, "bad_picture", f"image: {error}") from None
            except InputError as error:
                raise ApiError(422, "no_images", str(error)) from None
        return Word(given.image_id, features_D, given.add, given.remove, model.version)

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0.02)
    async def _keep(self, words: list[Word]) -> list[None]:
        """One file for all that came within the wait."""
        try:
            await asyncio.to_thread(append, self.feedback, words)
        except (OSError, pa.ArrowException) as error:
            _LOG.error("feedback could not be written to %s: %s", self.feedback, error)
            raise ApiError(503, "not_kept", "feedback cannot be kept at the moment") from None
        return [None] * len(words)

    # Health, metrics, page

    @app.get("/v1/health/live", response_model=Status)
    async def live(self) -> Any:
        return {"status": "live"}

    @app.get("/v1/health/ready", response_model=Status, responses=_answers(503))
    async def ready(self) -> Any:
        """Ready only when the model scores."""
        model = self._ready()
        row_1D = np.zeros((1, model.image_dim), dtype=np.float32)
        await self.batcher.ask(Question(row_1D, [], 1, None))
        return {"status": "ready", "model": model.version}

    @app.get("/v2/health/live", response_model=Status)
    async def live_v2(self) -> Any:
        return {"status": "live"}

    @app.get("/v2/health/ready", response_model=Status, responses=_answers(503))
    async def ready_v2(self) -> Any:
        return await self.ready()

    @app.get("/v2/models/drel/ready", response_model=Status, responses=_answers(503))
    async def model_ready(self) -> Any:
        return await self.ready()

    @app.get("/v2/models/drel", responses=_answers(503))
    async def metadata(self) -> dict[str, Any]:
        model = self._ready()
        return {
            "name": "drel", "versions": [model.version], "platform": "drel",
            "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, model.image_dim]}],
            "outputs": [{"name": "tags", "datatype": "BYTES", "shape": [-1, -1]},
                        {"name": "scores", "datatype": "FP32", "shape": [-1, -1]}],
        }  # fmt: skip

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **_answers(503)})
    async def metrics(self) -> Response:
        """What Ray's exporter on this node says of the scorer, for Prometheus."""
        text = await asyncio.to_thread(_exported)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(self) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))


def build_app(args: ServeArgs) -> Any:
    """The Serve application; ``args`` as in ``ServeArgs``."""
    low, _, high = args.replicas.partition(":")
    options: dict[str, Any] = {"user_config": {"model": args.model}}
    if high:
        options["autoscaling_config"] = {
            "min_replicas": int(low), "max_replicas": int(high), "target_ongoing_requests": 32,
        }  # fmt: skip
    else:
        options["num_replicas"] = int(low)
    return Scorer.options(**options).bind(args)  # type: ignore[attr-defined]
