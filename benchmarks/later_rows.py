"""Rows that come after those of a planted store (benchmarks.make_store), some with tags that it has not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.make_store import DRAW_ROWS, Planted
from distributed.ingest.sources.base import SPLIT
from drel_core.errors import InputError


@dataclass(frozen=True)
class WithNewTags(Planted):
    """The images of a planted source, of which a share has one of ``new_tags`` tags in addition. Their ids
    begin at ``tags``."""

    new_tags: int = 1
    share: float = 0.3

    def latents(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value_BW, tag_n, offsets = super().latents(block)
        generator = np.random.default_rng([self.seed, 7, block])
        row_m = np.flatnonzero(generator.random(len(value_BW)) < self.share)
        new_m = generator.integers(0, self.new_tags, len(row_m))
        value_BW[row_m] += self.unit_rows(8, self.new_tags)[new_m]
        row_n = np.concatenate([np.repeat(np.arange(len(value_BW)), np.diff(offsets)), row_m])
        tag_n = np.concatenate([tag_n, self.tags + new_m])
        offsets = offsets.copy()
        offsets[1:] += np.cumsum(np.bincount(row_m, minlength=len(value_BW))).astype(offsets.dtype)
        return value_BW, tag_n[np.argsort(row_n, kind="stable")], offsets


def planted_source(store: Path) -> dict[str, Any]:
    """What a store was made with.

    Raises:
        InputError: benchmarks.make_store has not made it.
    """
    try:
        made = json.loads((store / "manifest.json").read_text("utf-8"))["plan"]["source"]
    except (OSError, ValueError, KeyError):
        made = {}
    if made.pop("kind", "") != "planted":
        raise InputError(f"{store}: benchmarks.make_store has not made it; give --rows and --tags")
    return dict(made)


def write_later(store: Path, rows: int, new_tags: list[str], learned: Path, unseen: Path) -> None:
    """Write ``rows`` rows to learn from and as many to score on; no row of the store is among them.

    Args:
        new_tags: ``tag`` and a number, from the store's number of tags on.
    """
    made = planted_source(store)
    first = -(-made["rows"] // DRAW_ROWS) * DRAW_ROWS
    source = WithNewTags(**{**made, "rows": first + 2 * rows}, new_tags=len(new_tags))
    for start, path in ((first, learned), (first + rows, unseen)):
        pq.write_table(source.read(start, rows).table.drop_columns([SPLIT]), path)
