"""Small feature stores that can be learnt: tags follow from planted directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def planted_table(
    rows: int,
    dim: int = 16,
    tags: int = 12,
    seed: int = 0,
    first: int = 0,
    each: int = 0,
    skewed: bool = False,
) -> pa.Table:
    """Each image is the sum of its tags' directions and a little noise; 1 to 3 tags, or ``each``.

    Args:
        skewed: the tag of rank r is drawn as often as 1 / r says, so that popularity is a floor.
    """
    generator = np.random.default_rng(seed)
    direction = np.random.default_rng(12345).normal(size=(tags, dim))
    chance_T = 1 / np.arange(1, tags + 1)
    odds = chance_T / chance_T.sum() if skewed else None
    chosen = [
        np.sort(generator.choice(tags, size=each or 1 + i % 3, replace=False, p=odds))
        for i in range(rows)
    ]
    features = np.stack([direction[c].sum(0) for c in chosen])
    features = (features + 0.1 * generator.normal(size=features.shape)).astype(np.float32)
    return pa.table(
        {
            "image_id": pa.array([f"image-{first + i}" for i in range(rows)]),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), dim),
            "tags": pa.array([[f"tag-{t:02d}" for t in c] for c in chosen]),
        }
    )


def write_planted(path: Path, rows: int, row_group: int = 64, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(planted_table(rows, **options), path, row_group_size=row_group)
    return path


def write_numbered(path: Path, rows: int, row_group: int = 16) -> Path:
    """A planted store whose first feature numbers the row."""
    table = planted_table(rows)
    features = np.stack(table.column("features").to_numpy(zero_copy_only=False))
    features[:, 0] = np.arange(rows)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    pq.write_table(table.set_column(1, "features", flat), path, row_group_size=row_group)
    return path
