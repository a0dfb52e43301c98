"""Checkpoints by torch.distributed.checkpoint: every rank writes its rows, any world size loads.

__k_0.distcp, .metadata    towers, M, optimiser, table rows and their state
drel.json                  format, who wrote it, cursor, best score, fingerprint of data and model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from distributed.data.shard_layout import ShardLayout
from distributed.storage.resume import check_same
from distributed.training import collectives
from distributed.training.learner import Learner
from distributed.training.score_moments import ScoreMoments
from drel_core.errors import InputError
from drel_core.version import written_by

FORMAT = 2


@dataclass
class Cursor:
    """The next step to take. All randomness derives from (seed, epoch, step), so this is also the
    state of every random generator and of the data order.

    Attributes:
        readings: how the epoch's rows were divided among ranks, from which step on.
        first_loss: the mean loss of the run's first steps, as rank 0 saw it.
        parent_scores: of an update, where its parent's scores lie on rehearsed rows (``ModelTrainer``); None:
            not known.
    """

    epoch: int = 0
    step: int = 0
    readings: list[ShardLayout] = field(default_factory=list)
    best_f1: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    first_loss: float | None = None
    parent_scores: ScoreMoments | None = None


def _state(learner: Learner) -> dict[str, Any]:
    return {
        "model": learner.model.state_dict(),
        "optimiser": get_optimizer_state_dict(learner.model, learner.optimiser),
        **learner.sharded_state(),
    }


def save(
    folder: Path,
    learner: Learner,
    cursor: Cursor,
    fingerprint: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write this rank's part into ``folder`` (its own, or shared by all ranks).

    Args:
        metrics: what a list of checkpoints says of this one, should the list be lost.
    """
    dcp.save(_state(learner), checkpoint_id=folder, no_dist=not dist.is_initialized())
    if collectives.rank() == 0:
        meta = {
            "format": FORMAT,
            "written_by": written_by(),
            "cursor": asdict(cursor),
            "fingerprint": fingerprint,
            "metrics": metrics,
        }
        (folder / "drel.json").write_text(json.dumps(meta), encoding="utf-8")


def load(folder: Path, learner: Learner, fingerprint: Mapping[str, Any]) -> Cursor:
    """Fill the learner in place, at any world size, and give the place to go on from.

    Raises:
        InputError: the checkpoint belongs to other data or another model, or is damaged.
    """
    try:
        meta = json.loads((folder / "drel.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: the checkpoint is damaged ({error}); use another --out"
        ) from None
    if meta["format"] != FORMAT:
        raise InputError(
            f"{folder}: checkpoint format {meta['format']}; this version reads {FORMAT}"
        )
    check_same(
        folder,
        meta["fingerprint"],
        fingerprint,
        "the checkpoint was written with another {names} ({values}); "
        "repeat the command that began this --out, or choose a new --out",
    )
    state = _state(learner)
    try:
        dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    except dcp.CheckpointException as error:  # derives from BaseException
        first = str(error).splitlines()[0]
        raise InputError(f"{folder}: the checkpoint cannot be read ({first})") from None
    learner.model.load_state_dict(state["model"])
    set_optimizer_state_dict(learner.model, learner.optimiser, state["optimiser"])
    readings = [ShardLayout(**reading) for reading in meta["cursor"].pop("readings")]
    parent = meta["cursor"].pop("parent_scores", None)
    meta["cursor"].pop("parent_spread", None)  # of before: without the mean it says too little
    parent_scores = None if parent is None else ScoreMoments(**parent)
    return Cursor(**meta["cursor"], readings=readings, parent_scores=parent_scores)
