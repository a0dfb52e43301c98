"""Parts of a source on Ray Data: features computed by an extraction, or taken as they came."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Protocol

import ray

from distributed.ingest.parts import AGAIN, PartPlan, read_chunk, values_of, write_part
from distributed.ingest.sources.base import Source
from distributed.runtime.progress import Log
from distributed.storage.files import one_line
from drel_core.errors import InputError


class Extraction(Protocol):
    """How pictures become features."""

    def describe(self) -> dict[str, Any]:
        """What was asked for; a run that is taken up again must ask for the same."""
        ...

    def prepare(self, source: Source, plan: PartPlan, log: Log) -> dict[str, Any]:
        """Make what is needed before the first part; gives what the manifest says of the features."""
        ...

    def parts(self, chunks: Any, source: Any, plan: PartPlan) -> Any:
        """Add to a dataset of rows {chunk} what writes those parts, giving {chunk, rows, rejected}.

        ``source`` is a reference in Ray's object store.
        """
        ...


def extract(
    source: Source, extraction: Extraction | None, plan: PartPlan, todo: list[int]
) -> Iterator[dict[str, int]]:
    """Write the parts ``todo``; yields {chunk, rows, rejected} as they are done.

    Raises:
        InputError: what a task found wrong with the input.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    reference = ray.put(source)
    chunks = ray.data.from_items([{"chunk": c} for c in todo], override_num_blocks=len(todo))
    if extraction is None:
        done = chunks.map(_StoredFeatures(reference, plan))
    else:
        done = extraction.parts(chunks, reference, plan)
    for row in done.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield {key: int(row[key]) for key in ("chunk", "rows", "rejected")}


class Answering:
    """A step whose ``InputError`` or ``OSError`` travels as the answer ``error``: Ray would wrap it in its
    own, with a traceback."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get("error"):
            return self.failed(row["error"])
        try:
            return {**self.answer(row), "error": ""}
        except InputError as error:
            return self.failed(str(error))
        except OSError as error:  # a full disk, S3 that is gone for long
            return self.failed(f"a part cannot be written ({one_line(error)}); {AGAIN}")

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def failed(self, error: str) -> dict[str, Any]:
        return {"chunk": -1, "rows": 0, "rejected": 0, "error": error}


class _StoredFeatures(Answering):
    """A source that has features: read, check, write."""

    def __init__(self, source: Any, plan: PartPlan) -> None:
        self.source, self.plan = source, plan

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = int(row["chunk"])
        read = read_chunk(ray.get(self.source), self.plan, chunk)
        return write_part(self.plan, chunk, read.table, values_of(read.table), read.rejected)
