"""Metrics of the scorer's routes, and what Ray's exporter knows of the scorer."""

from __future__ import annotations

import asyncio
import functools
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.serve.metrics import Counter, Histogram

from distributed.serving.schemas import ApiError

if TYPE_CHECKING:
    from distributed.serving.service import ScorerService

Answer = TypeVar("Answer")

_CLIENT_LEFT = 499  # nginx's status for a client that did not wait; nobody sees an answer
_PREFIXES = ("ray_drel_", "ray_serve_")


class RequestMetrics:
    """Requests of this replica by route and status, and how long they took."""

    def __init__(self) -> None:
        keys: Any = ("route", "status", "model")
        self._requests = Counter("drel_requests", description="Requests answered.", tag_keys=keys)
        self._latency = Histogram(
            "drel_latency_ms",
            description="From a request's last byte to its answer.",
            boundaries=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000],
            tag_keys=("route",),
        )

    def record(self, route: str, status: int, version: str, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "status": str(status), "model": version})
        self._latency.observe(seconds * 1000, {"route": route})


def counted(
    route: str,
) -> Callable[[Callable[..., Awaitable[Answer]]], Callable[..., Awaitable[Answer]]]:
    """Decorator of a route's function: its requests are in the metrics under ``route``."""

    def decorate(endpoint: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
        @functools.wraps(endpoint)
        async def measured(*, service: ScorerService, **arguments: Any) -> Answer:
            started, status = time.perf_counter(), 200
            try:
                return await endpoint(service=service, **arguments)
            except ApiError as error:
                status = error.status
                raise
            except asyncio.CancelledError:
                status = _CLIENT_LEFT
                raise
            except Exception:
                status = 500
                raise
            finally:
                seconds = time.perf_counter() - started
                service.metrics.record(route, status, service.model.version, seconds)

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
