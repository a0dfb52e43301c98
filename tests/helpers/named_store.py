"""A store in which names of tags tell what their images look like, and a table of their text vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM, TEXT = 16, 6
TAGS, UNSEEN = 40, 4


@dataclass(frozen=True)
class NamedStore:
    """Files, and the tags that no image of ``train`` has.

    Attributes:
        train, test: stores; some images of ``test`` and all of ``later`` have unseen tags.
        vectors: a table of names and text vectors, of all tags.
    """

    train: Path
    later: Path
    test: Path
    vectors: Path
    unseen: tuple[str, ...]


def write_named(folder: Path, rows: int = 400) -> NamedStore:
    """Two tags an image; an image is the sum of what its tags look like, which their vectors say."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = [f"name {tag:02d}x" for tag in range(TAGS)]
    vector = random.normal(size=(TAGS, TEXT)).astype(np.float32)
    looks = (vector / np.linalg.norm(vector, axis=1, keepdims=True)) @ random.normal(
        size=(TEXT, DIM)
    )
    pq.write_table(
        pa.table({"name": names, "vector": pa.array(list(vector), pa.list_(pa.float32()))}),
        folder / "vectors.parquet",
    )

    def write(name: str, first: int, low: int, high: int) -> Path:
        tag_N2 = np.stack(
            [random.integers(low, high, rows), random.integers(0, TAGS - UNSEEN, rows)], 1
        )
        features = looks[tag_N2].sum(1) + 0.1 * random.normal(size=(rows, DIM))
        table = pa.table(
            {
                "image_id": [f"{first + row}" for row in range(rows)],
                "features": pa.array(
                    list(features.astype(np.float32)), pa.list_(pa.float32(), DIM)
                ),
                "tags": [sorted({names[tag] for tag in pair}) for pair in tag_N2],
            }
        )
        pq.write_table(table, folder / f"{name}.parquet")
        return folder / f"{name}.parquet"

    known = TAGS - UNSEEN
    return NamedStore(
        write("train", 0, 0, known),
        write("later", rows, known, TAGS),
        write("test", 2 * rows, 0, TAGS),
        folder / "vectors.parquet",
        tuple(names[known:]),
    )
