"""The version of a model that answers, and its change for a newer one.

Requests that wait are scored together. A newer version is loaded and tried beside the one that answers, and
replaces it between two batches.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import numpy as np
from ray.serve.metrics import Gauge, Histogram

from distributed.bundles.locate import find_bundle
from distributed.serving.batcher import Batcher
from distributed.serving.model import Best, ServedModel
from distributed.serving.requests import ScoreRequest
from distributed.serving.schemas import ApiError
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

_LOG = logging.getLogger("ray.serve")

# A thread that scores and the event loop hand the interpreter's lock to each other at every operation,
# and each waits up to 5 ms for it. Work that is shorter than this is done in the event loop.
_INLINE_SECONDS = 0.003


@dataclass(frozen=True)
class Scored:
    """The answer to a request: the version that scored it, scores and tag ids ``[B, k]``, best first.

    Attributes:
        keep_Bk: bool, the tags to say; None for all.
    """

    model: ServedModel
    score_Bk: np.ndarray
    tag_Bk: np.ndarray
    keep_Bk: np.ndarray | None = None


class HotSwapModel:
    """For one event loop.

    Args:
        backbone: network for pictures where the model names none.
        max_rows: most rows scored together.
        queue_rows: rows that may wait.
    """

    def __init__(self, backbone: str, max_rows: int, queue_rows: int) -> None:
        self.backbone, self.queue_rows = backbone, queue_rows
        self.refused: str | None = None
        """why a newer bundle was not taken"""
        self.path = ""
        self._served: ServedModel | None = None
        self._queued_rows = 0
        self._batcher = Batcher(self._score_batch, lambda request: request.rows, max_rows)
        self._swap = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._batch_rows = Histogram(
            "drel_batch_rows",
            description="Rows scored together.",
            boundaries=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
            tag_keys=("model",),
        )
        self._version = Gauge(
            "drel_model_info", description="1 for the version that answers.", tag_keys=("model",)
        )

    async def follow(self, path: str, poll_seconds: float) -> None:
        """Load the bundle at ``path``, and from then on every newer one that is published there.

        Raises:
            Exception: the first bundle does not load. A later one that does not load is refused, and the old
                one stays.
        """
        self.path = path
        await self._load_newest(first=self._served is None)
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(poll_seconds))

    @property
    def is_watched(self) -> bool:
        """False only where the watcher of newer versions has ended, which it never should."""
        return self._watcher is None or not self._watcher.done()

    async def _load_newest(self, first: bool = False) -> None:
        async with self._swap:
            old = self._served
            try:
                _, version = await asyncio.to_thread(find_bundle, self.path)
                if old is not None and version == old.version:
                    self.refused = None
                    return
                fresh = await asyncio.to_thread(ServedModel, self.path, self.backbone)
                if old is not None:
                    _check_same_rows(self.path, old, fresh)
            except Exception as error:  # whatever is wrong with a newer bundle, the old one answers
                if first:
                    raise
                reason = str(error) or type(error).__name__
                if reason != self.refused:
                    _LOG.error("bundle refused: %s", reason)
                self.refused = reason
                return
            self._served, self.refused = fresh, None
            if old is not None:
                self._version.set(0, {"model": old.version})
                _LOG.info("moved from version %s to %s", old.version, fresh.version)
            self._version.set(1, {"model": fresh.version})

    async def _watch(self, poll_seconds: float) -> None:
        """Look for a newer version again and again. One that was refused is tried again: it may have been
        repaired."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self._load_newest()
            except Exception:  # the watcher must outlive whatever a file system does
                _LOG.exception("looking for a new version failed")

    @property
    def version(self) -> str:
        """Of the model that answers; empty before there is one."""
        return self._served.version if self._served else ""

    def ready(self) -> ServedModel:
        """The model that answers.

        Raises:
            ApiError: 503, no model yet.
        """
        if self._served is None:
            raise ApiError(503, "not_ready", "no model is loaded yet")
        return self._served

    async def probe(self) -> ServedModel:
        """The model that answers, once it has scored a row of zeros."""
        served = self.ready()
        row_1D = np.zeros((1, served.image_dim), dtype=np.float32)
        await self._batcher.submit(ScoreRequest(row_1D, [], k=1))
        return served

    async def score(self, request: ScoreRequest) -> Scored:
        """Raises:
        ApiError: 503, too much waits; 422, a picture cannot be read.
        """
        if self._queued_rows + request.rows > self.queue_rows and self._queued_rows:
            raise ApiError(
                503, "overloaded", f"{self._queued_rows} rows wait already; try again in a moment"
            )
        self._queued_rows += request.rows
        try:
            result = await self._batcher.submit(request)
        finally:
            self._queued_rows -= request.rows
        if isinstance(result, ApiError):
            raise result
        return result

    async def _score_batch(self, requests: list[ScoreRequest]) -> list[Scored | ApiError]:
        """All by one version of the model."""
        served = self.ready()
        rows = sum(request.rows for request in requests)
        has_pictures = any(request.features_BD is None for request in requests)
        if not has_pictures and rows * served.row_seconds < _INLINE_SECONDS:
            return self._score_with(served, requests)
        return await asyncio.to_thread(self._score_with, served, requests)

    def _score_with(
        self, served: ServedModel, requests: list[ScoreRequest]
    ) -> list[Scored | ApiError]:
        rows_or_errors = [_features(served, request) for request in requests]
        rows = [found for found in rows_or_errors if not isinstance(found, ApiError)]
        if not rows:
            return [found for found in rows_or_errors if isinstance(found, ApiError)]
        features_BD = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self._batch_rows.observe(len(features_BD), {"model": served.version})
        best = served.best(features_BD, max(map(served.depth, requests)))
        results: list[Scored | ApiError] = []
        start = 0
        for request, found in zip(requests, rows_or_errors, strict=True):
            if isinstance(found, ApiError):
                results.append(found)
                continue
            end = start + len(found)
            results.append(_chosen(served, best, slice(start, end), request))
            start = end
        return results


