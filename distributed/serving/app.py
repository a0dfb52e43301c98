"""The HTTP scorer on Ray Serve: ``serve run distributed.serving.app:build_app model=OUT``, or jobs.serve.

A replica holds one version of a model. Requests that wait together are scored together; long work goes to a
thread, so that the next requests are read meanwhile. A new version is loaded and tried beside the old one and
replaces it between two batches; every answer names the version that made it.
"""

# No `from __future__ import annotations`: Serve looks at the class of build_app's argument.
import logging
import sys
from typing import Any

import torch
from ray import serve
from starlette.types import ASGIApp

from distributed.serving.asgi import create_app
from distributed.serving.auth import VARIABLE, read_token, require
from distributed.serving.config import ScorerConfig
from distributed.serving.one_write import hold_heads
from distributed.serving.service import ScorerService
from drel_core.errors import InputError

# A thread that scores needs the interpreter's lock after every operation, and waits so long for it while
# the event loop is busy. Python's own 5 ms are longer than most batches.
_SWITCH_SECONDS = 0.0005
_LOG = logging.getLogger("ray.serve.drel")


@serve.deployment(
    name="scorer",
    # Requests wait in this project's own queue, which is bounded by rows and answers 503.
    max_ongoing_requests=2048,
    health_check_period_s=3,
    health_check_timeout_s=5,  # a replica that hangs is replaced after three
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=20,
    # A line for each request would cost more than finding its tags; metrics count them. Serve makes the line
    # all the same and then drops it, unless its level is above INFO.
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)
@serve.ingress()
class Scorer:
    """One replica."""

    def __init__(self, config: ScorerConfig) -> None:
        token = read_token(config.token_file)
        if config.require_token and not token:
            raise InputError(f"a token is required: set {VARIABLE} for the nodes, or token_file")
        require(token)
        hold_heads()
        sys.setswitchinterval(_SWITCH_SECONDS)
        # The scorer's own lines go into Serve's files, also those that are below Serve's level.
        _LOG.setLevel(logging.INFO)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config
        self.service = ScorerService(config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Serve asks for the application here, in the replica, so that it need not pickle the routes."""
        return create_app(self.service)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's ``user_config``: {"model": PATH} moves this replica to another bundle, {"canary": PATH,
        "share": S} or {"shadow": PATH} tries one beside it.

        The first model must load. A later one that does not load is refused, and the old one stays.
        """
        try:
            config = self.config.changed_by(user_config)
        except InputError as error:
            if not self.service.model.version:
                raise
            # Serve would stop a replica that raises here, and start none that it could not configure.
            _LOG.error("refused: %s; everything goes on as before", error)
            return
        await self.service.model.follow(config.model, config.poll_seconds, config.trial)

    async def check_health(self) -> None:
        if not self.service.model.is_watched:
            raise RuntimeError("the watcher of versions has ended")


def build_app(config: ScorerConfig) -> Any:
    """The Serve application."""
    options: dict[str, Any] = {"user_config": {"model": config.model}}
    if config.follows_load:
        options["autoscaling_config"] = {
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": 32,
        }
    else:
        options["num_replicas"] = config.min_replicas
    return Scorer.options(**options).bind(config)  # type: ignore[attr-defined]
