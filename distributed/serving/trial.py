"""A second version beside the one that answers, looked at before ``latest`` moves.

A canary answers a share of the requests, a shadow none. What the canary answered is scored by the live
version too, after the answer is out, and what the live version answered by the shadow; then both are
compared. Nothing of a trial can fail a request: what it cannot do, the live version does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from distributed.bundles.locate import find_bundle
from distributed.serving.agreement import Agreement, compare, shared_ids
from distributed.serving.batcher import Batcher
from distributed.serving.beside import Beside, Work
from distributed.serving.config import TrialPlan
from distributed.serving.metrics import TrialMetrics
from distributed.serving.model import ServedModel, check_same_rows
from distributed.serving.requests import ScoreRequest
from distributed.serving.schemas import ApiError
from distributed.serving.scoring import INLINE_SECONDS, Scored, score_batch, score_requests

_LOG = logging.getLogger("ray.serve.drel")
_TIMED = 8  # of so many pieces one is scored by both versions, to compare their times


class Pair:
    """Two versions and what was seen of them so far. ``run`` is for one thread, the rest for the event
    loop."""

    def __init__(
        self,
        live: ServedModel,
        trial: ServedModel,
        metrics: TrialMetrics,
        id_T: np.ndarray | None = None,
    ) -> None:
        self.live, self.trial = live, trial
        self._id_T = shared_ids(live, trial) if id_T is None else id_T
        self._metrics = metrics
        self.seen = Agreement()
        self.seconds = {live.version: 0.0, trial.version: 0.0}
        self.timed_rows = self.failed = self.dropped = 0
        self._told_dropped = 0
        self._turn = 0

    def count(self, **amounts: float) -> None:
        """In the metrics alone."""
        self._metrics.add(self.trial.version, self.live.version, **amounts)

    def fail(self, rows: int) -> None:
        """Rows that the tried version could not score."""
        self.failed += rows
        self.count(failed=rows)

    def anew(self) -> Pair:
        """The same versions, and nothing seen of them yet."""
        return Pair(self.live, self.trial, self._metrics, self._id_T)

    def tell_dropped(self) -> None:
        """In the metrics. Not at every request that is dropped: a busy replica drops most."""
        more = self.dropped - self._told_dropped
        self._told_dropped += more
        self.count(dropped=more)

    def run(self, request: ScoreRequest, scored: Scored) -> None:
        """Score what was answered by the other version too, and compare."""
        other = self.trial if scored.model is self.live else self.live
        self._turn += 1
        order = [other]
        if is_timed := self._turn % _TIMED == 0:  # each version is the first one as often
            order.insert(self._turn // _TIMED % 2, scored.model)
        seconds, results = {}, {}
        for model in order:
            started = time.perf_counter()
            results[model.version] = score_requests(model, [request])[0]
            seconds[model.version] = time.perf_counter() - started
        found = results[other.version]
        if isinstance(found, ApiError):
            if other is self.trial:
                self.fail(request.rows)
            return
        live, trial = (scored, found) if other is self.trial else (found, scored)
        more = compare(live, trial, self._id_T)
        self.seen += more
        self.count(**vars(more))
        if is_timed:
            self.timed_rows += request.rows
            for version, spent in seconds.items():
                self.seconds[version] += spent
            self.count(
                timed_rows=request.rows,
                live_seconds=seconds[self.live.version],
                trial_seconds=seconds[self.trial.version],
            )

    def report(self) -> dict[str, Any] | None:
        """A ``Comparison``; None before there is one."""
        seen, timed = self.seen, self.timed_rows
        if not seen.rows:
            return None

        def mean(total: float, count: int) -> float | None:
            return total / count if count else None

        # Without probabilities there are common tags and no gap.
        deciders = (self.live.annotator.decider, self.trial.annotator.decider)
        has_scores = all(decider is not None for decider in deciders)
        return {
            "rows": seen.rows,
            "agreement": seen.agreed / seen.rows,
            "same_first": seen.same_first / seen.rows,
            "score_gap": mean(seen.score_gap, seen.common_tags) if has_scores else None,
            "live_score": mean(seen.live_score, seen.scored_rows),
            "trial_score": mean(seen.trial_score, seen.scored_rows),
            "live_ms": mean(1000 * self.seconds[self.live.version], timed),
            "trial_ms": mean(1000 * self.seconds[self.trial.version], timed),
        }


class Trial:
    """What is tried, for one event loop.

    Args:
        load: loads the bundle at an address.
        max_rows: most rows scored together.
        beside: does the comparisons.
        observe: told of each batch that a canary answered: its results.
    """

    def __init__(
        self,
        load: Callable[[str], ServedModel],
        max_rows: int,
        beside: Beside,
        observe: Callable[[list[Scored | ApiError]], None],
    ) -> None:
        self._load, self._beside, self._observe = load, beside, observe
        self._plan: TrialPlan | None = None
        self._pair: Pair | None = None
        self._place = ""
        self._state: Literal["off", "loading", "running", "refused", "ended"] = "off"
        self._refused: str | None = None
        self._over = ""  # version that is not tried any more: it answers, or it cannot be used
        self._batcher = Batcher(self._score_batch, lambda request: request.rows, max_rows)
        self._metrics = TrialMetrics()

    def plan(self, plan: TrialPlan | None) -> None:
        """What to try from now on. ``look`` loads it."""
        if plan == self._plan:
            return
        pair, old = self._pair, self._plan
        self._close()
        self._plan, self._refused, self._over = plan, None, ""
        if pair and plan and old and plan.path == old.path:  # it need not be loaded again
            self._pair = pair.anew()
            self._show(plan, 1)
        else:
            self._state = "loading" if plan else "off"

    async def look(self, live: ServedModel) -> None:
        """Load what the plan means now, unless it is loaded. What cannot be loaded is refused, and looked at
        again the next time: it may have been repaired."""
        plan = self._plan
        if plan is None:
            return
        if self._pair:
            self._pair.tell_dropped()
        try:
            place, version = await asyncio.to_thread(find_bundle, plan.path)
            if plan != self._plan:  # another was asked for meanwhile
                return
            if version in (live.version, live.info.parent):
                self._end(plan, version)
            elif version != self._over:
                await self._take(plan, place.address, version, live)
        except Exception as error:  # whatever is wrong with it, the other version answers
            if plan == self._plan:
                self._refuse(plan, str(error) or type(error).__name__)

    async def _take(self, plan: TrialPlan, address: str, version: str, live: ServedModel) -> None:
        pair = self._pair
        if pair and pair.trial.version == version:
            self._refused = None
            if pair.live is live:
                return
            trial = pair.trial
        else:
            self._close()  # never a third model because of a trial
            pair = None
            trial = await asyncio.to_thread(self._load, address)
            try:
                check_same_rows(address, live, trial)
            except Exception:
                self._over = version
                raise
        fresh = await asyncio.to_thread(Pair, live, trial, self._metrics)
        if plan != self._plan:
            return
        self._pair, self._place, self._state, self._refused = fresh, address, "running", None
        self._show(plan, 1)
        share = f", answers {plan.share:.2%} of requests" if plan.mode == "canary" else ""
        _LOG.info("%s %s%s, beside %s", plan.mode, version, share, live.version)

    def loaded(self, address: str, version: str) -> ServedModel | None:
        """The tried version, where it is the one of this place: it need not be loaded again to answer."""
        pair = self._pair
        if pair and pair.trial.version == version and self._place == address:
            return pair.trial
        return None

    def _end(self, plan: TrialPlan, version: str) -> None:
        """It answers everything, or an update of it does. It is not tried again beside versions to come."""
        if self._state != "ended":
            _LOG.info("%s %s has ended: it is the version that answers", plan.mode, version)
        self._close()
        self._state, self._refused, self._over = "ended", None, version

    def _refuse(self, plan: TrialPlan, reason: str) -> None:
        """One that is loaded goes on: its newer version, or where it comes from, is at fault."""
        if reason != self._refused:
            _LOG.error("%s refused: %s; the version that answers goes on", plan.mode, reason)
        self._refused = reason
        if not self._pair:
            self._state = "refused"

    def _close(self) -> None:
        self._beside.clear()  # what waits holds the models
        if self._pair and self._plan:
            self._pair.tell_dropped()
            self._show(self._plan, 0)
        self._pair = None

    def _show(self, plan: TrialPlan, value: int) -> None:
        assert self._pair
        labels = {"model": self._pair.trial.version, "mode": plan.mode}
        self._metrics.info.set(value, labels)

    def chooses(self, request: ScoreRequest) -> bool:
        """Whether the canary answers it. By the content of its first row, so that the same picture always
        gets the same version, of each replica."""
        if self._pair is None or self._plan is None or self._plan.mode != "canary":
            return False
        if request.features_BD is None:
            content = request.pictures[0]
        else:
            content = np.ascontiguousarray(request.features_BD[0], dtype="<f4").tobytes()
        # Another canary is tried on other pictures.
        key = self._pair.trial.version.encode()
        digest = blake2b(content, digest_size=8, key=key).digest()
        return int.from_bytes(digest) < self._plan.share * 2.0**64

    async def answer(self, request: ScoreRequest) -> Scored | None:
        """By the canary; None where it cannot."""
        pair = self._pair
        result = await self._batcher.submit(request)
        if isinstance(result, Scored):
            return result
        if pair:
            pair.fail(request.rows)
        return None

    async def _score_batch(self, requests: list[ScoreRequest]) -> list[Scored | ApiError | None]:
        pair = self._pair
        if pair is None:  # it went while they waited
            return [None] * len(requests)
        try:
            results = await score_batch(pair.trial, requests)
        except Exception as error:
            self._break(pair, error)
            return [None] * len(requests)
        self._observe(results)
        return list(results)

    def _break(self, pair: Pair, error: Exception) -> None:
        """A version that fails to score is tried no more."""
        if self._pair is not pair or self._plan is None:
            return
        self._over = pair.trial.version
        self._close()
        name = type(error).__name__
        self._refuse(self._plan, f"{pair.trial.version} failed to score ({name}: {error})")

    def compare(self, request: ScoreRequest, scored: Scored) -> None:
        """Compare an answer, beside the answers that come."""
        pair = self._pair
        if pair is None or self._plan is None or scored.model not in (pair.live, pair.trial):
            return
        if self._plan.mode == "canary" and scored.model is pair.live:
            return
        if not self._beside.has_room(_size(request, scored)):
            pair.dropped += request.rows
            return
        loop = asyncio.get_running_loop()
        for part, answer in pieces(request, scored, pair):

            def do(part: ScoreRequest = part, answer: Scored = answer) -> None:
                try:
                    pair.run(part, answer)
                except Exception as error:
                    loop.call_soon_threadsafe(self._break, pair, error)

            def dropped(rows: int = part.rows) -> None:
                pair.dropped += rows

            self._beside.offer(Work(do, _size(part, answer), dropped))

    def report(self) -> dict[str, Any]:
        """A ``TrialResponse`` but for ``live``."""
        plan, pair = self._plan, self._pair
        return {
            "state": self._state,
            "mode": plan.mode if plan else None,
            "model": pair.trial.version if pair else None,
            "share": plan.share if plan and plan.mode == "canary" else None,
            "refused": self._refused,
            "compared": pair.report() if pair else None,
            "failed": pair.failed if pair else 0,
            "dropped": pair.dropped if pair else 0,
        }


def pieces(request: ScoreRequest, scored: Scored, pair: Pair) -> list[tuple[ScoreRequest, Scored]]:
    """A request and its answer, cut so that a version scores a piece in a few ms. A picture is a piece."""
    row_seconds = max(pair.live.seconds_of(request), pair.trial.seconds_of(request), 1e-9)
    step = max(1, int(INLINE_SECONDS / row_seconds)) if request.features_BD is not None else 1
    if request.rows <= step:
        return [(request, scored)]
    cut = []
    for start in range(0, request.rows, step):
        rows = slice(start, start + step)

        def of(part: np.ndarray | None, rows: slice = rows) -> np.ndarray | None:
            return None if part is None else part[rows]

        answer = replace(
            scored,
            score_Bk=scored.score_Bk[rows],
            tag_Bk=scored.tag_Bk[rows],
            keep_Bk=of(scored.keep_Bk),
            features_BD=of(scored.features_BD),
        )
        part = replace(
            request, features_BD=of(request.features_BD), pictures=request.pictures[rows]
        )
        cut.append((part, answer))
    return cut


def _size(request: ScoreRequest, scored: Scored) -> int:
    """Bytes that it keeps."""
    arrays = (request.features_BD, scored.features_BD, scored.score_Bk, scored.tag_Bk)
    held = {id(array): array.nbytes for array in arrays if array is not None}
    return sum(held.values()) + sum(map(len, request.pictures))
