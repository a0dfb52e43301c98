"""The application without a server: errors have one form on every way, and every answer is counted."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from distributed.serving.asgi import create_api, create_app
from distributed.serving.config import ScorerConfig
from distributed.serving.requests import ScoreRequest
from distributed.serving.routes import ANNOTATE, FEEDBACK, INFER
from distributed.serving.schemas import ApiError
from distributed.serving.scoring import Scored
from drel_core.bundle.info import FeatureBlock

D = 4


class FakeService:
    """Scores every row with the numbers of its tags; fails as it is told."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.counted: list[tuple[str, int, str]] = []
        self.config = ScorerConfig(model="", max_rows=8)
        self.max_body_bytes = 1000
        self.model = self.metrics = self
        self.version, self.image_dim = "v1", D
        self.takes_features = True
        self.blocks = (FeatureBlock("deep", 3), FeatureBlock("low", 1))
        self.names = np.array(["a", "b", "c"], dtype=object)
        self.rules = self.unseen_T = None

    def members(self, group: str | None) -> None:
        """It has no groups."""

    def ready(self) -> Any:
        return self

    def decision(self, how: str, precision: float | None) -> None:
        if how == "macro":
            raise ApiError(422, "cannot_decide", "no")

    async def score(self, request: ScoreRequest) -> Scored:
        if self.failure is not None:
            raise self.failure
        tag_Bk = np.tile(np.arange(3), (request.rows, 1))[:, : request.k]
        score_Bk = tag_Bk.astype(np.float32)
        keep_Bk = None if request.threshold is None else score_Bk >= request.threshold
        return Scored(self, score_Bk, tag_Bk, keep_Bk)  # type: ignore[arg-type]

    def record(self, route: str, status: int, version: str, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((route, status, version))


def post(
    service: FakeService, path: str, query: str, body: bytes, kind: str, *packed: str
) -> tuple[int, Any]:
    """Status and answer.

    Args:
        packed: values of Content-Encoding.
    """
    sent: list[Any] = []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return coming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", kind.encode())]
    headers += [(b"content-encoding", one.encode()) for one in packed]
    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http"},
        **{"path": path, "query_string": query.encode(), "root_path": ""},
        **{"headers": headers, "client": None, "server": None},
    }
    asyncio.run(create_app(service)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], json.loads(sent[1]["body"])


ROW = np.zeros((1, D), dtype="<f4").tobytes()
BINARY = "application/octet-stream"


@pytest.mark.parametrize(
    ("query", "tags"), [("", 3), ("k=1", 1), ("k=2&threshold=0.5", 1), ("k=1&k=2", 2), ("&k=2&", 2)]
)
def test_the_query_of_binary_rows(query: str, tags: int) -> None:
    service = FakeService()
    status, answer = post(service, ANNOTATE, query, ROW, BINARY)
    assert (status, len(answer["results"][0]["tags"])) == (200, tags)
    assert service.counted == [(ANNOTATE, 200, "v1")]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("k=0", "query.k"),
        ("k=1001", "query.k"),
        ("k=", "query.k"),
        ("threshold=nan", "threshold"),
        ("decide=best", "query.decide"),
        ("decide=threshold&precision=0", "query.precision"),
        ("treshold=1", "query.treshold: not known; known are k, decide, precision, threshold"),
    ],
)
def test_a_wrong_query_is_told_by_the_router(query: str, place: str) -> None:
    service = FakeService()
    status, answer = post(service, ANNOTATE, query, ROW, BINARY)
    assert (status, answer["error"]["code"]) == (422, "invalid_request")
    assert place in answer["error"]["message"]
    assert service.counted == []  # the route was not reached


@pytest.mark.parametrize(
    ("query", "code"), [("precision=0.5", "invalid_request"), ("decide=macro", "cannot_decide")]
)
def test_what_the_model_cannot_decide_is_refused(query: str, code: str) -> None:
    service = FakeService()
    status, answer = post(service, ANNOTATE, query, ROW, BINARY)
    assert (status, answer["error"]["code"]) == (422, code)
    assert service.counted == [(ANNOTATE, 422, "v1")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ANNOTATE, {"features": [[0.0] * D]}),
        (
            INFER,
            {"inputs": [{"name": "x", "shape": [1, D], "datatype": "FP32", "data": [0.0] * D}]},
        ),
    ],
)
def test_an_error_of_the_scorer_is_the_answer_and_is_counted(path: str, body: Any) -> None:
    """/v1/annotate goes past the router, /v2 through it."""
    service = FakeService(ApiError(503, "overloaded", "try again"))
    status, answer = post(service, path, "", json.dumps(body).encode(), "application/json")
    assert (status, answer) == (503, {"error": {"code": "overloaded", "message": "try again"}})
    assert service.counted == [(path, 503, "v1")]


def test_an_error_of_one_row_says_which() -> None:
    service = FakeService(ApiError(422, "bad_picture", "images[3]: empty (0 bytes)", 3))
    status, answer = post(service, ANNOTATE, "", ROW, BINARY)
    assert (status, answer["error"]["row"]) == (422, 3)


def test_what_nobody_thought_of_is_counted_as_500() -> None:
    service = FakeService(OSError("a disk is gone"))
    status, answer = post(service, ANNOTATE, "", ROW, BINARY)
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert service.counted == [(ANNOTATE, 500, "v1")]


