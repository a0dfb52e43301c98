"""The version of a model that answers: requests that wait are scored together, and a newer version takes
its place between two batches, once it was loaded and tried beside it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
from ray.serve.metrics import Gauge, Histogram

from distributed.bundles.locate import find_bundle
from distributed.serving.batcher import Batcher
from distributed.serving.model import ServedModel
from distributed.serving.requests import ScoreRequest
from distributed.serving.schemas import ApiError
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

_LOG = logging.getLogger("ray.serve")

# A thread that scores and the event loop hand the interpreter's lock to each other at every operation,
# and each waits up to 5 ms for it: work that is shorter is done where it stands.
_INLINE_SECONDS = 0.003


class HotSwapModel:
    """For one event loop.

    Args:
        backbone: network for pictures where the model names none.
        max_rows: most rows scored together.
        queue_rows: rows that may wait.
    """

    def __init__(self, backbone: str, max_rows: int, queue_rows: int) -> None:
        self.backbone, self.queue_rows = backbone, queue_rows
        self.model: ServedModel | None = None
        self.refused: str | None = None
        """why a newer bundle was not taken"""
        self.path = ""
        self._waiting = 0
        self._batcher = Batcher(self._score, lambda question: question.rows, max_rows)
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
        """Take the bundle at ``path``, and from then on whatever takes its place there.

        Raises:
            Exception: the first bundle does not load; a later one that does not is refused, and the old
                one stays.
        """
        self.path = path
        await self._take(first=self.model is None)
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(poll_seconds))

    @property
    def is_watched(self) -> bool:
        """False only where the watch for newer versions has ended, which it never should."""
        return self._watcher is None or not self._watcher.done()

    async def _take(self, first: bool = False) -> None:
        async with self._swap:
            try:
                _, version = await asyncio.to_thread(find_bundle, self.path)
                if self.model is not None and version == self.model.version:
                    self.refused = None
                    return
                fresh = await asyncio.to_thread(ServedModel, self.path, self.backbone)
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
                self._version.set(0, {"model": old.version})
                _LOG.info("moved from version %s to %s", old.version, fresh.version)
            self._version.set(1, {"model": fresh.version})

    async def _watch(self, poll_seconds: float) -> None:
        """Follow ``latest``. A version that was refused is tried again: it may have been mended."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self._take()
            except Exception:  # the watcher must outlive whatever a file system does
                _LOG.exception("looking for a new version failed")

    def ready(self) -> ServedModel:
        """Raises:
        ApiError: 503, no model yet.
        """
        if self.model is None:
            raise ApiError(503, "not_ready", "no model is loaded yet")
        return self.model

    async def probe(self) -> ServedModel:
        """The version that answers, once it has scored a row of zeros."""
        model = self.ready()
        row_1D = np.zeros((1, model.image_dim), dtype=np.float32)
        await self._batcher.ask(ScoreRequest(row_1D, [], 1, None))
        return model

    async def answer(self, question: ScoreRequest) -> tuple[ServedModel, np.ndarray, np.ndarray]:
        """The version that answered, scores and tag ids ``[B, k]``.

        Raises:
            ApiError: 503, too much waits; 422, a picture cannot be read.
        """
        if self._waiting + question.rows > self.queue_rows and self._waiting:
            raise ApiError(
                503, "overloaded", f"{self._waiting} rows wait already; try again in a moment"
            )
        self._waiting += question.rows
        try:
            answer = await self._batcher.ask(question)
        finally:
            self._waiting -= question.rows
        if isinstance(answer, ApiError):
            raise answer
        model, score_Bk, tag_Bk = answer
        return model, score_Bk, tag_Bk

    async def _score(self, questions: list[ScoreRequest]) -> list[Any]:
        """Questions that wait together, by one version of the model; answers are (model, scores, tags)."""
        model = self.ready()
        rows = sum(question.rows for question in questions)
        pictures = any(question.features_BD is None for question in questions)
        if not pictures and rows * model.row_seconds < _INLINE_SECONDS:
            return self._score_now(model, questions)
        return await asyncio.to_thread(self._score_now, model, questions)

    def _score_now(self, model: ServedModel, questions: list[ScoreRequest]) -> list[Any]:
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
                answers.append(ApiError(422, "bad_picture", f"images[{error.index}]: {error}"))
            except InputError as error:
                answers.append(ApiError(422, "no_images", str(error)))
        if not rows:
            return answers
        features_BD = rows[0] if len(rows) == 1 else np.concatenate(rows)
        self._batch_rows.observe(len(features_BD), {"model": model.version})
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
