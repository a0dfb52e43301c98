"""Ray Data as the reader of a rank's rows. They travel as blocks of Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import Datasource, ReadTask
from ray.data.block import Block, BlockMetadata

from distributed.data.blocks import BlockSource, as_tensor
from distributed.data.canonical_tags import TagIndex, encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection, read_unit
from distributed.data.rows import Rows
from drel_core.scoring.tag_lists import TagLists


def selection_block(
    selection: RowSelection, columns: Columns, names: pa.Array | TagIndex
) -> pa.Table:
    """Rows as a block of Ray Data: features as they are stored, tags as list<int64> of ids."""
    batch = read_unit(selection, columns)
    ids, offsets = encode_tags(batch.tag_values, batch.tag_offsets, names)
    dim = batch.features_BD.shape[1]
    flat = pa.array(batch.features_BD.reshape(-1))
    tags = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
    return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, dim), "tags": tags})


def block_rows(block: pa.Table) -> Rows:
    """Tensors over a block's memory (no copy of the features)."""
    features, tags = (
        column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for column in (block.column("features"), block.column("tags"))
    )
    dense = features.flatten().to_numpy(zero_copy_only=False).reshape(len(features), -1)
    offsets = tags.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = tags.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    tag_lists = TagLists(torch.from_numpy(values), torch.from_numpy(offsets - offsets[0]))
    return Rows(as_tensor(dense), tag_lists)


class UnitSource(Datasource):
    """One read task a unit, or a few units a task when there are many."""

    def __init__(
        self,
        selections: Sequence[RowSelection],
        columns: Columns,
        names: ray.ObjectRef,
        row_bytes: int,
    ) -> None:
        super().__init__()
        self.selections, self.columns = list(selections), columns
        self.names, self.row_bytes = names, row_bytes

    def estimate_inmemory_data_size(self) -> int:
        return sum(selection.take for selection in self.selections) * self.row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        columns, names = self.columns, self.names

        def read_all(selections: list[RowSelection]) -> Iterator[Block]:
            vocabulary = ray.get(names)
            for selection in selections:
                yield selection_block(selection, columns, vocabulary)

        groups = _consecutive(self.selections, max(1, parallelism))
        return [
            ReadTask(
                partial(read_all, group),
                BlockMetadata(
                    num_rows=sum(selection.take for selection in group),
                    size_bytes=sum(selection.take for selection in group) * self.row_bytes,
                    input_files=tuple(sorted({selection.unit.path for selection in group})),
                    exec_stats=None,
                ),
            )
            for group in groups
        ]


def _consecutive(selections: list[RowSelection], parts: int) -> list[list[RowSelection]]:
    parts = min(parts, len(selections))
    cuts = [part * len(selections) // parts for part in range(parts + 1)] if parts else [0]
    return [selections[low:high] for low, high in pairwise(cuts)]


def ray_blocks(
    columns: Columns,
    names: pa.Array | TagIndex,
    image_dim: int,
    item_bytes: int,
    own_cpus: bool = True,
) -> BlockSource:
    """Reads units through a streaming Ray Data pipeline, in the given order, with prefetch.

    Args:
        own_cpus: reads take a CPU each, as Ray counts them. Where workers may hold all of a cluster's
            CPUs, reads would wait for ever: there, two tasks at a time run beside them.
    """
    reference = ray.put(names)
    resources = {} if own_cpus else {"num_cpus": 0, "concurrency": 2}
    row_bytes = image_dim * item_bytes + 64

    def blocks(selections: Sequence[RowSelection]) -> Iterable[Rows]:
        if not selections:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        source = UnitSource(selections, columns, reference, row_bytes)
        dataset = ray.data.read_datasource(source, override_num_blocks=len(selections), **resources)
        for block in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=2
        ):
            yield block_rows(block)

    return blocks
