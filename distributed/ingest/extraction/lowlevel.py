"""The six low-level features of pictures, and the codebook that their bag of words needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import ray
from PIL import Image

from distributed.ingest.extraction.base import Answering
from distributed.ingest.parts import CODEBOOK, PartPlan, read_chunk, write_part
from distributed.ingest.sources.base import FEATURES, SPLIT, Source
from distributed.runtime.progress import Log
from distributed.runtime.tasks import get_all
from distributed.storage.folder import Folder
from drel_core.images.lowlevel import LOWLEVEL_BLOCKS, Codebook, bounded, lowlevel, sift
from drel_core.model.sampling import mix_seed

_WINDOW = 16  # neighbouring rows that the sample takes together: one read
_PER_PICTURE = 100  # descriptors, so that busy pictures do not make the codebook alone


@dataclass(frozen=True, kw_only=True)
class LowLevelExtraction:
    """Colour, texture and shape without a network."""

    codebook: str = ""
    """.npz of visual words, as an earlier store holds it; empty: made from a sample of the pictures"""
    words: int = 500
    """visual words of a codebook that is made"""
    sample: int = 1000
    """pictures that it is made from; those known to be test pictures are left out"""
    seed: int = 0
    """decides the sample and the start of k-means"""

    def __post_init__(self) -> None:
        for name in ("words", "sample"):
            if getattr(self, name) < 1:
                raise ValueError(f"lowlevel.{name} is {getattr(self, name)}; it must be 1 or more")

    def describe(self) -> dict[str, Any]:
        if self.codebook:
            return {"kind": "lowlevel", "codebook_sha256": _load(self.codebook).sha256}
        return {"kind": "lowlevel", "words": self.words, "sample": self.sample, "seed": self.seed}

    def prepare(self, source: Source, plan: PartPlan, log: Log) -> dict[str, Any]:
        """Put the codebook beside the parts."""
        folder = Folder(plan.folder)
        if not folder.has(CODEBOOK):
            codebook = _load(self.codebook) if self.codebook else self._make(source, plan)
            log(f"codebook of {len(codebook.word_K128)} visual words")
            with folder.writing(CODEBOOK) as path:
                codebook.save(path)
        codebook = _load(plan.codebook())
        blocks = LOWLEVEL_BLOCKS | {"bag_of_words": len(codebook.word_K128)}
        return {"kind": "lowlevel", "codebook_sha256": codebook.sha256, "blocks": blocks}

    def _make(self, source: Source, plan: PartPlan) -> Codebook:
        windows = -(-source.num_rows // _WINDOW)
        wanted = min(windows, -(-self.sample // _WINDOW))
        chosen = np.random.default_rng(self.seed).permutation(windows)[:wanted]
        reference = ray.put(source)
        narrow = replace(plan, chunk_rows=_WINDOW)
        task = ray.remote(num_cpus=1)(_sample_window)
        flying = [task.remote(reference, narrow, int(w), self.seed) for w in chosen]
        return Codebook.train(np.concatenate(get_all(flying)), self.words, self.seed)

    def parts(self, chunks: Any, source: Any, plan: PartPlan) -> Any:
        return chunks.map(_Describe(source, plan, self.describer(plan)), num_cpus=1)

    def describer(self, plan: PartPlan) -> Describer:
        """What turns pictures into features, once ``prepare`` has put the codebook beside the parts."""
        return Describer(ray.put(_load(plan.codebook())))


def _load(address: str) -> Codebook:
    place = Folder.of(address)
    with place.parent.local(place.name) as path:
        return Codebook.load(path)


def _sample_window(source: Source, plan: PartPlan, window: int, seed: int) -> np.ndarray:
    """Some SIFT descriptors ``[n, 128]`` of the pictures of a window, all of them readable ones."""
    cv2.setNumThreads(1)
    read = read_chunk(source, plan, window)
    test = pc.fill_null(pc.equal(read.table.column(SPLIT), "test"), False)
    found = [np.zeros((0, 128), np.float32)]
    for place in np.flatnonzero(~test.to_numpy()):
        descriptor_n128 = sift(bounded(np.asarray(read.pictures[place])))
        generator = np.random.default_rng(mix_seed(seed, window, int(place)))
        found.append(descriptor_n128[generator.permutation(len(descriptor_n128))[:_PER_PICTURE]])
    return np.concatenate(found)


@dataclass(frozen=True)
class Describer:
    """Decoded pictures to features ``[B, D]``, in a task.

    Attributes:
        codebook: a reference in Ray's object store.
    """

    codebook: Any

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        cv2.setNumThreads(1)  # as many tasks as cores already
        codebook: Codebook = ray.get(self.codebook)
        width = sum(LOWLEVEL_BLOCKS.values()) - LOWLEVEL_BLOCKS["bag_of_words"]
        features_BD = np.empty((len(pictures), width + len(codebook.word_K128)), np.float32)
        for place, picture in enumerate(pictures):
            features_BD[place] = lowlevel(np.asarray(picture), codebook)
        return features_BD


class _Describe(Answering):
    """A task: a chunk's pictures to features to a part."""

    def __init__(self, source: Any, plan: PartPlan, describer: Describer) -> None:
        self.source, self.plan, self.describer = source, plan, describer

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = int(row["chunk"])
        read = read_chunk(ray.get(self.source), self.plan, chunk)
        values = {FEATURES: self.describer(read.pictures)}
        return write_part(self.plan, chunk, read.table, values, read.rejected)
