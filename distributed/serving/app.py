"""The HTTP scorer on Ray Serve: ``serve run distributed.serving.app:build_app model=OUT`` or jobs.serve.

A replica holds one version of a model. Requests that wait together are scored together; what takes long
goes to a thread, so that the next ones are read meanwhile. A new version is loaded and tried beside the
old one and takes its place between two batches; every answer names the version that made it.
"""

# No `from __future__ import annotations` here: Serve pickles the routes, and FastAPI could no longer
# resolve the names of their types.
import asyncio
import logging
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
from fastapi.responses import HTMLResponse, Response
from pydantic_core import to_json
from ray import serve
from ray.serve.metrics import Counter, Histogram
from starlette.requests import Request

from distributed.data.feedback import Word, append
from distributed.serving.asgi import ANNOTATE, answers, app, described
from distributed.serving.auth import VARIABLE, read_token, require
from distributed.serving.config import ServeArgs
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.model import ServedModel
from distributed.serving.proxy import TakesWhole
from distributed.serving.requests import (
    ScoreRequest,
    annotate_question,
    binary_rows,
    check_size,
    decoded,
    infer_question,
    matrix,
    parse,
    read_body,
)
from distributed.serving.schemas import (
    MAX_K,
    AnnotateRequest,
    AnnotateResponse,
    ApiError,
    ExamplesResponse,
    FeedbackRequest,
    FeedbackResponse,
    InferRequest,
    InferResponse,
    ModelResponse,
    NeighboursResponse,
    Status,
    TagsResponse,
)
from distributed.storage.folder import Folder
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

