"""Requests to the scorer: read, checked and turned into rows.

Shapes: B rows, D feature size.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import string
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import QueryParams

from distributed.serving.model import ServedModel, Wanted
from distributed.serving.schemas import (
    DEFAULT_K,
    MAX_CELLS,
    MAX_K,
    AnnotateQuery,
    AnnotateRequest,
    ApiError,
    InferRequest,
    NamedAnnotateRequest,
    TopK,
)
from drel_core.bundle.info import FeatureBlock
from drel_core.decision.decider import Decide, check_precision, most_tags

_TOP_K: TypeAdapter[int] = TypeAdapter(TopK)
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_OPTIONS = ("k", "decide", "precision", "threshold", "group", "lang")


@dataclass(frozen=True)
class ScoreRequest(Wanted):
    """A checked request: rows to score, or pictures to make rows of."""

    features_BD: np.ndarray | None
    pictures: list[bytes]

    @property
    def rows(self) -> int:
        return len(self.pictures) if self.features_BD is None else len(self.features_BD)


@functools.lru_cache(maxsize=64)  # 15 us to read one, and clients send few different ones
def read_query(query_string: bytes) -> AnnotateQuery | None:
    """The query of /v1/annotate; None where it does not fit: FastAPI's router then says why."""
    try:
        return AnnotateQuery.model_validate(dict(QueryParams(query_string)))
    except ValidationError:
        return None


def parse_json(kind: type[BaseModel], body: bytes) -> Any:
    """The ``kind`` object of a JSON body.

    Raises:
        ApiError: 400 where it is no JSON, 422 where it does not fit; the message names the place.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"the body is no JSON: {first['msg']}") from None
        more = error.error_count() - 1
        others = f" (and {more} more)" if more else ""
        raise ApiError(422, "invalid_request", f"{fault(first, kind)}{others}") from None


def parse_either(kind: type[BaseModel], named: type[BaseModel], body: bytes) -> Any:
    """A JSON body, as ``named`` where its features are an object.

    Raises:
        ApiError: see ``parse_json``.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        by_name = any(
            fault["loc"] == ("features",) and isinstance(fault["input"], dict)
            for fault in error.errors(include_url=False, include_context=False)
        )
    return parse_json(named if by_name else kind, body)


def fault(first: Any, kind: type[BaseModel]) -> str:
    """One of pydantic's errors in words: where, and what is wrong there.

    Args:
        kind: whose field it is.
    """
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place}: not known; known are {', '.join(kind.model_fields)}"
    return f"{place or 'body'}: {first['msg']}"


def feature_rows(rows: list[list[float]], dim: int, name: str = "features") -> np.ndarray:
    """float32 ``[B, D]``.

    Args:
        name: what the rows are called in the request.

    Raises:
        ApiError: 422, a row is of another length.
    """
    for place, row in enumerate(rows):
        if len(row) != dim:
            raise ApiError(
                422,
                "wrong_dimension",
                f"{name}[{place}] has {len(row)} numbers; this model takes D = {dim}",
            )
    # A tenth of the time that numpy takes to look at every number.
    packed = b"".join([_doubles(dim).pack(*row) for row in rows])
    return np.frombuffer(packed, dtype=np.float64).astype(np.float32).reshape(len(rows), dim)


@functools.cache
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"{count}d")


def named_rows(
    named: dict[str, list[list[float]]], blocks: Sequence[FeatureBlock], name: str = "features"
) -> np.ndarray:
    """float32 ``[B, D]`` of rows that are given for each features column.

    Args:
        blocks: the columns of the model.
        name: what the rows are called in the request.

    Raises:
        ApiError: 422, a column is missing, unknown, of another D or of another number of rows.
    """
    takes = ", ".join(f"{block.name} (D = {block.dim})" for block in blocks) or "none"
    known = [block.name for block in blocks]
    for given in named:
        if given not in known:
            raise ApiError(
                422, "unknown_column", f"{name}.{given}: no column of this model; it takes {takes}"
            )
    for missing in known:
        if missing not in named:
            raise ApiError(
                422, "missing_column", f"{name}.{missing} is missing; this model takes {takes}"
            )
    if not known:
        raise ApiError(
            422, "missing_column", f"{name} is empty; this model takes no columns by name"
        )
    first = known[0]
    for other in known[1:]:
        if len(named[other]) != len(named[first]):
            raise ApiError(
                422,
                "wrong_dimension",
                f"{name}.{other} has {len(named[other])} rows, {name}.{first} has {len(named[first])}",
            )
    parts = [feature_rows(named[b.name], b.dim, f"{name}.{b.name}") for b in blocks]
    return np.concatenate(parts, axis=1)


