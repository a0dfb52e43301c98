"""A synthetic feature store of any size, with Zipf tags and a planted structure.

    python -m benchmarks.make_store --rows 1000000 --dim 256 --tags 100000 --out STORE

Each tag has a random direction. An image draws its tags from a Zipf law; its features are the sum of their
directions plus Gaussian noise. The planted scorer knows the directions and frequencies: a tag's score is its
log-odds if it were the image's only tag. Its F1 on test rows is printed: the mark for a trained model.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.data.check_rows import hash_ids
from distributed.ingest.run import StoreOptions, ingest
from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk_blockwise

DRAW_ROWS = 512  # rows of a generator: what a row holds does not depend on how a source is cut


@dataclass(frozen=True)
class Planted:
    """A source of ``rows`` images; any range of them comes from the seed alone."""

    rows: int
    dim: int
    tags: int
    per_image: float
    noise: float
    zipf: float
    test_share: float
    seed: int

    @property
    def num_rows(self) -> int:
        return self.rows

    def directions(self) -> np.ndarray:
        """float32 ``[T, D]`` of length 1."""
        generator = np.random.default_rng([self.seed, 1])
        value_TD = generator.standard_normal((self.tags, self.dim), dtype=np.float32)
        return value_TD / np.linalg.norm(value_TD, axis=1, keepdims=True)

    def frequency(self) -> np.ndarray:
        """Probability of each tag; tag 0 is the most frequent."""
        weight = 1.0 / np.arange(2, self.tags + 2) ** self.zipf
        return weight / weight.sum()

    def read(self, start: int, rows: int) -> Chunk:
        first, stop = start // DRAW_ROWS, -(-min(start + rows, self.rows) // DRAW_ROWS)
        direction_TD, edges = _shared(self)
        tables = [self._draw(block, direction_TD, edges) for block in range(first, stop)]
        table = pa.concat_tables(tables).slice(start - first * DRAW_ROWS, rows)
        return Chunk(table.combine_chunks(), rejected([]))

    def _draw(self, block: int, direction_TD: np.ndarray, edges: np.ndarray) -> pa.Table:
        count = min(DRAW_ROWS, self.rows - block * DRAW_ROWS)
        generator = np.random.default_rng([self.seed, 2, block])
        size_B = 1 + generator.poisson(self.per_image - 1, count)
        row_n = np.repeat(np.arange(count), size_B)
        tag_n = np.searchsorted(edges, generator.random(len(row_n))).clip(0, self.tags - 1)
        key = np.unique(row_n * self.tags + tag_n)  # a tag once an image
        row_n, tag_n = np.divmod(key, self.tags)
        offsets = np.zeros(count + 1, dtype=np.int32)
        np.cumsum(np.bincount(row_n, minlength=count), out=offsets[1:])
        value_BD = np.add.reduceat(direction_TD[tag_n], offsets[:-1], axis=0)
        value_BD += (
            self.noise
            / np.sqrt(self.dim)
            * generator.standard_normal(value_BD.shape, dtype=np.float32)
        )
        ids = np.char.add("i", (block * DRAW_ROWS + np.arange(count)).astype(str))
        test_B = hash_ids(ids.astype(object), self.seed + 1) / 2.0**64 < self.test_share
        names = np.char.add("tag", tag_n.astype(str))
        return pa.table(
            {
                IMAGE_ID: pa.array(ids.tolist(), pa.string()),
                FEATURES: pa.FixedSizeListArray.from_arrays(
                    pa.array(value_BD.reshape(-1)), self.dim
                ),
                TAGS: pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(names.tolist(), pa.string())
                ),
                SPLIT: pa.array(np.where(test_B, "test", "train").tolist(), pa.string()),
            }
        )

    def describe(self) -> dict[str, Any]:
        return {"kind": "planted", **{k: getattr(self, k) for k in self.__dataclass_fields__}}


_held: dict[Planted, tuple[np.ndarray, np.ndarray]] = {}


def _shared(source: Planted) -> tuple[np.ndarray, np.ndarray]:
    """Directions and cumulative frequencies, made once a process."""
    if source not in _held:
        _held[source] = (source.directions(), np.cumsum(source.frequency()))
    return _held[source]


def planted_metrics(source: Planted, store: Path, rows: int, k: int = 5) -> dict[str, Any]:
    """Metrics of the planted scorer on the first ``rows`` test rows."""
    held: list[pa.Table] = []
    for file in sorted((store / "test").glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=[FEATURES, TAGS]):
            if sum(len(table) for table in held) < rows:
                held.append(pa.Table.from_batches([batch]))
    table = pa.concat_tables(held).slice(0, rows).combine_chunks()
    value_BD = torch.from_numpy(
        table.column(FEATURES).chunk(0).flatten().to_numpy().reshape(len(table), -1).copy()
    ).float()
    flat = table.column(TAGS).chunk(0)
    tag = np.array([int(name[3:]) for name in flat.flatten().to_pylist()], dtype=np.int64)
    offsets = flat.offsets.to_numpy().astype(np.int64)
    truth = TagLists(torch.from_numpy(tag), torch.from_numpy(offsets - offsets[0]))
    direction_TD = torch.from_numpy(source.directions())
    # The log-odds of a tag under the model: s = d.x / sigma^2 + log p, sigma^2 = noise^2 / D.
    prior_T = torch.from_numpy(np.log(source.frequency())).float() * (source.noise**2 / source.dim)
    trained = pq.read_table(store / "vocabulary.parquet").column("tag").to_pylist()
    known_T = torch.zeros(source.tags, dtype=torch.bool)
    known_T[[int(name[3:]) for name in trained]] = True
    counts = MetricCounts(source.tags, k)
    for start in range(0, len(value_BD), 256):
        part = slice(start, start + 256)
        _, best_Bk = topk_blockwise(value_BD[part], direction_TD, k, prior_T)
        counts.update_topk(best_Bk, truth[part])
    return counts.result(known_T)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--tags", type=int, default=100_000)
    parser.add_argument("--per_image", type=float, default=3.0, help="mean number of tags")
    parser.add_argument(
        "--noise", type=float, default=1.0, help="length of the noise, beside 1 of a tag"
    )
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--test_share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    args = vars(parser.parse_args())
    out, dtype = args.pop("out"), args.pop("dtype")
    source = Planted(**args)
    options = StoreOptions(dtype=dtype, chunk_rows=4096)
    manifest = ingest(source, None, options, out, log=lambda line: print(line, flush=True))
    print(f"{manifest['rows']}, D = {manifest['D']}, {manifest['T']} tags in training")
    metrics = planted_metrics(source, Path(out), 10_000)
    print(
        "planted scorer (up to 10,000 test rows): "
        + json.dumps({k: metrics[k] for k in ("mP", "mR", "F1", "N+", "oF1")})
    )


if __name__ == "__main__":
    main()
