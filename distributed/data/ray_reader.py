"""Ray Data as the reader of a rank's units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import Block, BlockMetadata

from distributed.data.blocks import BlockSource, unit_block
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection


class UnitSource(Datasource):
    """One read task a unit, or a few units a task when there are many."""

    def __init__(
        self, reads: Sequence[RowSelection], columns: Columns, names: ray.ObjectRef, row_bytes: int
    ) -> None:
        super().__init__()
        self.reads, self.columns, self.names, self.row_bytes = (
            list(reads),
            columns,
            names,
            row_bytes,
        )

    def estimate_inmemory_data_size(self) -> int:
        return sum(read.take for read in self.reads) * self.row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        columns, names = self.columns, self.names

        def read_all(reads: list[RowSelection]) -> Iterator[Block]:
            vocabulary = ray.get(names)
            for read in reads:
                yield unit_block(read, columns, vocabulary)

        groups = _consecutive(self.reads, max(1, parallelism))
        return [
            ReadTask(
                partial(read_all, group),
                BlockMetadata(
                    num_rows=sum(read.take for read in group),
                    size_bytes=sum(read.take for read in group) * self.row_bytes,
                    input_files=tuple(sorted({read.unit.path for read in group})),
                    exec_stats=None,
                ),
            )
            for group in groups
        ]


def _consecutive(reads: list[RowSelection], parts: int) -> list[list[RowSelection]]:
    parts = min(parts, len(reads))
    cuts = [part * len(reads) // parts for part in range(parts + 1)] if parts else [0]
    return [reads[low:high] for low, high in pairwise(cuts)]


def ray_blocks(
    columns: Columns, names: pa.Array, image_dim: int, item_bytes: int, own_cpus: bool = True
) -> BlockSource:
    """Reads units through a streaming Ray Data pipeline, in the given order, with prefetch.

    Args:
        own_cpus: reads take a CPU each, as Ray counts them. Where workers may hold all of a cluster's
            CPUs, reads would wait for ever: there, two tasks at a time run beside them.
    """
    reference = ray.put(names)
    resources = {} if own_cpus else {"num_cpus": 0, "concurrency": 2}
    row_bytes = image_dim * item_bytes + 64

    def blocks(reads: Sequence[RowSelection]) -> Iterable[pa.Table]:
        if not reads:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        source = UnitSource(reads, columns, reference, row_bytes)
        dataset = ray.data.read_datasource(source, override_num_blocks=len(reads), **resources)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)

    return blocks