def binary_rows(body: bytes, dim: int) -> np.ndarray:
    """float32 ``[B, D]`` of little-endian bytes.

    Raises:
        ApiError: 400, the last row is incomplete; 422, NaN or Inf.
    """
    if len(body) % (4 * dim):
        raise ApiError(
            400,
            "truncated",
            f"{len(body)} bytes are no whole number of rows: a row is {dim} float32, {4 * dim} bytes",
        )
    features_BD = np.frombuffer(body, dtype="<f4").reshape(-1, dim)
    # The sum of squares is finite where all numbers are, or too large: then they are looked at one by one.
    flat_n = features_BD.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.dot(flat_n, flat_n))
    if not math.isfinite(squares):
        finite_B = np.isfinite(features_BD).all(1)
        if not finite_B.all():
            raise ApiError(422, "not_finite", f"row {int(finite_B.argmin())} holds NaN or Inf")
    return features_BD.astype(np.float32, copy=False)


def decode_base64(texts: list[str], name: str = "images") -> list[bytes]:
    """The bytes of base64 as encoders and browsers write it: in lines, after ``data:…;base64,``, with the
    alphabet of URLs, without padding.

    Raises:
        ApiError: 422, one is no base64; the message says what disturbs.
    """
    return [decode_one(text, f"{name}[{place}]") for place, text in enumerate(texts)]


def decode_one(text: str, where: str) -> bytes:
    """The same of one text; ``where`` names it."""
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ApiError(422, "invalid_base64", f"{where}: a data: URI must be in ;base64")
    data = b"".join(text.encode(errors="replace").split()).translate(_URL_SAFE).rstrip(b"=")
    if strange := data.translate(None, _BASE64):
        sign = strange.decode(errors="replace")[0]
        raise ApiError(422, "invalid_base64", f"{where} is no base64: it holds {sign!r}")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        raise ApiError(
            422, "invalid_base64", f"{where} is no base64: it is cut off after {len(data)} signs"
        ) from None


def check_size(rows: int, k: int, max_rows: int) -> None:
    """Raises:
    ApiError: no rows, too many of them, or too large an answer.
    """
    if rows == 0:
        raise ApiError(422, "empty", "no rows; send at least one")
    if rows > max_rows:
        raise ApiError(413, "too_many_rows", f"{rows} rows; at most {max_rows} in one request")
    if rows * k > MAX_CELLS:
        raise ApiError(
            413, "too_large", f"{rows} rows x {k} tags; at most {MAX_CELLS} tags an answer"
        )


def check_fits(request: ScoreRequest, model: ServedModel) -> None:
    """Raises:
    ApiError: 422, the model cannot do what is asked.
    """
    if request.features_BD is not None and not model.takes_features:
        raise ApiError(422, "no_features", "this model reads pictures; send images")
    model.decision(request.decide, request.precision)
    model.members(request.group)


def parse_binary(
    body: bytes, query: AnnotateQuery, dim: int, max_rows: int, decide: Decide = "top"
) -> ScoreRequest:
    """A request of binary rows.

    Args:
        decide: what a query that says nothing of it gets.

    Raises:
        ApiError: see ``binary_rows``, ``check_size``.
    """
    return _asked(binary_rows(body, dim), [], query, max_rows, decide)


def parse_picture(
    body: bytes, query: AnnotateQuery, max_rows: int, decide: Decide = "top"
) -> ScoreRequest:
    """A request whose body is one encoded picture.

    Args:
        decide: what a query that says nothing of it gets.

    Raises:
        ApiError: 422, the body is empty; see ``check_size``.
    """
    if not body:
        raise ApiError(422, "empty", "the body is empty; send a picture")
    return _asked(None, [body], query, max_rows, decide)


