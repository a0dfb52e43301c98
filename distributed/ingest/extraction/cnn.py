"""Features of pictures from a pretrained network: decoded in tasks, embedded by a pool of actors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from distributed.ingest.extraction.base import Answering
from distributed.ingest.extraction.lowlevel import Describer
from distributed.ingest.parts import PartPlan, Read, Values, read_chunk, write_part
from distributed.ingest.sources.base import FEATURES, Source
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import MALLOC
from drel_core.images.backbone import Backbone, Precision, load_backbone


@dataclass(frozen=True, kw_only=True)
class CnnExtraction:
    """A pretrained network, one copy on each of an autoscaling pool of actors."""

    backbone: str = "efficientnet-lite0"
    """efficientnet-lite0, timm:NAME, torchvision:NAME or file:PATH"""
    precision: Precision = "fp32"
    """numbers that the network computes with; fp16 needs a GPU"""
    batch_size: int = 0
    """pictures that go through the network at once; 0: 16 on a CPU, 128 on a GPU"""
    actors: int = 0
    """most copies of the network; 0: one a GPU, or one a CPU core where there is no GPU"""

    def describe(self) -> dict[str, Any]:
        backbone = load_backbone(self.backbone, precision=self.precision)
        return {"kind": "cnn", **backbone.describe()}

    def prepare(self, source: Source, plan: PartPlan, log: Log) -> dict[str, Any]:
        return self.describe()

    def parts(
        self,
        chunks: Any,
        source: Any,
        plan: PartPlan,
        columns: Sequence[str] = (FEATURES,),
        beside: Mapping[str, Describer] | None = None,
    ) -> Any:
        """See ``Extraction``.

        Args:
            columns: names of the features columns in their order.
            beside: by name, what makes the others of the same decoded pictures.
        """
        beside = beside or {}
        gpus = int(ray.cluster_resources().get("GPU", 0))
        cores = os.cpu_count() or 1
        most = self.actors or gpus or cores * len(ray.nodes())
        size = load_backbone(self.backbone).preprocessing
        # Descriptors are work for a whole core, decoding alone waits for the network.
        decoded = chunks.map(_Decode(source, plan, size, beside), num_cpus=1 if beside else 0.5)
        return decoded.map(
            _Embed,
            fn_constructor_args=(self, plan, max(1, cores // most), tuple(columns)),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            runtime_env={"env_vars": MALLOC},
            num_gpus=1 if gpus else 0,
            num_cpus=1,
        )


class _Decode(Answering):
    """A chunk as one row: what is known of its pictures, and their pixels one after another."""

    def __init__(
        self, source: Any, plan: PartPlan, preprocessing: Any, beside: Mapping[str, Describer]
    ) -> None:
        self.source, self.plan, self.preprocessing = source, plan, preprocessing
        self.beside = beside

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = int(row["chunk"])
        read = read_chunk(ray.get(self.source), self.plan, chunk)
        pixels = self.preprocessing.squares(read.pictures, lambda picture: picture)
        values = {name: describe(read.pictures) for name, describe in self.beside.items()}
        known = pickle.dumps((Read(read.table, [], read.rejected), values), protocol=5)
        return {"chunk": chunk, "known": known, "pixels": pixels.reshape(-1)}

    def failed(self, error: str) -> dict[str, Any]:
        return {"chunk": -1, "known": b"", "pixels": np.zeros(0, np.uint8), "error": error}


class _Embed(Answering):
    """An actor with a network: pixels to features to a part."""

    def __init__(
        self, extraction: CnnExtraction, plan: PartPlan, threads: int, columns: tuple[str, ...]
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        cuda = torch.cuda.is_available()
        self.backbone: Backbone = load_backbone(
            extraction.backbone, torch.device("cuda" if cuda else "cpu"), extraction.precision
        )
        self.plan, self.batch = plan, extraction.batch_size or (128 if cuda else 16)
        self.columns = columns

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        known: Read
        values: Values
        known, values = pickle.loads(row["known"])
        side = self.backbone.preprocessing.size
        pixels = np.asarray(row["pixels"]).reshape(-1, side, side, 3)
        features = [
            self.backbone(pixels[start : start + self.batch])
            for start in range(0, len(pixels), self.batch)
        ]
        if not features:  # every picture was rejected: D is still needed
            features = [self.backbone(np.zeros((1, side, side, 3), dtype=np.uint8))[:0]]
        chunk = int(row["chunk"])
        embedded_BD = np.concatenate(features)
        ordered = {name: values.get(name, embedded_BD) for name in self.columns}
        return write_part(self.plan, chunk, known.table, ordered, known.rejected)