def _check_same_rows(path: str, old: ServedModel, fresh: ServedModel) -> None:
    """Clients go on sending the rows that they send.

    Raises:
        InputError: the newer model takes others.
    """
    dims = tuple(f"D = {served.image_dim}" for served in (fresh, old))
    if dims[0] == dims[1]:
        if max(len(old.blocks), len(fresh.blocks)) < 2 or fresh.blocks == old.blocks:
            return
        dims = tuple(
            ", ".join(f"{block.name} ({block.dim})" for block in served.blocks)
            for served in (fresh, old)
        )
    raise InputError(
        f"{path}: {dims[0]}, but the scorer answers {dims[1]}; start another scorer for other features"
    )


def _chosen(
    served: ServedModel, best: Best, rows: slice, request: ScoreRequest
) -> Scored | ApiError:
    """The answer to one request of a batch; its error where a row has no scores, or where this version cannot
    decide as it asks: the rest of the batch goes on."""
    try:
        found = served.choose(best, rows, request)
    except ApiError as error:
        return error
    return Scored(served, found.score_Bk, found.tag_Bk, found.keep_Bk)


def _features(served: ServedModel, request: ScoreRequest) -> np.ndarray | ApiError:
    """float32 ``[B, D]`` of a request; its error where a picture cannot be read: the rest of the batch goes
    on."""
    if request.features_BD is not None:
        return request.features_BD
    try:
        return served.features_of(request.pictures)
    except BadPicture as error:
        return ApiError(422, "bad_picture", f"images[{error.index}]: {error}")
    except MemoryError:
        return ApiError(503, "no_memory", "not enough memory to read these pictures; send fewer")
    except InputError as error:
        return ApiError(422, "no_images", str(error))
