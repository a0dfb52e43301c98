"""Rows of a store as tensors: read in this process, or block by block from where Ray Data reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distributed.data.canonical_tags import TagIndex, encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection, read_unit
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.runtime.tasks import INLINE_BYTES
from drel_core.scoring.tag_lists import TagLists

BlockSource = Callable[[Sequence[RowSelection]], Iterable[Rows]]
"""Reads selections in the given order; a block may hold less or more than one of them."""


def load_rows(
    selections: RowSelection | Sequence[RowSelection], columns: Columns, names: pa.Array | TagIndex
) -> Rows:
    """The selected rows in one piece: features as they are stored, tags as ids, their places in ``names``.

    Args:
        names: a vocabulary alone, or one with rules.
    """
    if isinstance(selections, RowSelection):
        batch = read_unit(selections, columns)
        ids, offsets = encode_tags(batch.tag_values, batch.tag_offsets, names)
        tags = TagLists(torch.from_numpy(ids), torch.from_numpy(offsets))
        return Rows(as_tensor(batch.features_BD), tags)
    return Rows.cat([load_rows(selection, columns, names) for selection in selections])


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over read-only Arrow memory. torch warns of writes to it; nobody writes to a batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def block_source(survey: StoreSurvey, columns: Columns, own_cpus: bool = True) -> BlockSource:
    """Reads in this process where the survey's rows are few, else through Ray Data.

    Args:
        own_cpus: see ``ray_blocks``.
    """
    if survey.num_bytes <= INLINE_BYTES:
        return inline_blocks(columns, survey.index)
    from distributed.data.ray_reader import ray_blocks  # ray.data is slow to import

    return ray_blocks(columns, survey.index, survey.image_dim, survey.item_bytes, own_cpus)


def inline_blocks(columns: Columns, names: pa.Array | TagIndex) -> BlockSource:
    """Reads in this process: for small stores, where a task costs more than the read."""
    return lambda selections: (load_rows(selection, columns, names) for selection in selections)
