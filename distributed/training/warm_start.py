"""A model that goes on learning: an older bundle becomes the start of a larger one.

Old rows of the table, their optimiser state and ids stay as they are; new tags are appended.
Shapes: T tags, E embedding size, n rows of a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from distributed.bundles.locate import local_bundle
from distributed.bundles.table_parts import TableParts
from distributed.data.feature_store import RowSelection
from distributed.data.survey import StoreSurvey
from distributed.storage.folder import Folder
from distributed.training.drel_learner import DRELLearner
from drel_core.bundle.format import read_vocabulary
from drel_core.bundle.safe_loading import load_tensors
from drel_core.decision.decider import Decider
from drel_core.decision.kernel import KernelHead
from drel_core.errors import InputError

Start = Literal["auto", "text", "co-occurring", "random"]
NEW_ROWS = "new_rows.safetensors"


@dataclass(frozen=True)
class ParentBundle:
    """What a run of jobs.update starts from.

    Attributes:
        bundle: address of the older bundle.
        version: its version.
        num_tags, table_parts: its T, and the files its table lies in.
        out: folder with the file of the first values of the rows of new tags.
        new_images: training rows that the bundle has not been trained on; they come first.
        images: training rows of the bundle and of its own parents.
        shown_T: bool, of the grown vocabulary: the tags that some image of this run has. The rows of others
            rest, since the run could only push them away from images. None: no tag rests.
    """

    bundle: str
    version: str
    num_tags: int
    table_parts: int
    out: str
    new_images: int
    images: int = 0
    shown_T: np.ndarray | None = None

    def folder(self) -> Path:
        """The bundle on this machine."""
        return _folder(self.bundle)

    def split(
        self, selections: list[RowSelection]
    ) -> tuple[list[RowSelection], list[RowSelection]]:
        """Those of new rows, which come first, and those of rehearsed ones, which hold no new tag and are
        there as often as they are repeated."""
        stops = np.cumsum([selection.take for selection in selections])
        new = int(np.searchsorted(stops, self.new_images)) + 1
        return selections[:new], selections[new:]

    @property
    def table(self) -> TableParts:
        """Its rows of tags."""
        return TableParts(self.folder(), self.table_parts)


@lru_cache(maxsize=4)
def _folder(bundle: str) -> Path:
    return local_bundle(bundle)


def grow(learner: DRELLearner, parent: ParentBundle) -> None:
    """Fill a fresh learner from its parent: towers, M, rows that this rank owns, and their state.

    Raises:
        InputError: the bundle keeps no optimiser state, or is damaged.
    """
    learner.model.load_state_dict(load_tensors(parent.folder() / "model.safetensors"))
    if parent.shown_T is not None:
        learner.rests_T = torch.from_numpy(~parent.shown_T).to(learner.device)
    local = learner.table.local
    weight_nE, state_n = read_rows_of(parent, local.start, min(local.stop, parent.num_tags))
    local.weight_nE[: len(weight_nE)] = weight_nE.to(local.weight_nE.device)
    local.state_n[: len(state_n)] = state_n.to(local.state_n.device)
    first = max(local.start, parent.num_tags)
    if first < local.stop:
        with Folder.of(parent.out).local(NEW_ROWS) as path, safe_open(path, "pt") as file:
            rows_nE = file.get_slice("weight")[
                first - parent.num_tags : local.stop - parent.num_tags
            ]
        local.weight_nE[first - local.start :] = rows_nE.to(local.weight_nE.device)


@dataclass(frozen=True)
class Inherited:
    """The parent's decider and kernel regression.

    Attributes:
        decider: with a place for every new tag; None where the parent had none.
        kernel: of the old tags; None where the parent had none.
    """

    decider: Decider | None
    kernel: KernelHead | None


def inherit(parent: ParentBundle, survey: StoreSurvey) -> Inherited:
    """What a learner takes over beside towers and table.

    Args:
        survey: the rows to learn from and the grown vocabulary.
    """
    folder = parent.folder()
    decider = Decider.load(folder, parent.num_tags)
    if decider is not None:
        before = torch.from_numpy(read_vocabulary(folder).counts)
        decider = decider.extended(before, torch.from_numpy(survey.count_T))
    return Inherited(decider, KernelHead.load(folder, survey.image_dim, parent.num_tags))


def read_rows_of(parent: ParentBundle, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Rows ``[n, E]`` and their optimiser state ``[n]`` for tags ``start`` to ``stop``, no others read.

    Raises:
        InputError: the bundle keeps no optimiser state, or a part is out of place.
    """
    table = parent.table
    if not table.keep_state:
        raise InputError(
            f"{parent.bundle}: keeps no optimiser state of its tags, so that it cannot be learned on; train "
            "it again"
        )
    weight_nE, state_n = table.between(start, stop)
    if state_n is None or len(weight_nE) != max(0, stop - start):
        raise InputError(f"{parent.bundle}: table rows are missing")
    return weight_nE, state_n
