"""The version of a model that answers, and its change for a newer one.

Requests that wait are scored together. A newer version is loaded and tried beside the one that answers, and
replaces it between two batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np
from ray.serve.metrics import Gauge, Histogram

from distributed.bundles.locate import find_bundle
from distributed.serving.added_tags import AddedTags, NamedPlan
from distributed.serving.batcher import Batcher
from distributed.serving.beside import Beside
from distributed.serving.config import TrialPlan
from distributed.serving.drift import DriftWatch
from distributed.serving.model import ServedModel, check_same_rows
from distributed.serving.requests import ScoreRequest
from distributed.serving.schemas import ApiError
from distributed.serving.scoring import Scored, is_short, score_batch, score_requests
from distributed.serving.trial import Trial
from distributed.storage.folder import Folder
from drel_core.errors import InputError

_LOG = logging.getLogger("ray.serve.drel")

# What may wait to be compared or looked at.
_BESIDE_BYTES = 32 << 20


class HotSwapModel:
    """For one event loop.

    Args:
        load: loads the bundle at an address.
        max_rows: most rows scored together.
        queue_rows: rows that may wait.
        added: tags that were added by name while it runs.
    """

    def __init__(
        self,
        load: Callable[[str], ServedModel],
        max_rows: int,
        queue_rows: int,
        added: AddedTags | None = None,
    ) -> None:
        self._load, self.queue_rows, self._added = load, queue_rows, added
        self._cannot: set[str] = set()  # versions with names that could not be made
        self.refused: str | None = None
        """why a newer bundle was not taken"""
        self.path = ""
        self._served: ServedModel | None = None
        self._queued_rows = 0
        self._batcher = Batcher(
            self._score_batch, lambda request: request.rows, max_rows, self._score_now
        )
        self._beside = Beside(lambda: self._queued_rows == 0, _BESIDE_BYTES)
        self.trial = Trial(load, max_rows, self._beside, self._observe)
        self.drift = DriftWatch(self._beside)
        self._trial_task: asyncio.Task[None] | None = None
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

    async def follow(self, path: str, poll_seconds: float, plan: TrialPlan | None = None) -> None:
        """Load the bundle at ``path``, and from then on every newer one that is published there.

        Args:
            plan: what to try beside it; it is loaded after this has returned.

        Raises:
            Exception: the first bundle does not load. A later one that does not load is refused, and the old
                one stays.
        """
        self.path = path
        await self._load_newest(first=self._served is None)
        if self._watcher is None:
            self._watcher = asyncio.get_running_loop().create_task(self._watch(poll_seconds))
        self.trial.plan(plan)
        self._trial_task = asyncio.get_running_loop().create_task(self._look_at_trial())

    async def _look_at_trial(self) -> None:
        """Under the lock, so that no two models are loaded at the same time."""
        async with self._swap:
            await self.trial.look(self.ready())

    @property
    def is_watched(self) -> bool:
        """False only where the watcher of newer versions has ended, which it never should."""
        return self._watcher is None or not self._watcher.done()

    async def _load_newest(self, first: bool = False) -> None:
        async with self._swap:
            old = self._served
            try:
                place, version = await asyncio.to_thread(find_bundle, self.path)
                plan = await asyncio.to_thread(self._with_names, place, version)
                version = version if plan is None else plan.version
                if old is not None and version == old.version:
                    self.refused = None
                    return
                fresh = self.trial.loaded(place.address, version)
                if fresh is None and plan is not None:
                    fresh = await asyncio.to_thread(self._load_named, plan)
                if fresh is None:
                    fresh = await asyncio.to_thread(self._load, self.path)
                    if old is not None and fresh.version == old.version:
                        return
                if old is not None:
                    check_same_rows(self.path, old, fresh)
            except Exception as error:  # whatever is wrong with a newer bundle, the old one answers
                if first:
                    raise
                reason = str(error) or type(error).__name__
                if reason != self.refused:
                    _LOG.error("bundle refused: %s", reason)
                self.refused = reason
                return
            self._served, self.refused = fresh, None
            self._beside.clear()  # what waits holds the old version
            self.drift.watch(fresh)
            if old is not None:
                self._version.set(0, {"model": old.version})
                _LOG.info("moved from version %s to %s", old.version, fresh.version)
            self._version.set(1, {"model": fresh.version})

    def _with_names(self, place: Folder, version: str) -> NamedPlan | None:
        """What was added to a bundle by name. Where it cannot be read or added, the bundle answers as it
        is."""
        if self._added is None:
            return None
        try:
            plan = self._added.plan(place, version)
            return None if plan is None or plan.version in self._cannot else plan
        except (InputError, OSError) as error:
            _LOG.error("tags that were added by name cannot be read: %s", error)
            return None

    def _load_named(self, plan: NamedPlan) -> ServedModel | None:
        try:
            fresh = self._load(plan.make())
        except InputError as error:
            _LOG.error("tags that were added by name are left out: %s", error)
            self._cannot.add(plan.version)
            return None
        fresh.version = plan.version
        return fresh

    async def look(self) -> ServedModel:
        """The model that answers, after a look for what is newer."""
        await self._load_newest()
        return self.ready()

    async def _watch(self, poll_seconds: float) -> None:
        """Look for a newer version again and again. One that was refused is tried again: it may have been
        repaired."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self._load_newest()
                await self._look_at_trial()
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
        result: Scored | ApiError | None = None
        try:
            if self.trial.chooses(request):
                result = await self.trial.answer(request)
            if result is None:
                result = await self._batcher.submit(request)
        finally:
            self._queued_rows -= request.rows
        if isinstance(result, ApiError):
            raise result
        self.trial.compare(request, result)
        self.drift.offer(result)
        return result

    async def _score_batch(self, requests: list[ScoreRequest]) -> list[Scored | ApiError]:
        """All by one version of the model."""
        results = await score_batch(self.ready(), requests)
        self._observe(results)
        return results

    def _score_now(self, request: ScoreRequest) -> Scored | ApiError | None:
        """The answer to a request by itself; None where it takes long."""
        served = self.ready()
        if not is_short(served, [request]):
            return None
        results = score_requests(served, [request])
        asyncio.get_running_loop().call_soon(self._observe, results)  # once the answer is out
        return results[0]

    def _observe(self, results: list[Scored | ApiError]) -> None:
        scored = [found for found in results if isinstance(found, Scored)]
        if scored:
            rows = sum(len(found.score_Bk) for found in scored)
            self._batch_rows.observe(rows, {"model": scored[0].model.version})
