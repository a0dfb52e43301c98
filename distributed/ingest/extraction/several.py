"""Several features of the same pictures, each a column of its own; a picture is decoded once for all of
them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distributed.ingest.extraction.cnn import CnnExtraction
from distributed.ingest.extraction.lowlevel import LowLevelExtraction
from distributed.ingest.parts import PartPlan
from distributed.ingest.sources.base import Source
from distributed.runtime.progress import Log

NETWORK, DESCRIPTORS = "cnn", "lowlevel"


@dataclass(frozen=True)
class SeveralExtractions:
    """A network and the six descriptors.

    Attributes:
        columns: names of the store's features columns in their order, ``cnn`` and ``lowlevel``.
    """

    columns: tuple[str, ...]
    cnn: CnnExtraction
    lowlevel: LowLevelExtraction

    def describe(self) -> dict[str, Any]:
        return {"columns": {name: self._of(name).describe() for name in self.columns}}

    def prepare(self, source: Source, plan: PartPlan, log: Log) -> dict[str, Any]:
        made = {name: self._of(name).prepare(source, plan, log) for name in self.columns}
        return {"columns": made}

    def parts(self, chunks: Any, source: Any, plan: PartPlan) -> Any:
        """Descriptors where pictures are decoded; the network takes their pixels on."""
        beside = self.lowlevel.describer(plan)
        return self.cnn.parts(chunks, source, plan, self.columns, {DESCRIPTORS: beside})

    def _of(self, name: str) -> CnnExtraction | LowLevelExtraction:
        return self.cnn if name == NETWORK else self.lowlevel