def parse_annotate(
    body: bytes,
    dim: int,
    max_rows: int,
    decide: Decide = "top",
    query: AnnotateQuery | None = None,
    blocks: Sequence[FeatureBlock] = (),
) -> ScoreRequest:
    """A JSON request.

    Args:
        blocks: the model's features columns, for rows that are given by their names.
        decide: what a request that says nothing of it gets.
        query: its options hold where the body says nothing of them.

    Raises:
        ApiError: see ``parse_json``, ``feature_rows``, ``named_rows``, ``decode_base64``, ``check_size``;
            422, query and body say different things.
    """
    request: AnnotateRequest = parse_either(AnnotateRequest, NamedAnnotateRequest, body)
    for name in _OPTIONS if query is not None else ():
        told, said = getattr(query, name), getattr(request, name)
        if told is not None and said is not None and told != said:
            raise ApiError(
                422, "invalid_request", f"{name} is {said} in the body and {told} in the query"
            )
        if told is not None:
            setattr(request, name, told)
    if (request.features is None) == (request.images is None):
        raise ApiError(422, "invalid_request", "give either features or images")
    if isinstance(request, NamedAnnotateRequest):
        rows = max(map(len, (request.features or {}).values()), default=0)
    else:
        rows = len(request.features or request.images or [])
    check_size(rows, request.k or 1, max_rows)  # before anything is made of the rows
    if isinstance(request, NamedAnnotateRequest):
        assert request.features is not None
        return _asked(named_rows(request.features, blocks), [], request, max_rows, decide)
    if request.features is not None:
        return _asked(feature_rows(request.features, dim), [], request, max_rows, decide)
    assert request.images is not None
    return _asked(None, decode_base64(request.images), request, max_rows, decide)


def _asked(
    features_BD: np.ndarray | None,
    pictures: list[bytes],
    asked: AnnotateRequest | AnnotateQuery,
    max_rows: int,
    decide: Decide,
) -> ScoreRequest:
    """Raises:
    ApiError: see ``check_size``; 422, a precision that fits nothing.
    """
    decide = asked.decide or decide
    try:
        check_precision(decide, asked.precision)
    except ValueError as error:
        raise ApiError(422, "invalid_request", str(error)) from None
    request = ScoreRequest(
        features_BD,
        pictures,
        k=asked.k if asked.k is not None else most_tags(decide),
        threshold=asked.threshold,
        decide=decide,
        precision=asked.precision,
        group=asked.group,
        lang=asked.lang,
    )
    check_size(request.rows, request.k, max_rows)
    return request


def parse_infer(body: bytes, dim: int, max_rows: int) -> tuple[ScoreRequest, str | None]:
    """An Open Inference request, and its id.

    Raises:
        ApiError: 400 where it is no JSON, 422 or 413 where it does not fit.
    """
    request: InferRequest = parse_json(InferRequest, body)
    tensor = request.inputs[0]
    for name in _OPTIONS[1:]:
        if name in (request.parameters or {}):
            raise ApiError(
                422,
                "invalid_request",
                f"parameters.{name}: only k may be given here; /v1/annotate takes {name}",
            )
    try:
        k = _TOP_K.validate_python((request.parameters or {}).get("k", DEFAULT_K), strict=True)
    except ValidationError:
        raise ApiError(422, "invalid_request", f"parameters.k must be 1 to {MAX_K}") from None
    rows, columns = tensor.shape
    if columns != dim:
        raise _wrong_shape(f"inputs[0] has shape {tensor.shape}; this model takes [B, {dim}]")
    if tensor.data and isinstance(tensor.data[0], list):
        features_BD = feature_rows(tensor.data, dim, "inputs[0].data")
        if len(features_BD) != rows:
            raise _wrong_shape(
                f"inputs[0].data has {len(features_BD)} rows for shape {tensor.shape}"
            )
    elif len(tensor.data) != rows * columns:
        raise _wrong_shape(
            f"inputs[0].data has {len(tensor.data)} numbers for shape {tensor.shape}"
        )
    else:
        features_BD = np.array(tensor.data, dtype=np.float32).reshape(rows, columns)
    check_size(rows, k, max_rows)
    return ScoreRequest(features_BD, [], k=k), request.id


def _wrong_shape(message: str) -> ApiError:
    return ApiError(422, "wrong_dimension", message)
