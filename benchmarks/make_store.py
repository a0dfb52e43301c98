"""A synthetic feature store of any size, with Zipf tags and a planted structure.

    python -m benchmarks.make_store --rows 1000000 --dim 256 --tags 100000 --out STORE

Each tag has a random direction. An image draws its tags from a Zipf law; its latent is the sum of their
directions plus Gaussian noise. With ``--structure linear`` the features are this latent.

With ``--structure nonlinear`` an image also has a topic. Most of its tags come from the topic's own share of
the vocabulary, so that tags go together; each image has one of a few styles, which shows the same latent in
its own way (``_Styles``), so that no one linear map turns features back; and of the labels a share is
missing, as people leave tags out.

The planted scorer knows latent, directions and frequencies: a tag's score is its log-odds if it were the
image's only tag. Its F1 on test rows is printed: the mark for a trained model, which sees features alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.data.row_hash import is_drawn
from distributed.ingest.run import StoreOptions, ingest
from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk_blockwise

_OF_TOPIC = 0.75  # share of an image's tags that its topic gives, with --structure nonlinear
_CENTRE = 3.0  # length of a style's centre, beside 1 of a tag
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
    structure: str = "linear"
    latent: int = 64
    missing: float = 0.2
    styles: int = 4
    own: float = 0.9

    @property
    def width(self) -> int:
        """Numbers of an image's latent."""
        return self.dim if self.structure == "linear" else self.latent

    @property
    def topics(self) -> int:
        return max(4, min(256, self.tags // 50))

    @property
    def num_rows(self) -> int:
        return self.rows

    def directions(self) -> np.ndarray:
        """float32 ``[T, width]`` of length 1."""
        return self.unit_rows(1, self.tags)

    def unit_rows(self, purpose: int, rows: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, purpose])
        value_nW = generator.standard_normal((rows, self.width), dtype=np.float32)
        return value_nW / np.linalg.norm(value_nW, axis=1, keepdims=True)

    def frequency(self) -> np.ndarray:
        """Probability of each tag; tag 0 is the most frequent."""
        weight = 1.0 / np.arange(2, self.tags + 2) ** self.zipf
        return weight / weight.sum()

    def read(self, start: int, rows: int) -> Chunk:
        first, stop = start // DRAW_ROWS, -(-min(start + rows, self.rows) // DRAW_ROWS)
        tables = [self._draw(block) for block in range(first, stop)]
        table = pa.concat_tables(tables).slice(start - first * DRAW_ROWS, rows)
        return Chunk(table.combine_chunks(), rejected([]))

    def latents(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a block of ``DRAW_ROWS`` rows: latents ``[B, width]``, and the labels as tags ``[n]`` with
        offsets ``[B + 1]``."""
        shared = _shared(self)
        count = min(DRAW_ROWS, self.rows - block * DRAW_ROWS)
        generator = np.random.default_rng([self.seed, 2, block])
        size_B = 1 + generator.poisson(self.per_image - 1, count)
        row_n = np.repeat(np.arange(count), size_B)
        draw_n = generator.random(len(row_n))
        tag_n = np.searchsorted(shared.edges, draw_n).clip(0, self.tags - 1)
        topic_B = None
        if shared.topics is not None:
            topic_B = generator.integers(0, self.topics, count)
            of_topic_n = generator.random(len(row_n)) < _OF_TOPIC
            tag_n = np.where(of_topic_n, shared.topics.tags(topic_B[row_n], draw_n), tag_n)
        row_n, tag_n, offsets = _once(row_n, tag_n, count, self.tags)
        value_BW = np.add.reduceat(shared.direction_TW[tag_n], offsets[:-1], axis=0)
        if shared.topics is not None and topic_B is not None:
            value_BW += shared.topics.direction_KW[topic_B]
        value_BW += (
            self.noise
            / np.sqrt(self.width)
            * generator.standard_normal(value_BW.shape, dtype=np.float32)
        )
        if self.structure == "nonlinear":
            # The first label of an image always stays, so that no image is without one.
            kept_n = generator.random(len(tag_n)) >= self.missing
            kept_n[offsets[:-1]] = True
            row_n, tag_n, offsets = _once(row_n[kept_n], tag_n[kept_n], count, self.tags)
        return value_BW, tag_n, offsets

    def _draw(self, block: int) -> pa.Table:
        value_BD, tag_n, offsets = self.latents(block)
        count = len(value_BD)
        styles = _shared(self).styles
        if styles is not None:
            style_B = np.random.default_rng([self.seed, 7, block]).integers(0, self.styles, count)
            value_BD = styles.features(value_BD, style_B)
        ids = np.char.add("i", (block * DRAW_ROWS + np.arange(count)).astype(str))
        test_B = is_drawn(ids.astype(object), self.test_share, "split", self.seed)
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


def _once(
    row_n: np.ndarray, tag_n: np.ndarray, count: int, tags: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each tag once an image: rows and tags in order, and the offsets of the rows."""
    row_n, tag_n = np.divmod(np.unique(row_n * tags + tag_n), tags)
    offsets = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.bincount(row_n, minlength=count), out=offsets[1:])
    return row_n, tag_n, offsets


class _Topics:
    """Each tag belongs to one topic, and in it is as frequent, beside its like, as over all images."""

    def __init__(self, source: Planted) -> None:
        generator = np.random.default_rng([source.seed, 3])
        topic_T = generator.integers(0, source.topics, source.tags)
        topic_T[: source.topics] = np.arange(source.topics)  # none is without a tag
        self.order_T = np.argsort(topic_T, kind="stable")
        self.edges_T = np.cumsum(source.frequency()[self.order_T])
        self.first_K = np.searchsorted(topic_T[self.order_T], np.arange(source.topics))
        self.last_K = np.append(self.first_K[1:], source.tags) - 1
        self.direction_KW = source.unit_rows(4, source.topics)

    def tags(self, topic_n: np.ndarray, draw_n: np.ndarray) -> np.ndarray:
        """A tag of each topic, from numbers in [0, 1)."""
        first_n, last_n = self.first_K[topic_n], self.last_K[topic_n]
        low_n = np.where(first_n > 0, self.edges_T[first_n - 1], 0.0)
        place_n = np.searchsorted(self.edges_T, low_n + draw_n * (self.edges_T[last_n] - low_n))
        return self.order_T[place_n.clip(first_n, last_n)]


class _Styles:
    """Features of a latent: a part that all images share, and one that follows the image's style.

    As a tag looks one way in photographs and another in drawings: each style turns the latent its own way,
    and has a centre of its own, by which it can be told. A linear map has to make do with one way for all.
    """

    def __init__(self, source: Planted) -> None:
        generator = np.random.default_rng([source.seed, 5])
        shape = (1 + source.styles, source.width, source.dim)
        turn_SWD = generator.standard_normal(shape, dtype=np.float32) / np.float32(
            np.sqrt(source.dim)
        )
        own = np.sqrt(source.own)
        self.turn_SWD = own * turn_SWD[1:] + np.sqrt(1 - source.own) * turn_SWD[0]
        centre_SD = generator.standard_normal((source.styles, source.dim), dtype=np.float32)
        self.centre_SD = _CENTRE * centre_SD / np.linalg.norm(centre_SD, axis=1, keepdims=True)

    def features(self, value_BW: np.ndarray, style_B: np.ndarray) -> np.ndarray:
        value_BD = self.centre_SD[style_B]
        for style, turn_WD in enumerate(self.turn_SWD):
            rows = style_B == style
            value_BD[rows] += value_BW[rows] @ turn_WD
        return value_BD


@dataclass(frozen=True)
class _Shared:
    direction_TW: np.ndarray
    edges: np.ndarray
    topics: _Topics | None
    styles: _Styles | None


_held: dict[Planted, _Shared] = {}  # a cached function would not reach Ray's workers


def _shared(source: Planted) -> _Shared:
    """What all rows of a source share, made once a process."""
    if source not in _held:
        nonlinear = source.structure == "nonlinear"
        _held[source] = _Shared(
            source.directions(),
            np.cumsum(source.frequency()),
            _Topics(source) if nonlinear else None,
            _Styles(source) if nonlinear else None,
        )
    return _held[source]


def planted_metrics(source: Planted, store: Path, rows: int, k: int = 5) -> dict[str, Any]:
    """Metrics of the planted scorer on the first ``rows`` test rows."""
    held, found = [], 0
    for file in sorted((store / "test").glob("*.parquet")):
        if found < rows:
            held.append(pq.read_table(file, columns=[IMAGE_ID, TAGS]))
            found += len(held[-1])
    table = pa.concat_tables(held).slice(0, rows).combine_chunks()
    row_B = np.array([int(name[1:]) for name in table.column(IMAGE_ID).to_pylist()])
    latent_of = lru_cache(maxsize=None)(lambda block: source.latents(block)[0])
    value_BW = torch.from_numpy(
        np.stack([latent_of(row // DRAW_ROWS)[row % DRAW_ROWS] for row in row_B.tolist()])
    )
    flat = table.column(TAGS).chunk(0)
    tag = np.array([int(name[3:]) for name in flat.flatten().to_pylist()], dtype=np.int64)
    offsets = flat.offsets.to_numpy().astype(np.int64)
    truth = TagLists(torch.from_numpy(tag), torch.from_numpy(offsets - offsets[0]))
    direction_TW = torch.from_numpy(source.directions())
    # The log-odds of a tag under the model: s = d.x / sigma^2 + log p, sigma^2 = noise^2 / width.
    prior_T = torch.from_numpy(np.log(source.frequency())).float() * (
        source.noise**2 / source.width
    )
    trained = pq.read_table(store / "vocabulary.parquet").column("tag").to_pylist()
    known_T = torch.zeros(source.tags, dtype=torch.bool)
    known_T[[int(name[3:]) for name in trained]] = True
    counts = MetricCounts(source.tags, k)
    for start in range(0, len(value_BW), 256):
        part = slice(start, start + 256)
        _, best_Bk = topk_blockwise(value_BW[part], direction_TW, k, prior_T)
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
    parser.add_argument("--structure", choices=("linear", "nonlinear"), default="linear")
    parser.add_argument("--latent", type=int, default=64, help="nonlinear: size of a latent")
    parser.add_argument(
        "--missing", type=float, default=0.2, help="nonlinear: share of labels that are left out"
    )
    parser.add_argument("--styles", type=int, default=4, help="nonlinear: number of styles")
    parser.add_argument(
        "--own",
        type=float,
        default=0.7,
        help="nonlinear: share of the features that follows the style",
    )
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
