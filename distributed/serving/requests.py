"""Requests to the scorer: read, checked and turned into rows."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from distributed.serving.schemas import MAX_CELLS, MAX_K, AnnotateRequest, ApiError, InferRequest

_DRAINED = 8


@dataclass(frozen=True)
class ScoreRequest:
    """A checked request: rows to score, or pictures to make rows of."""

    features_BD: np.ndarray | None
    pictures: list[bytes]
    k: int
    threshold: float | Literal["per-tag"] | None

    @property
    def rows(self) -> int:
        return len(self.pictures) if self.features_BD is None else len(self.features_BD)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413, more than ``limit`` bytes. What is too much is still taken, up to a point, because
            a client that is cut off while it sends does not see the answer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > _DRAINED * limit:
            break
    if size > limit:
        raise ApiError(
            413, "too_large", f"the body is above the limit of {limit} bytes; send less at a time"
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(kind: type[BaseModel], body: bytes) -> Any:
    """A request object of a JSON body.

    Raises:
        ApiError: 400 where it is no JSON, 422 where it does not fit; names the place.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, "invalid_json", f"the body is no JSON: {first['msg']}") from None
        place = ".".join(str(part) for part in first["loc"])
        more = error.error_count() - 1
        others = f" (and {more} more)" if more else ""
        raise ApiError(
            422, "invalid_request", f"{place or 'body'}: {first['msg']}{others}"
        ) from None


def matrix(rows: list[list[float]], dim: int, name: str = "features") -> np.ndarray:
    """float32 ``[B, D]``.

    Raises:
        ApiError: a row is of another length.
    """
    for place, row in enumerate(rows):
        if len(row) != dim:
            raise ApiError(
                422,
                "wrong_dimension",
                f"{name}[{place}] has {len(row)} numbers; this model takes D = {dim}",
            )
    return np.array(rows, dtype=np.float32).reshape(len(rows), dim)


def binary_rows(body: bytes, dim: int) -> np.ndarray:
    """float32 ``[B, D]`` of little-endian bytes.

    Raises:
        ApiError: 400 for half a row, 422 for none, NaN or Inf.
    """
    if len(body) % (4 * dim):
        raise ApiError(
            400,
            "truncated",
            f"{len(body)} bytes are no whole number of rows: a row is {dim} float32, {4 * dim} bytes",
        )
    features_BD = np.frombuffer(body, dtype="<f4").reshape(-1, dim)
    wrong_B = ~np.isfinite(features_BD).all(1)
    if wrong_B.any():
        row = int(wrong_B.argmax())
        raise ApiError(422, "not_finite", f"row {row} holds NaN or Inf")
    return features_BD.astype(np.float32, copy=False)


def decoded(encoded: list[str], name: str = "images") -> list[bytes]:
    """Bytes of base64 texts.

    Raises:
        ApiError: 422, one is no base64.
    """
    found = []
    for place, text in enumerate(encoded):
        try:
            found.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise ApiError(422, "invalid_base64", f"{name}[{place}] is no base64") from None
    return found


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


def annotate_question(body: bytes, dim: int, max_rows: int) -> ScoreRequest:
    """Raises:
    ApiError: see ``parse``, ``matrix``, ``check_size``.
    """
    asked: AnnotateRequest = parse(AnnotateRequest, body)
    if (asked.features is None) == (asked.images is None):
        raise ApiError(422, "invalid_request", "give either features or images")
    if asked.features is not None:
        check_size(len(asked.features), asked.k, max_rows)
        return ScoreRequest(matrix(asked.features, dim), [], asked.k, asked.threshold)
    assert asked.images is not None
    check_size(len(asked.images), asked.k, max_rows)
    return ScoreRequest(None, decoded(asked.images), asked.k, asked.threshold)


def infer_question(body: bytes, dim: int, max_rows: int) -> tuple[ScoreRequest, str | None]:
    """The question of an Open Inference request, and its id.

    Raises:
        ApiError: as above.
    """
    asked: InferRequest = parse(InferRequest, body)
    tensor = asked.inputs[0]
    k = (asked.parameters or {}).get("k", 5)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise ApiError(422, "invalid_request", f"parameters.k must be 1 to {MAX_K}")
    rows, columns = tensor.shape
    if columns != dim:
        raise ApiError(
            422,
            "wrong_dimension",
            f"inputs[0] has shape {tensor.shape}; this model takes [B, {dim}]",
        )
    if tensor.data and isinstance(tensor.data[0], list):
        features_BD = matrix(tensor.data, dim, "inputs[0].data")
    elif len(tensor.data) != rows * columns:
        raise ApiError(
            422,
            "wrong_dimension",
            f"inputs[0].data has {len(tensor.data)} numbers for shape {tensor.shape}",
        )
    else:
        features_BD = np.array(tensor.data, dtype=np.float32).reshape(rows, columns)
    if len(features_BD) != rows:
        raise ApiError(
            422,
            "wrong_dimension",
            f"inputs[0].data has {len(features_BD)} rows for shape {tensor.shape}",
        )
    check_size(rows, k, max_rows)
    return ScoreRequest(features_BD, [], k, None), asked.id
