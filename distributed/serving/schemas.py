"""The forms of what the HTTP scorer takes and gives: types, limits, errors, and their OpenAPI.

How a request is read and checked against a model: ``requests``. Nothing here knows of Ray.
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
TopK = Annotated[int, Field(ge=1, le=MAX_K)]
"""How many tags of an image: the one rule for query, JSON body and Open Inference parameters."""


class ApiError(Exception):
    """An answer that says what is wrong with a request.

    Args:
        status: HTTP status: 400, 404, 413, 415, 422 or 503.
        code: one word, for programs.
        message: for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_K = "most tags for an image; without it 5, and 50 with decide threshold"
_DECIDE = (
    "top: the k most probable tags; macro: the k that maximise expected macro F1, which finds rare tags; "
    "threshold: as many as are worth saying; without it as jobs.serve --decide says"
)
_PRECISION = "with decide threshold, the wanted share of said tags that are right"
_THRESHOLD = "least probability of a tag"


def _or_by_name(schema: dict[str, Any]) -> None:
    """Also as an object: the same for each features column of the model."""
    (rows,) = (form for form in schema["anyOf"] if form["type"] == "array")
    schema["anyOf"].insert(1, {"type": "object", "additionalProperties": rows})


class AnnotateRequest(_Strict):
    """Either features or images."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["features"]}, {"required": ["images"]}]}
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


class FeedbackRequest(_Strict):
    """Corrections to the tags of an image. Later ones for the same image_id replace earlier ones."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["features"]}, {"required": ["image"]}]}
    )

    image_id: str = Field(min_length=1, max_length=1000)
    features: list[Finite] | None = Field(
        None,
        description="D numbers, or an object of numbers by the names of features columns; or image",
        json_schema_extra=_or_by_name,
    )
    image: str | None = Field(None, description="encoded picture in base64, instead of features")
    add: list[TagName] = Field(default_factory=list, max_length=1000)
    remove: list[TagName] = Field(default_factory=list, max_length=1000)


class NamedFeedbackRequest(FeedbackRequest):
    """Features by the names of their columns."""

    features: dict[str, list[Finite]] | None  # type: ignore[assignment]


class InferInput(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int] = Field(min_length=2, max_length=2)
    datatype: Literal["FP32"]
    data: list[Finite] | list[list[Finite]]


class InferRequest(BaseModel):
    """Open Inference Protocol, POST /v2/models/drel/infer; ``parameters`` may hold k."""

    id: str | None = None
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    parameters: dict[str, Any] | None = None


class TagScore(BaseModel):
    tag: str
    score: float = Field(description="probability that the tag belongs to the image")


class ImageTags(BaseModel):
    tags: list[TagScore]


class AnnotateResponse(BaseModel):
    model: str = Field(description="version of the model that answered")
    results: list[ImageTags]


class TagCount(BaseModel):
    tag: str
    count: int


class TagsResponse(BaseModel):
    model: str
    tags: list[TagCount]


class TagNearness(BaseModel):
    tag: str
    score: float = Field(description="cosine of the latents")


class NeighboursResponse(BaseModel):
    model: str
    tag: str
    neighbours: list[TagNearness]


class FeatureColumn(BaseModel):
    name: str
    D: int


class ModelResponse(BaseModel):
    version: str
    method: str
    tags: int
    D: int
    columns: list[FeatureColumn] = Field(
        description="features columns in the order in which rows hold them; none where it reads pictures"
    )
    trained_at: str
    metrics: dict[str, Any]
    takes: list[Literal["features", "images"]]
    decisions: list[Decide] = Field(description="what decide may be")
    probabilities: bool = Field(description="whether scores are calibrated probabilities")
    search: dict[str, float] | None = Field(
        description="candidates and recall where codes find the best tags; null where all tags are scored"
    )
    parent: str | None = None
    refused: str | None = Field(None, description="why a newer bundle was not taken")


class Comparison(BaseModel):
    """Of rows that both versions scored."""

    rows: int
    agreement: float = Field(
        description="mean share of common tags among those that the versions say of a row"
    )
    same_first: float = Field(description="share of rows whose first tag is the same")
    score_gap: float | None = Field(
        description="mean difference of the probabilities of common tags; null unless both give some"
    )
    live_score: float | None = Field(description="mean probability of a row's first tag")
    trial_score: float | None = Field(description="the same by the version that is tried")
    live_ms: float | None = Field(
        description="time to score a row, of rows that both were timed on"
    )
    trial_ms: float | None


class TrialResponse(BaseModel):
    live: str = Field(description="version that answers")
    state: Literal["off", "loading", "running", "refused", "ended"] = Field(
        description="ended: it is the version that answers"
    )
    mode: Literal["canary", "shadow"] | None
    model: str | None = Field(description="version that is tried")
    share: float | None = Field(description="of the requests that the canary answers")
    refused: str | None = Field(description="why it is not tried")
    compared: Comparison | None
    failed: int = Field(description="rows that only the live version could score")
    dropped: int = Field(description="rows that were not compared for lack of time")


class MovedTag(BaseModel):
    tag: str
    share: float = Field(description="expected share among the tags of recent rows")
    training: float = Field(description="share among the tags of training")


class DriftResponse(BaseModel):
    model: str
    rows: int = Field(description="rows looked at; figures are of the last thousand or so")
    unseen: float | None = Field(
        description="share of unseen-looking rows; null without kept rows of training"
    )
    expected_unseen: float = Field(description="the same of rows like those of training")
    tags_index: float | None = Field(
        description="population stability index of tags against training: below .1 nothing has moved, "
        "above .25 much has; null without probabilities"
    )
    moved: list[MovedTag]


class FeedbackResponse(BaseModel):
    image_id: str
    kept: bool


class Status(BaseModel):
    status: str
    model: str | None = None


class Example(BaseModel):
    image_id: str
    tags: list[str]
    features: list[float]


class ExamplesResponse(BaseModel):
    examples: list[Example]


class InferOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[float]


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]


class ErrorBody(BaseModel):
    code: str
    message: str


class ErrorResponse(BaseModel):
    error: ErrorBody


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


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's ``responses`` of a route that may answer with these errors."""
    return {status: {"model": ErrorResponse} for status in statuses}