PAGE = Path(__file__).with_name("page.html")
_LOG = logging.getLogger("ray.serve")


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
class Scorer(TakesWhole):
    """One replica."""

    def __init__(self, args: ServeArgs) -> None:
        self.args = args
        token = read_token(args.token_file)
        if args.require_token and not token:
            raise InputError(f"a token is required: set {VARIABLE} for the nodes, or token_file")
        require(token)
        if args.threads:
            torch.set_num_threads(args.threads)
        self.serving = HotSwapModel(args.backbone, args.max_rows, args.queue_rows)
        self.body_limit = args.max_body_mib << 20
        self.feedback = args.feedback or _beside(args.model)
        keys: Any = ("route", "status", "model")
        self.requests = Counter("drel_requests", description="Requests answered.", tag_keys=keys)
        self.latency = Histogram(
            "drel_latency_ms",
            description="From a request's last byte to its answer.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000],
            tag_keys=("route",),
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve's ``user_config``: {"model": PATH} moves this replica to another bundle.

        The first one must load; a later one that does not is refused, and the old one stays.
        """
        path = config.get("model") or self.args.model
        await self.serving.follow(path, self.args.poll_seconds)

    async def check_health(self) -> None:
        if not self.serving.is_watched:
            raise RuntimeError("the watcher of versions has ended")

    def _count(self, route: str, status: int, started: float) -> None:
        model = self.serving.model
        version = model.version if model else ""
        self.requests.inc(1, {"route": route, "status": str(status), "model": version})
        self.latency.observe((time.perf_counter() - started) * 1000, {"route": route})

    @app.post(
        ANNOTATE,
        response_model=AnnotateResponse,
        responses=answers(400, 413, 415, 422, 503),
        openapi_extra=described(AnnotateRequest, "application/octet-stream"),
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
            model, score_Bk, tag_Bk = await self.serving.answer(question)
            return Response(
                _results(model, score_Bk, tag_Bk, question.threshold), media_type="application/json"
            )
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._count(ANNOTATE, status, started)

    async def _question(self, request: Request, k: int, threshold: float | None) -> ScoreRequest:
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        body = await read_body(request, self.body_limit)
        model = self.serving.ready()
        if kind == "application/octet-stream":
            features_BD = binary_rows(body, model.image_dim)
            check_size(len(features_BD), k, self.args.max_rows)
            question = ScoreRequest(features_BD, [], k, threshold)
        elif kind == "application/json":
            question = annotate_question(body, model.image_dim, self.args.max_rows)
        else:
            raise ApiError(
                415,
                "unsupported_media_type",
                f"content type {kind!r}; send application/json or application/octet-stream",
            )
        if question.features_BD is not None and not model.takes_features:
            raise ApiError(422, "no_features", "this model reads pictures; send images")
        if question.threshold == "per-tag" and model.threshold_T is None:
            raise ApiError(
                422,
                "no_thresholds",
                "this model has no per-tag thresholds: it was trained without --data.validation",
            )
        return question

    @app.post(
        "/v2/models/drel/infer",
        response_model=InferResponse,
        responses=answers(400, 413, 422, 503),
        openapi_extra=described(InferRequest),
    )
    async def infer(self, request: Request) -> Response:
        """Open Inference Protocol: one FP32 input [B, D]; outputs `tags` (BYTES) and `scores`."""
        started, status = time.perf_counter(), 200
        try:
            body = await read_body(request, self.body_limit)
            dim = self.serving.ready().image_dim
            question, identity = infer_question(body, dim, self.args.max_rows)
            model, score_Bk, tag_Bk = await self.serving.answer(question)
            shape = list(score_Bk.shape)
            content = {
                "model_name": "drel",
                "model_version": model.version,
                **({"id": identity} if identity is not None else {}),
                "outputs": [
                    {
                        "name": "tags",
                        "shape": shape,
                        "datatype": "BYTES",
                        "data": model.names[tag_Bk.reshape(-1)].tolist(),
                    },
                    {
                        "name": "scores",
                        "shape": shape,
                        "datatype": "FP32",
                        "data": score_Bk.reshape(-1).tolist(),
                    },
                ],
            }
            return Response(to_json(content), media_type="application/json")
        except ApiError as error:
            status = error.status
            raise
        finally:
            self._count("/v2/models/drel/infer", status, started)

    # The model and its tags

    @app.get("/v1/model", response_model=ModelResponse, responses=answers(503))
    async def describe(self) -> Any:
        model = self.serving.ready()
        info = model.info
        takes = ["features"] * model.takes_features + ["images"] * model.takes_images
        return {
            "version": model.version,
            "method": info.method,
            "tags": len(model.names),
            "D": model.image_dim,
            "trained_at": info.trained_at,
            "metrics": info.train,
            "takes": takes,
            "thresholds": model.threshold_T is not None,
            "parent": info.parent,
            "refused": self.serving.refused,
        }

    @app.get("/v1/tags", response_model=TagsResponse, responses=answers(422, 503))
    async def tags(
        self, prefix: str = Query("", max_length=1000), limit: int = Query(50, ge=1, le=1000)
    ) -> Any:
        """Tags that begin with prefix, the most frequent first."""
        model = self.serving.ready()
        found = model.find_tags(prefix, limit)
        counts = model.counts
        return {
            "model": model.version,
            "tags": [{"tag": model.names[tag], "count": int(counts[tag])} for tag in found],
        }

    @app.get("/v1/neighbours", response_model=NeighboursResponse, responses=answers(404, 422, 503))
    async def neighbours(
        self, tag: str = Query(min_length=1, max_length=1000), limit: int = Query(10, ge=1, le=100)
    ) -> Any:
        """Tags nearest to a tag, by the cosine of their latents."""
        model = self.serving.ready()
        try:
            found = await asyncio.to_thread(model.neighbours, tag, limit)
        except KeyError:
            raise ApiError(404, "unknown_tag", f"no tag {tag!r}; see /v1/tags") from None
        if found is None:
            raise ApiError(422, "no_latents", f"method {model.info.method} has no tag latents")
        return {
            "model": model.version,
            "tag": tag,
            "neighbours": [{"tag": name, "score": score} for name, score in found],
        }

    @app.get("/v1/examples", response_model=ExamplesResponse, responses=answers(422, 503))
    async def examples(self, limit: int = Query(12, ge=1, le=50)) -> Any:
        """Rows to try the scorer on: images of training that the model keeps for jobs.update."""
        model = self.serving.ready()
        return {"examples": await asyncio.to_thread(model.examples, limit)}

    # Feedback

    @app.post(
        "/v1/feedback",
        response_model=FeedbackResponse,
        responses=answers(400, 413, 422, 503),
        openapi_extra=described(FeedbackRequest),
    )
    async def give_feedback(self, request: Request) -> Any:
        """Tags that an image has (add) or has not (remove); kept on disk when this answers."""
        started, status = time.perf_counter(), 200
        try:
            body = await read_body(request, self.body_limit)
            word = await asyncio.to_thread(
                self._word, self.serving.ready(), parse(FeedbackRequest, body)
            )
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

    @app.get("/v1/health/ready", response_model=Status, responses=answers(503))
    async def ready(self) -> Any:
        """Ready only when the model scores."""
        model = await self.serving.probe()
        return {"status": "ready", "model": model.version}

    @app.get("/v2/health/live", response_model=Status)
    async def live_v2(self) -> Any:
        return {"status": "live"}

    @app.get("/v2/health/ready", response_model=Status, responses=answers(503))
    async def ready_v2(self) -> Any:
        return await self.ready()

    @app.get("/v2/models/drel/ready", response_model=Status, responses=answers(503))
    async def model_ready(self) -> Any:
        return await self.ready()

    @app.get("/v2/models/drel", responses=answers(503))
    async def metadata(self) -> dict[str, Any]:
        model = self.serving.ready()
        return {
            "name": "drel",
            "versions": [model.version],
            "platform": "drel",
            "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, model.image_dim]}],
            "outputs": [
                {"name": "tags", "datatype": "BYTES", "shape": [-1, -1]},
                {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
            ],
        }

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **answers(503)})
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
            "min_replicas": int(low),
            "max_replicas": int(high),
            "target_ongoing_requests": 32,
        }
    else:
        options["num_replicas"] = int(low)
    return Scorer.options(**options).bind(args)  # type: ignore[attr-defined]
