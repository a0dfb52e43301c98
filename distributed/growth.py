"""A model that goes on learning: an older bundle becomes the start of a larger one.

Old rows of the table, their optimiser state and ids stay as they are; new tags are appended.
Shapes: T tags, E embedding size, n rows of a rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import sparse
from torch import Tensor

from distributed.bundles.locate import local_bundle
from distributed.data.feature_store import Columns, RowSelection, encode_tags, flat_tags, read_table
from distributed.data.survey import StoreSurvey
from distributed.inherited import Inherited
from distributed.learner import Learner
from distributed.step import Stepper
from distributed.storage.folder import Folder
from drel_core.annotators.drel import table_file
from drel_core.bundle.format import read_vocabulary
from drel_core.bundle.safe_loading import load_tensors
from drel_core.decision.kernel import KernelHead
from drel_core.decision.rule import DecisionRule
from drel_core.errors import InputError
from drel_core.model.towers import ModelConfig, init_embedding_rows

Start = Literal["co-occurring", "random"]
NEW_ROWS = "new_rows.safetensors"


@dataclass(frozen=True)
class Parent:
    """What a run of jobs.update starts from.

    Attributes:
        bundle: address of the older bundle.
        version: its version.
        num_tags, table_parts: its T, and the files its table lies in.
        out: folder with the file of the first values of the rows of new tags.
    """

    bundle: str
    version: str
    num_tags: int
    table_parts: int
    out: str

    def folder(self) -> Path:
        """The bundle on this machine."""
        return _folder(self.bundle)


@lru_cache(maxsize=4)
def _folder(bundle: str) -> Path:
    return local_bundle(bundle)


def grow(stepper: Stepper, parent: Parent) -> None:
    """Fill a fresh learner from its parent: towers, M, rows that this rank owns, and their state.

    Raises:
        InputError: the bundle keeps no optimiser state, or is damaged.
    """
    stepper.model.load_state_dict(load_tensors(parent.folder() / "model.safetensors"))
    local = stepper.table.local
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


def inherit(parent: Parent, data: StoreSurvey, fresh: int) -> Inherited:
    """The parent's decision rule with a place for every new tag, and its kernel regression.

    Args:
        data: the rows to learn from and the grown vocabulary.
        fresh: how many of the rows are new; they come first.
    """
    folder = parent.folder()
    rule = DecisionRule.load(folder, parent.num_tags)
    if rule is not None:
        before = torch.from_numpy(read_vocabulary(folder).counts)
        rule = rule.extended(before, torch.from_numpy(data.count_T))
    return Inherited(rule, KernelHead.load(folder, data.image_dim, parent.num_tags), fresh)


def take_over(learner: Learner, parent: Parent, data: StoreSurvey, fresh: int) -> Inherited:
    """``grow`` a learner at its start and ``inherit`` what is beside towers and table."""
    assert isinstance(learner, Stepper)
    grow(learner, parent)
    return inherit(parent, data, fresh)


def read_rows_of(parent: Parent, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Rows ``[n, E]`` and their optimiser state ``[n]`` for tags ``start`` to ``stop``, no others read.

    Raises:
        InputError: the bundle keeps no optimiser state, or a part is out of place.
    """
    weights: list[Tensor] = []
    states: list[Tensor] = []
    folder = parent.folder()
    for part in range(parent.table_parts):
        path = folder / table_file(part, parent.table_parts)
        with safe_open(path, "pt") as file:
            held = set(file.keys())
            if "state" not in held:
                raise InputError(
                    f"{path}: keeps no optimiser state, so that it cannot be learned on; train it again"
                )
            first = int(file.get_tensor("start"))
            weight = file.get_slice("weight")
            low, high = max(start, first), min(stop, first + weight.get_shape()[0])
            if low < high:
                weights.append(weight[low - first : high - first])
                states.append(file.get_slice("state")[low - first : high - first])
    if not weights:
        return torch.empty(0, 0), torch.empty(0)
    found = torch.cat(weights)
    if len(found) != max(0, stop - start):
        raise InputError(f"{parent.bundle}: table rows are missing")
    return found, torch.cat(states)


def write_new_rows(
    parent: Parent,
    names: pa.Array,
    count_T: np.ndarray,
    reads: Sequence[RowSelection],
    columns: Columns,
    model: ModelConfig,
    start: Start,
    seed: int,
) -> None:
    """Choose where new tags start, and write their file.

    random: as at the start of training, from (seed, tag id). co-occurring: the mean of the rows of old
    tags on the same images, each by its number of common images over the root of its own count, plus
    a random row, so that no two tags start alike.
    """
    new = np.arange(parent.num_tags, len(names))
    rows_nE = init_embedding_rows(torch.from_numpy(new), model, seed)
    if start == "co-occurring" and len(new):
        common_nT = _co_occurrence(names, parent.num_tags, reads, columns)
        weight_nT = common_nT @ sparse.diags_array(
            1 / np.sqrt(np.maximum(count_T[: parent.num_tags], 1.0))
        )
        total_n = np.asarray(weight_nT.sum(1)).reshape(-1)
        share_nT = sparse.diags_array(1 / np.maximum(total_n, 1e-12)) @ weight_nT
        mean_nE = np.zeros((len(new), model.tag_dim))
        block = 65536  # old rows are read a block at a time: the table may be larger than memory
        for low in range(0, parent.num_tags, block):
            high = min(low + block, parent.num_tags)
            part = share_nT[:, low:high]
            if part.nnz:
                mean_nE += part @ read_rows_of(parent, low, high)[0].double().numpy()
        rows_nE += torch.from_numpy(mean_nE).float()
    with Folder.of(parent.out).writing(NEW_ROWS) as path:
        save_file({"weight": rows_nE.contiguous()}, path)


def _co_occurrence(
    names: pa.Array, old: int, reads: Sequence[RowSelection], columns: Columns
) -> sparse.csr_array:
    """Images that carry both, ``[new tags, old tags]``."""
    total = len(names)
    found = sparse.csr_array((total - old, old), dtype=np.float64)
    for read in reads:
        table = read_table(read.unit, [columns.tags])
        keep = np.ones(read.unit.rows, dtype=bool)
        keep[read.dropped - read.unit.file_row] = False
        place = np.flatnonzero(keep)[read.skip : read.skip + read.take]
        values, offsets = flat_tags(table.column(0).combine_chunks().take(pa.array(place)))
        ids, offsets = encode_tags(values, offsets, names)
        has_BT = sparse.csr_array(
            (np.ones(len(ids)), ids, offsets), shape=(len(offsets) - 1, total)
        )
        found = found + has_BT[:, old:].T @ has_BT[:, :old]
    return found
