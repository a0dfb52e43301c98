"""Settings of the scorer. Importing this starts nothing: jobs.serve reads it before Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from drel_core.decision.decider import Decide
from drel_core.errors import InputError
from drel_core.scoring.tag_search import Search

_SHARE = 0.05


@dataclass(frozen=True)
class TrialPlan:
    """A second version to look at.

    Attributes:
        mode: canary: it answers a share of the requests; shadow: it answers none.
        path: what ``--model`` could be.
        share: of the requests that a canary answers.
    """

    mode: Literal["canary", "shadow"]
    path: str
    share: float = 1.0


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
    canary: str = ""
    """a second model, which answers a share of the requests (the same picture is always answered by the \
    same model) and is compared with the first: /v1/trial"""
    share: float = _SHARE
    """share of the requests that --canary answers, above 0, at most 1"""
    shadow: str = ""
    """a second model, which answers nobody: it scores what was answered, and is compared: /v1/trial"""
    replicas: str = "1"
    """processes that score: N, or MIN:MAX to follow the load"""
    feedback: str = ""
    """folder or s3:// prefix where feedback is kept; empty: `feedback` beside the model"""
    backbone: str = ""
    """network for pictures where the model names none, e.g. efficientnet-lite0"""
    pictures: str = ""
    """local folder of the pictures of training, named by image_id with or without ending: whoever may ask \
    then sees those of rows that the model keeps, at tags and beside similar images; empty: nobody sees any"""
    search: Search = "auto"
    """how the best of many tags are found: by codes from 32,768 tags on where they find 99.9% of them \
    (auto), or by scoring all (exact)"""
    threads: int = 0
    """CPU threads of a replica; 0: the machine's cores shared among the replicas"""
    max_rows: int = 1024
    """most rows or pictures of a request"""
    max_body_mib: int = 32
    """largest body of a request, in MiB"""
    queue_rows: int = 4096
    """rows that may wait in a replica; beyond, requests get 503 and Retry-After"""
    poll_seconds: float = 5.0
    """seconds between a replica's looks for a new version; above 0"""
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
        if self.canary and self.shadow:
            raise ValueError(
                "canary and shadow: give one of them; a scorer tries one model at a time"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be above 0, and 1 at most")
        if self.share != _SHARE and not self.canary:
            raise ValueError("share is for canary; name the model that is to answer it")
        # poll_seconds: false for NaN too
        if self.threads < 0 or not self.poll_seconds > 0:
            raise ValueError("threads must be 0 or more, poll_seconds above 0")
        return self

    @property
    def trial(self) -> TrialPlan | None:
        """What to look at beside ``model``."""
        if self.canary:
            return TrialPlan("canary", self.canary, self.share)
        return TrialPlan("shadow", self.shadow) if self.shadow else None

    def changed_by(self, user_config: dict[str, Any]) -> ScorerConfig:
        """With what Serve's ``user_config`` says: model, and canary with share, or shadow. Where it says
        anything of a trial, it says all of it: {"canary": ""} ends one.

        Raises:
            InputError: it says something else, or a value that is not allowed.
        """
        trial = {"canary": "", "shadow": "", "share": _SHARE}
        known = ("model", *trial)
        for name in user_config:
            if name not in known:
                raise InputError(f"user_config: {name}: not known; known are {', '.join(known)}")
        reset = trial if trial.keys() & user_config.keys() else {}
        given = {name: value for name, value in user_config.items() if value or name != "model"}
        try:
            return ScorerConfig.model_validate({**self.model_dump(), **reset, **given})
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"].removeprefix("Value error, ")
            where = "".join(f"{part}: " for part in first["loc"])
            raise InputError(f"user_config: {where}{message}") from None

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
