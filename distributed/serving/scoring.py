"""Requests scored together by one version of a model.

Shapes: B rows, D feature size, k tags of a row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from distributed.serving.model import Best, ServedModel
from distributed.serving.requests import ScoreRequest
from distributed.serving.schemas import ApiError
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

# A thread that scores and the event loop hand the interpreter's lock to each other at every operation,
# and each waits for it (half a millisecond: app). Work that is shorter than this is done in the event loop.
INLINE_SECONDS = 0.003


@dataclass(frozen=True)
class Scored:
    """The answer to a request: the version that scored it, scores and tag ids ``[B, k]``, best first.

    Attributes:
        keep_Bk: bool, the tags to say; None for all.
        features_BD: the rows that were scored, of pictures what the model read from them.
    """

    model: ServedModel
    score_Bk: np.ndarray
    tag_Bk: np.ndarray
    keep_Bk: np.ndarray | None = None
    features_BD: np.ndarray | None = None


def is_short(served: ServedModel, requests: list[ScoreRequest]) -> bool:
    """Whether requests are scored in the event loop."""
    if any(request.features_BD is None for request in requests):
        return False
    return sum(request.rows * served.seconds_of(request) for request in requests) < INLINE_SECONDS


async def score_batch(served: ServedModel, requests: list[ScoreRequest]) -> list[Scored | ApiError]:
    """``score_requests``, in a thread where it takes long."""
    if is_short(served, requests):
        return score_requests(served, requests)
    return await asyncio.to_thread(score_requests, served, requests)


def score_requests(served: ServedModel, requests: list[ScoreRequest]) -> list[Scored | ApiError]:
    """The answers to requests, all by one version. A request that cannot be answered gets its error; the
    rest of the batch goes on. Those that need all tags scored are scored apart: the others' answers are
    neither slower nor other ones because of them."""
    deep = [served.is_deep(request) for request in requests]
    if len(set(deep)) < 2:
        return _score_together(served, requests)
    apart = {
        is_deep: iter(
            _score_together(
                served,
                [request for request, its in zip(requests, deep, strict=True) if its is is_deep],
            )
        )
        for is_deep in (False, True)
    }
    return [next(apart[is_deep]) for is_deep in deep]


def _score_together(served: ServedModel, requests: list[ScoreRequest]) -> list[Scored | ApiError]:
    rows_or_errors = [_features(served, request) for request in requests]
    rows = [found for found in rows_or_errors if not isinstance(found, ApiError)]
    if not rows:
        return [found for found in rows_or_errors if isinstance(found, ApiError)]
    features_BD = rows[0] if len(rows) == 1 else np.concatenate(rows)
    best = served.best(features_BD, max(map(served.depth, requests)))
    results: list[Scored | ApiError] = []
    start = 0
    for request, found in zip(requests, rows_or_errors, strict=True):
        if isinstance(found, ApiError):
            results.append(found)
            continue
        end = start + len(found)
        results.append(_chosen(served, best, slice(start, end), request, found))
        start = end
    return results


def _chosen(
    served: ServedModel, best: Best, rows: slice, request: ScoreRequest, features_BD: np.ndarray
) -> Scored | ApiError:
    """The answer to one request of a batch; its error where a row has no scores, or where this version cannot
    decide as it asks."""
    try:
        found = served.choose(best, rows, request)
    except ApiError as error:
        return error
    return Scored(served, found.score_Bk, found.tag_Bk, found.keep_Bk, features_BD)


def _features(served: ServedModel, request: ScoreRequest) -> np.ndarray | ApiError:
    """float32 ``[B, D]`` of a request; its error where a picture cannot be read."""
    if request.features_BD is not None:
        return request.features_BD
    try:
        return served.features_of(request.pictures)
    except BadPicture as error:
        return ApiError(422, "bad_picture", f"images[{error.index}]: {error}", error.index)
    except MemoryError:
        return ApiError(503, "no_memory", "not enough memory to read these pictures; send fewer")
    except InputError as error:
        return ApiError(422, "no_images", str(error))
