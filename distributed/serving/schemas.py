"""The forms of what the HTTP scorer takes: types, limits, errors, and their OpenAPI.

How a request is read and checked against a model: ``requests``; what the scorer gives: ``answers``. Nothing
here knows of Ray.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from drel_core.decision.decider import Decide
from drel_core.tag_text import clean_tag

MAX_K = 1000
DEFAULT_K = 5
MAX_CELLS = 200_000
"""Most (image, tag) pairs of one answer."""
FLOAT32_MAX = float(np.finfo(np.float32).max)

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-FLOAT32_MAX, le=FLOAT32_MAX)]


def _tag_name(text: str) -> str:
    name = clean_tag(text)
    if not name:
        raise ValueError("it is blank; a tag must have a character that shows")
    return name


TagName = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_tag_name)]
"""In the form of ``clean_tag``."""
GroupName = Annotated[str, Field(min_length=1, max_length=1000)]
Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$")]
TopK = Annotated[int, Field(ge=1, le=MAX_K)]
"""How many tags of an image: the one rule for query, JSON body and Open Inference parameters."""


class ApiError(Exception):
    """An answer that says what is wrong with a request.

    Args:
        status: HTTP status: 400, 404, 413, 415, 422 or 503.
        code: one word, for programs.
        message: for people.
        row: place of the row or picture that is at fault, where it is one of several.
    """

    def __init__(self, status: int, code: str, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.row = status, code, message, row


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_K = "most tags for an image; without it 5, and 50 with decide threshold"
_DECIDE = (
    "top: the k most probable tags; macro: the k that maximise expected macro F1, which finds rare tags; "
    "threshold: as many as are worth saying; without it as jobs.serve --decide says"
)
_PRECISION = "with decide threshold, the wanted share of said tags that are right"
_THRESHOLD = "least probability of a tag"
_GROUP = "only tags of this group of the vocabulary, see `groups` of /v1/model"
_LANG = "language of display names, as in de or pt-br; each tag then has a `name`"


def _or_by_name(schema: dict[str, Any]) -> None:
    """Also as an object: the same for each features column of the model."""
    (rows,) = (form for form in schema["anyOf"] if form["type"] == "array")
    schema["anyOf"].insert(1, {"type": "object", "additionalProperties": rows})


class AnnotateRequest(_Strict):
    """Either features or images."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["features"]}, {"required": ["images"]}],
            "examples": [{"features": [[0.1, 0.7]], "k": 5}],
        }
    )

    features: list[list[Finite]] | None = Field(
        None,
        description="rows of D numbers, one features column after another in the order of /v1/model; or an "
        "object of rows by the names of the columns",
        json_schema_extra=_or_by_name,
    )
    images: list[str] | None = Field(
        None, description="encoded pictures in base64, also as data: URIs"
    )
    k: TopK | None = Field(None, description=_K)
    decide: Decide | None = Field(None, description=_DECIDE)
    precision: float | None = Field(None, gt=0, le=1, description=_PRECISION)
    threshold: Finite | None = Field(None, description=_THRESHOLD)
    group: GroupName | None = Field(None, description=_GROUP)
    lang: Language | None = Field(None, description=_LANG)


class NamedAnnotateRequest(AnnotateRequest):
    """Features by the names of their columns. A form of its own: pydantic would try both for every body."""

    features: dict[str, list[list[Finite]]] | None  # type: ignore[assignment]


class AnnotateQuery(BaseModel):
    """The query of /v1/annotate: options of binary rows, whose body has no room for them, and of JSON that
    says nothing of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: TopK | None = Field(None, description=_K)
    decide: Decide | None = Field(None, description=_DECIDE)
    precision: float | None = Field(None, gt=0, le=1, description=_PRECISION)
    threshold: float | None = Field(None, allow_inf_nan=False, description=_THRESHOLD)
    group: GroupName | None = Field(None, description=_GROUP)
    lang: Language | None = Field(None, description=_LANG)


class OneRow(_Strict):
    """Either features or image."""

    features: list[Finite] | None = Field(
        None,
        description="D numbers, or an object of numbers by the names of features columns; or image",
        json_schema_extra=_or_by_name,
    )
    image: str | None = Field(None, description="encoded picture in base64, instead of features")


class SimilarRequest(OneRow):
    """Which rows of training are like an image."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["features"]}, {"required": ["image"]}],
            "examples": [{"features": [0.1, 0.7], "limit": 3}],
        }
    )

    limit: int = Field(6, ge=1, le=50, description="most rows of the answer")


