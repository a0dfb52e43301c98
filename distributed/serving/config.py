"""Options of the scorer."""

# No `from __future__ import annotations` here: Serve pickles the routes, and FastAPI could no longer
# resolve the names of their types.
from pydantic import BaseModel, ConfigDict, Field


class ServeArgs(BaseModel):
    """What ``serve run`` and the ``args`` of a Serve config file take; jobs.serve fills it in."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="bundle, training folder, or folder of versions with `latest`")
    replicas: str = Field(
        "1", description="N, or MIN:MAX to follow the load", pattern=r"^\d+(:\d+)?$"
    )
    feedback: str = Field(
        "", description="folder or s3:// prefix; empty: `feedback` beside the model"
    )
    backbone: str = Field("", description="network for pictures where the model names none")
    threads: int = Field(
        0, ge=0, description="CPU threads of a replica; 0: the machine's cores / replicas"
    )
    max_rows: int = Field(1024, ge=1, description="most rows of a request")
    max_body_mib: int = Field(32, ge=1, description="largest body")
    queue_rows: int = Field(4096, ge=1, description="rows that may wait in a replica; then 503")
    poll_seconds: float = Field(
        5.0, gt=0, description="how often a replica looks for a new version"
    )
    token_file: str = Field(
        "", description="file with the token to ask for; empty: DREL_SCORER_TOKEN of the nodes"
    )
    require_token: bool = Field(False, description="without a token, do not start")
