"""The forms of what the HTTP scorer gives, as its OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from drel_core.decision.decider import Decide

_VERSION = "version of the model that answered"


class TagScore(BaseModel):
    tag: str = Field(description="name of the tag")
    score: float = Field(
        description="probability that the tag belongs to the image, 0 to 1; a plain score of any size where "
        "`probabilities` of /v1/model is false"
    )
    implied_by: str | None = Field(
        None,
        description="tag of the same answer because of which this one is as probable; only where the "
        "vocabulary's implications made it so",
    )
    unseen: bool | None = Field(
        None, description="true: the model knows the tag by name alone, no training image has it"
    )
    name: str | None = Field(
        None, description="display name in `lang`; only where one was asked for"
    )


class AddTagsResponse(BaseModel):
    model: str = Field(description="version that answers from now on")
    added: list[str] = Field(
        description="tags that were added; other replicas follow within seconds"
    )
    known: list[str] = Field(description="tags that the model had")


class ImageTags(BaseModel):
    tags: list[TagScore] = Field(description="best first; may be none with decide threshold")


class AnnotateResponse(BaseModel):
    model: str = Field(description=_VERSION)
    results: list[ImageTags] = Field(description="one for each row or picture, in their order")


class TagCount(BaseModel):
    tag: str = Field(description="name of the tag")
    count: int = Field(description="training images that have it")
    unseen: bool | None = Field(
        None, description="true: the model knows the tag by name alone, no training image has it"
    )
    found_by: str | None = Field(
        None,
        description="other spelling or display name that begins with prefix; only where the tag does not",
    )
    name: str | None = Field(
        None, description="display name in `lang`; only where one was asked for"
    )


class TagsResponse(BaseModel):
    model: str = Field(description=_VERSION)
    tags: list[TagCount] = Field(description="the most frequent first")


class TagNearness(BaseModel):
    tag: str = Field(description="name of the tag")
    score: float = Field(description="cosine of the latents, -1 to 1")
    image_ids: list[str] = Field(
        default_factory=list,
        description="rows of training with the tag whose pictures /v1/pictures has, as many as the query's "
        "`pictures` says",
    )


class SimilarRow(BaseModel):
    image_id: str = Field(description="name of the training image; /v1/pictures may have it")
    tags: list[str] = Field(description="its tags in training")
    score: float = Field(description="cosine of the latents, -1 to 1")


class SimilarResponse(BaseModel):
    model: str = Field(description="version of the model that answered")
    rows: list[SimilarRow] = Field(description="the nearest first")


class NeighboursResponse(BaseModel):
    model: str = Field(description=_VERSION)
    tag: str = Field(description="the tag that was asked for")
    neighbours: list[TagNearness] = Field(description="the nearest first")


class FeatureColumn(BaseModel):
    name: str = Field(description="name of the column")
    D: int = Field(description="numbers a row")


class Limits(BaseModel):
    """Of one request."""

    rows: int = Field(description="rows or pictures")
    body_bytes: int = Field(description="bytes of the body, as sent and unpacked")


class ModelResponse(BaseModel):
    version: str = Field(description="of the model that answers; a hash of its files")
    method: str = Field(description="how it was trained: drel, wsabie, knn, svm, cnn-…, popularity")
    tags: int = Field(description="how many tags it knows")
    D: int = Field(description="numbers a row of features, over all columns")
    columns: list[FeatureColumn] = Field(
        description="features columns in the order in which rows hold them; none where it reads pictures"
    )
    trained_at: str = Field(description="ISO 8601, UTC")
    metrics: dict[str, Any] = Field(
        description="figures of the training run; watch: quality on rows that it did not learn from, beside "
        "the popularity floor"
    )
    takes: list[Literal["features", "images"]] = Field(
        description="what /v1/annotate may be sent: rows of features, encoded pictures"
    )
    decisions: list[Decide] = Field(description="what decide may be")
    probabilities: bool = Field(description="whether scores are calibrated probabilities")
    search: dict[str, float] | None = Field(
        description="candidates and recall where codes find the best tags; null where all tags are scored"
    )
    limits: Limits = Field(description="of one request")
    groups: list[str] = Field(description="what group of /v1/annotate and /v1/tags may be")
    languages: list[str] = Field(description="languages that the vocabulary has display names in")
    pictures: bool = Field(description="whether /v1/pictures and /v1/similar answer")
    parent: str | None = Field(
        None, description="version that jobs.update made it from; null for a first model"
    )
    refused: str | None = Field(None, description="why a newer bundle was not taken")


class Comparison(BaseModel):
    """Of rows that both versions scored."""

    rows: int = Field(description="rows that both scored")
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
    trial_ms: float | None = Field(description="the same by the version that is tried")


class TrialResponse(BaseModel):
    live: str = Field(description="version that answers")
    state: Literal["off", "loading", "running", "refused", "ended"] = Field(
        description="off: nothing is tried; ended: the tried version is the one that answers now"
    )
    mode: Literal["canary", "shadow"] | None = Field(
        description="canary: it answers a share of the requests; shadow: it answers none"
    )
    model: str | None = Field(description="version that is tried")
    share: float | None = Field(description="share of the requests that the canary answers, 0 to 1")
    refused: str | None = Field(description="why it is not tried")
    compared: Comparison | None = Field(
        description="both versions on the same rows; null: none yet"
    )
    failed: int = Field(description="rows that only the live version could score")
    dropped: int = Field(description="rows that were not compared for lack of time")


class MovedTag(BaseModel):
    tag: str = Field(description="name of the tag")
    share: float = Field(description="expected share among the tags of recent rows")
    training: float = Field(description="share among the tags of training")


class DriftResponse(BaseModel):
    model: str = Field(description=_VERSION)
    rows: int = Field(description="rows looked at; figures are of the last thousand or so")
    unseen: float | None = Field(
        description="share of unseen-looking rows; null without kept rows of training"
    )
    expected_unseen: float = Field(description="the same of rows like those of training")
    tags_index: float | None = Field(
        description="population stability index of tags against training: below .1 nothing has moved, "
        "above .25 much has; null without probabilities"
    )
    moved: list[MovedTag] = Field(description="tags whose share has changed most")


class FeedbackResponse(BaseModel):
    image_id: str = Field(description="the image_id of the request")
    kept: bool = Field(description="true: the correction is on disk")


class Status(BaseModel):
    status: str = Field(description="live, or ready")
    model: str | None = Field(None, description="version that answers, where it is ready")


class Example(BaseModel):
    image_id: str = Field(description="name of the training image")
    tags: list[str] = Field(description="its tags in training")
    features: list[float] = Field(description="D numbers, as /v1/annotate takes them")


class ExamplesResponse(BaseModel):
    examples: list[Example] = Field(description="none where the model keeps no training rows")


class TensorDescription(BaseModel):
    name: str = Field(description="name of the tensor")
    datatype: str = Field(description="FP32: float32; BYTES: UTF-8 text")
    shape: list[int] = Field(description="-1: any size")


class MetadataResponse(BaseModel):
    name: str = Field(description="always drel")
    versions: list[str] = Field(description="the version that answers")
    platform: str = Field(description="always drel")
    inputs: list[TensorDescription] = Field(description="features [B, D]")
    outputs: list[TensorDescription] = Field(description="tags and scores, both [B, k]")


class InferOutput(BaseModel):
    name: str = Field(description="tags, or scores")
    shape: list[int] = Field(description="[B, k]: rows, tags a row")
    datatype: str = Field(description="BYTES (UTF-8 text) of tags, FP32 of scores")
    data: list[str] | list[float] = Field(description="one row after another, best first")


class InferResponse(BaseModel):
    model_name: str = Field(description="always drel")
    model_version: str = Field(description=_VERSION)
    id: str | None = Field(None, description="the id of the request, where it had one")
    outputs: list[InferOutput] = Field(description="tags, then scores")