class NamedSimilarRequest(SimilarRequest):
    """Features by the names of their columns."""

    features: dict[str, list[Finite]] | None  # type: ignore[assignment]


class FeedbackRequest(OneRow):
    """Corrections to the tags of an image. Later ones for the same image_id replace earlier ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["features"]}, {"required": ["image"]}],
            "examples": [
                {"image_id": "17", "features": [0.1, 0.7], "add": ["sky"], "remove": ["sea"]}
            ],
        }
    )

    image_id: str = Field(min_length=1, max_length=1000, description="your name for the image")
    add: list[TagName] = Field(
        default_factory=list, max_length=1000, description="tags that the image has"
    )
    remove: list[TagName] = Field(
        default_factory=list, max_length=1000, description="tags that the image has not"
    )


class NamedFeedbackRequest(FeedbackRequest):
    """Features by the names of their columns."""

    features: dict[str, list[Finite]] | None  # type: ignore[assignment]


class InferInput(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str = Field(description="any; there is one input")
    shape: list[int] = Field(min_length=2, max_length=2, description="[B, D]: rows, numbers a row")
    datatype: Literal["FP32"] = Field(description="float32")
    data: list[Finite] | list[list[Finite]] = Field(
        description="the rows one after another, or a list of rows"
    )


class InferRequest(BaseModel):
    """A request of the Open Inference Protocol."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {
                            "name": "features",
                            "shape": [1, 2],
                            "datatype": "FP32",
                            "data": [0.1, 0.7],
                        }
                    ],
                    "parameters": {"k": 5},
                }
            ]
        }
    )

    id: str | None = Field(None, description="any text; the answer repeats it")
    inputs: list[InferInput] = Field(min_length=1, max_length=1, description="the rows to score")
    parameters: dict[str, Any] | None = Field(
        None, description=f"may hold k, the tags of each row: 1 to {MAX_K}, {DEFAULT_K} without it"
    )


class AddTagsRequest(_Strict):
    """Tags for the model to know by name alone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"tags": ["zebra", "hot-air balloon"]}]}
    )

    tags: list[TagName] = Field(min_length=1, max_length=1000, description="names of tags")


class ErrorBody(BaseModel):
    code: str = Field(description="one word, for programs")
    message: str = Field(description="one line, for people: what was given and what is allowed")
    row: int | None = Field(
        None, description="place of the one row or picture that is at fault; the others would do"
    )


class ErrorResponse(BaseModel):
    error: ErrorBody = Field(description="what is wrong")


def body_schema(kind: type[BaseModel], *others: str) -> dict[str, Any]:
    """OpenAPI of a body that the route reads itself: FastAPI would parse it a second time.

    Args:
        others: media types that the route takes as well, as bytes.
    """
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name:
                return inlined(definitions[name])
            return {key: inlined(item) for key, item in value.items()}
        return [inlined(item) for item in value] if isinstance(value, list) else value

    content: dict[str, Any] = {"application/json": {"schema": inlined(schema)}}
    for other in others:
        content[other] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


ERRORS = {
    400: "the body is not what it claims to be: no JSON, cut off, or not in its Content-Encoding",
    404: "there is no such tag or picture, or this scorer shows none",
    413: "the body, its rows or the answer would be too large; send less at a time",
    415: "a Content-Type or Content-Encoding that the scorer does not read",
    422: "a value that is not allowed, or does not fit the model; the message names it",
    503: "the scorer has no model yet or too much to do; ask again after `Retry-After` seconds",
}
"""What each status says, for the API's description."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` of a route that may answer with these errors."""
    return {status: {"model": ErrorResponse, "description": ERRORS[status]} for status in statuses}
