"""Metrics of the scorer's routes, and what Ray's exporter knows of the scorer."""

from __future__ import annotations

import asyncio
import functools
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.serve.metrics import Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect

from distributed.serving.schemas import ApiError

if TYPE_CHECKING:
    from distributed.serving.service import ScorerService

Answer = TypeVar("Answer")

CLIENT_LEFT = 499  # nginx's status for a client that did not wait; nobody sees an answer
_PREFIXES = ("ray_drel_", "ray_serve_")


class RequestMetrics:
    """Requests of this replica by route and status, and how long they took."""

    def __init__(self) -> None:
        keys: Any = ("route", "status", "model")
        by_model: Any = ("route", "model")
        self._requests = Counter("drel_requests", description="Requests answered.", tag_keys=keys)
        self._latency = Histogram(
            "drel_latency_ms",
            description="From a request's last byte to its answer.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000],
            tag_keys=by_model,
        )

    def record(self, route: str, status: int, version: str, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "status": str(status), "model": version})
        self._latency.observe(seconds * 1000, {"route": route, "model": version})


class TrialMetrics:
    """A second version beside the one that answers. Counters: those of all replicas add up."""

    def __init__(self) -> None:
        keys: Any = ("model", "live")
        by_mode: Any = ("model", "mode")

        def counter(name: str, description: str) -> Counter:
            return Counter(f"drel_trial_{name}", description=description, tag_keys=keys)

        self.info = Gauge(
            "drel_trial_info", description="1 for the version that is tried.", tag_keys=by_mode
        )
        self.counters = {
            "rows": counter("rows", "Rows that both versions scored."),
            "agreed": counter("agreed", "Sum of the rows' shares of common tags."),
            "same_first": counter("same_first", "Rows whose first tag is the same."),
            "common_tags": counter("common_tags", "Tags that both said of a row."),
            "score_gap": counter("score_gap", "Sum of the differences of their probabilities."),
            "scored_rows": counter("scored_rows", "Rows of which both said a tag."),
            "live_score": counter("live_score", "Sum of the answering version's first scores."),
            "trial_score": counter("trial_score", "Sum of the tried version's first scores."),
            "timed_rows": counter("timed_rows", "Rows that both scored for the time alone."),
            "live_seconds": counter("live_seconds", "Seconds of the answering version for these."),
            "trial_seconds": counter("trial_seconds", "Seconds of the tried version for these."),
            "failed": counter("failed", "Rows that only the answering version could score."),
            "dropped": counter("dropped", "Rows that were not compared for lack of time."),
        }

    def add(self, model: str, live: str, **amounts: float) -> None:
        """Count for a tried version beside the one that answers."""
        for name, amount in amounts.items():
            if amount > 0:  # a counter takes nothing else
                self.counters[name].inc(amount, {"model": model, "live": live})


class DriftMetrics:
    """What a version is asked beside what it was trained on, see ``drift``."""

    def __init__(self) -> None:
        self._rows = Counter(
            "drel_drift_rows", description="Rows looked at for drift.", tag_keys=("model",)
        )
        self._unseen = Counter(
            "drel_drift_unseen", description="Of these, unseen-looking ones.", tag_keys=("model",)
        )
        self._index = Gauge(
            "drel_drift_tags",
            description="Population stability index of recent tags against training.",
            tag_keys=("model",),
        )

    def record(self, version: str, rows: int, unseen: int | None, index: float | None) -> None:
        """Args:
        unseen: None where the model keeps no rows to compare with: then no rows are counted.
        index: None where it is not known.
        """
        tags = {"model": version}
        if unseen is not None:
            self._rows.inc(rows, tags)
            if unseen:
                self._unseen.inc(unseen, tags)
        if index is not None:
            self._index.set(index, tags)


def counted(
    route: str,
) -> Callable[[Callable[..., Awaitable[Answer]]], Callable[..., Awaitable[Answer]]]:
    """Decorator of a route's function: its requests are in the metrics under ``route``."""

    def decorate(endpoint: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
        @functools.wraps(endpoint)
        async def measured(*, service: ScorerService, **arguments: Any) -> Answer:
            started, status = time.perf_counter(), 200
            version = service.model.version
            try:
                answer = await endpoint(service=service, **arguments)
                version = getattr(answer, "version", version)  # a canary may have answered
                return answer
            except ApiError as error:
                status = error.status
                raise
            except (asyncio.CancelledError, ClientDisconnect):
                status = CLIENT_LEFT
                raise
            except Exception:
                status = 500
                raise
            finally:
                seconds = time.perf_counter() - started
                record = service.metrics.record
                # Once the answer is out: nobody waits for it.
                asyncio.get_running_loop().call_soon(record, route, status, version, seconds)

        return measured

    return decorate


def read_exporter() -> str:
    """The lines of this node's Ray exporter that concern the scorer, in Prometheus' text format.

    Raises:
        ApiError: 503, the exporter does not answer.
    """
    own = ray.get_runtime_context().get_node_id()
    node: dict[str, Any] = next((node for node in ray.nodes() if node["NodeID"] == own), {})
    host, port = node.get("NodeManagerAddress", "127.0.0.1"), node.get("MetricsExportPort", 0)
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as response:
            text = response.read().decode()
    except OSError as error:
        raise ApiError(503, "no_metrics", f"Ray's exporter does not answer ({error})") from None
    lines = []
    for line in text.splitlines():
        # a comment reads "# HELP name text" or "# TYPE name kind"
        name = line.split(" ", 3)[2] if line.startswith("# ") else line
        if name.startswith(_PREFIXES):
            lines.append(line)
    return "\n".join(lines) + "\n"