def test_a_request_that_was_given_up_is_no_success() -> None:
    service = FakeService(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        post(service, ANNOTATE, "", ROW, BINARY)
    assert service.counted == [(ANNOTATE, 499, "v1")]


def test_a_body_above_the_limit_is_refused_on_every_way() -> None:
    for path in (ANNOTATE, INFER, FEEDBACK):
        service = FakeService()
        status, answer = post(service, path, "", b" " * 1001, "application/json")
        assert (status, answer["error"]["code"]) == (413, "too_large")
        assert service.counted == [(path, 413, "v1")]


JSON = json.dumps({"features": [[0.0] * D] * 2}).encode()


@pytest.mark.parametrize(
    ("body", "packed"),
    [
        (JSON, ()),
        (JSON, ("identity",)),
        (gzip.compress(JSON), ("gzip",)),
        (gzip.compress(JSON), ("X-GZip",)),
        (gzip.compress(JSON), ("identity, gzip",)),
        (zlib.compress(JSON), ("deflate",)),
    ],
    ids=["none", "identity", "gzip", "X-GZip", "identity, gzip", "deflate"],
)
def test_a_packed_body_is_unpacked(body: bytes, packed: tuple[str, ...]) -> None:
    service = FakeService()
    status, answer = post(service, ANNOTATE, "", body, "application/json", *packed)
    assert (status, len(answer["results"])) == (200, 2)


def test_packed_binary_rows_are_as_many_as_were_packed() -> None:
    """41 rows whose gzip happens to be as long as 42 rows once scored as 42 rows of nonsense."""
    rows = np.random.default_rng(0).normal(size=(8, D)).astype("<f4").tobytes()
    body = gzip.compress(rows, mtime=0)
    body = gzip.compress(rows, 0) if len(body) % (4 * D) else body
    status, answer = post(FakeService(), ANNOTATE, "", body, BINARY, "gzip")
    assert (status, len(answer["results"])) == (200, 8)


@pytest.mark.parametrize(
    ("body", "packed", "status", "code", "words"),
    [
        (JSON, ("br",), 415, "unsupported_encoding", "'br'"),
        (gzip.compress(gzip.compress(JSON)), ("gzip, gzip",), 415, "unsupported_encoding", ""),
        (gzip.compress(gzip.compress(JSON)), ("gzip", "gzip"), 415, "unsupported_encoding", ""),
        (JSON, ("gzip",), 400, "bad_encoding", "no gzip"),
        (gzip.compress(JSON)[:-9], ("gzip",), 400, "bad_encoding", "ends too early"),
        (b"", ("gzip",), 400, "bad_encoding", "ends too early"),
        (gzip.compress(JSON) * 2, ("gzip",), 400, "bad_encoding", "bytes follow"),
        (gzip.compress(b" " * 1001), ("gzip",), 413, "too_large", "unpacked"),
        (gzip.compress(b" " * 900_000), ("gzip",), 413, "too_large", "unpacked"),
    ],
    ids=["br", "twice", "repeated", "plain", "cut", "empty", "more", "large", "bomb"],
)
@pytest.mark.parametrize("path", [ANNOTATE, INFER, FEEDBACK])
def test_a_body_that_cannot_be_unpacked_is_refused(
    path: str, body: bytes, packed: tuple[str, ...], status: int, code: str, words: str
) -> None:
    service = FakeService()
    got, answer = post(service, path, "", body, "application/json", *packed)
    assert (got, answer["error"]["code"]) == (status, code)
    assert words in answer["error"]["message"]
    assert service.counted == [(path, status, "v1")]


@pytest.mark.parametrize(
    ("body", "kind"),
    [(JSON, "Application/JSON"), (JSON, "APPLICATION/JSON; charset=utf-8"), (ROW, BINARY.upper())],
)
def test_media_types_are_known_in_any_case(body: bytes, kind: str) -> None:
    assert post(FakeService(), ANNOTATE, "", body, kind)[0] == 200


def asking(**options: object) -> bytes:
    return json.dumps({"features": [[0.0] * D], **options}).encode()


@pytest.mark.parametrize(
    ("query", "options", "tags"),
    [
        ("k=1", {}, 1),
        ("k=1", {"k": None}, 1),
        ("k=2", {"k": 2}, 2),
        ("k=2&threshold=0.5", {}, 1),
        ("threshold=1000", {}, 0),
        ("threshold=0.5", {"k": 3}, 2),
    ],
)
def test_the_query_holds_for_json_too(query: str, options: dict[str, Any], tags: int) -> None:
    status, answer = post(FakeService(), ANNOTATE, query, asking(**options), "application/json")
    assert (status, len(answer["results"][0]["tags"])) == (200, tags)


def test_query_and_body_must_not_say_different_things() -> None:
    status, answer = post(FakeService(), ANNOTATE, "k=2", asking(k=1), "application/json")
    assert (status, answer["error"]["message"]) == (422, "k is 1 in the body and 2 in the query")


@pytest.mark.parametrize("path", [INFER, FEEDBACK])
def test_a_query_that_nobody_reads_is_refused(path: str) -> None:
    status, answer = post(FakeService(), path, "k=1", b"{}", "application/json")
    assert (status, answer["error"]["code"]) == (422, "invalid_request")
    assert "k: this route takes none" in answer["error"]["message"]


def test_features_by_the_names_of_their_columns() -> None:
    named = {"deep": [[1, 2, 3], [4, 5, 6]], "low": [[7], [8]]}
    service = FakeService()
    body = json.dumps({"features": named}).encode()
    status, answer = post(service, ANNOTATE, "k=2", body, "application/json")
    assert status == 200 and len(answer["results"]) == 2
    del named["low"]
    body = json.dumps({"features": named}).encode()
    status, answer = post(service, ANNOTATE, "", body, "application/json")
    assert status == 422 and answer["error"]["code"] == "missing_column"
    described = create_api(service).openapi()  # type: ignore[arg-type]
    path = described["paths"][ANNOTATE]["post"]["requestBody"]["content"]["application/json"]
    forms = [form["type"] for form in path["schema"]["properties"]["features"]["anyOf"]]
    assert forms == ["array", "object", "null"]
