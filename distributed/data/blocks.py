"""Rows of a store as blocks of Arrow, which travel through Ray Data, and as tensors over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection, encode_tags, read_unit
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.runtime.tasks import INLINE_BYTES
from drel_core.scoring.tag_lists import TagLists


def unit_block(read: RowSelection, columns: Columns, names: pa.Array) -> pa.Table:
    """A unit as a block of Ray Data: features as they are stored, tags as list<int64> of ids."""
    batch = read_unit(read, columns)
    ids, offsets = encode_tags(batch.tag_values, batch.tag_offsets, names)
    dim = batch.features_BD.shape[1]
    flat = pa.array(batch.features_BD.reshape(-1))
    tags = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
    return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, dim), "tags": tags})


def block_rows(block: pa.Table) -> Rows:
    """Tensors over a block's memory (no copy of the features)."""
    features = block.column("features")
    features = features.chunk(0) if features.num_chunks == 1 else features.combine_chunks()
    tags = block.column("tags")
    tags = tags.chunk(0) if tags.num_chunks == 1 else tags.combine_chunks()
    dense = features.flatten().to_numpy(zero_copy_only=False).reshape(len(features), -1)
    offsets = tags.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = tags.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Rows(
        _as_tensor(dense),
        TagLists(torch.from_numpy(values), torch.from_numpy(offsets - offsets[0])),
    )


def read_rows(reads: Sequence[RowSelection], columns: Columns, names: pa.Array) -> Rows:
    """All rows of some units in one piece, with the tags of ``names`` as ids."""
    return Rows.cat([block_rows(unit_block(read, columns, names)) for read in reads])


def _as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over read-only Arrow memory. torch warns of writes to it; nobody writes to a batch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


BlockSource = Callable[[Sequence[RowSelection]], Iterable[pa.Table]]


def block_source(survey: StoreSurvey, columns: Columns, own_cpus: bool = True) -> BlockSource:
    """Reads units in this process where the survey's rows are few, else through Ray Data.

    Args:
        own_cpus: see ``ray_blocks``.
    """
    if survey.num_bytes <= INLINE_BYTES:
        return inline_blocks(columns, survey.names)
    from distributed.data.ray_reader import ray_blocks  # ray.data is slow to import

    return ray_blocks(columns, survey.names, survey.image_dim, survey.item_bytes, own_cpus)


def inline_blocks(columns: Columns, names: pa.Array) -> BlockSource:
    """Reads units in this process: for small stores, where a task costs more than the read."""
    return lambda reads: (unit_block(read, columns, names) for read in reads)
