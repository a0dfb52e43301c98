"""Settings of the scorer. Importing this starts nothing: jobs.serve reads it before Ray."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from drel_core.decision.decider import Decide


class ScorerConfig(BaseModel):
    """What to serve.

    The options of jobs.serve, and the ``args`` of a Serve config file and of ``serve run``. It is a pydantic
    model because Serve turns ``args`` into one.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str
    """model bundle, training folder, or folder of versions whose file `latest` names one; a new version \
    there is taken up without a restart"""
    decide: Decide = "top"
    """how tags are chosen where a request does not say it. top: the most probable; macro: those that \
    maximise expected macro F1, which finds rare tags; threshold: as many as are worth saying"""
    replicas: str = "1"
    """processes that score: N, or MIN:MAX to follow the load"""
    feedback: str = ""
    """folder or s3:// prefix where feedback is kept; empty: `feedback` beside the model"""
    backbone: str = ""
    """network for pictures where the model names none, e.g. efficientnet-lite0"""
    threads: int = 0
    """CPU threads of a replica; 0: the machine's cores shared among the replicas"""
    max_rows: int = 1024
    """most rows of a request"""
    max_body_mib: int = 32
    """largest body of a request"""
    queue_rows: int = 4096
    """rows that may wait in a replica; beyond, requests get 503 and Retry-After"""
    poll_seconds: float = 5.0
    """how often a replica looks for a new version"""
    token_file: str = ""
    """file with the bearer token that requests must show; empty: DREL_SCORER_TOKEN; with neither everybody \
    may ask"""
    require_token: bool = False
    """a replica that finds no token does not start"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, colon, high = self.replicas.partition(":")
        if not low.isdigit() or (colon and not high.isdigit()):
            raise ValueError(f"replicas is {self.replicas!r}; give N or MIN:MAX")
        if int(low) < 1 or (colon and int(high) < int(low)):
            raise ValueError(f"replicas is {self.replicas!r}; at least 1, and MIN not above MAX")
        for name in ("max_rows", "max_body_mib", "queue_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        # poll_seconds: false for NaN too
        if self.threads < 0 or not self.poll_seconds > 0:
            raise ValueError("threads must be 0 or more, poll_seconds above 0")
        return self

    @property
    def min_replicas(self) -> int:
        return int(self.replicas.partition(":")[0])

    @property
    def max_replicas(self) -> int:
        return int(self.replicas.rpartition(":")[2])

    @property
    def follows_load(self) -> bool:
        """Whether the count of replicas is a range."""
        return ":" in self.replicas
