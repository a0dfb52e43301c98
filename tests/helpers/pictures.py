"""Small pictures whose tags can be seen, and a network small enough to learn them in a test."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240,) * 3}


def encoded(colours: list[str], seed: int, kind: str = "PNG") -> bytes:
    """48 x 40 pixels: stripes of the colours, and noise."""
    generator = np.random.default_rng(seed)
    stripe = [np.array(COLOURS[c]) for c in colours]
    picture = np.stack([stripe[x * len(stripe) // 48] for x in range(48)])[None].repeat(40, 0)
    noisy = picture + generator.normal(0, 12, picture.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def picture_table(rows: int, first: int = 0) -> pa.Table:
    """One or two of four colours each; their names are the tags."""
    generator = np.random.default_rng(first)
    names = sorted(COLOURS)
    tags = [
        sorted(generator.choice(names, size=1 + row % 2, replace=False).tolist())
        for row in range(rows)
    ]
    return pa.table(
        {
            "image_id": [f"picture-{first + row}" for row in range(rows)],
            "image": pa.array([encoded(t, first + row) for row, t in enumerate(tags)], pa.binary()),
            "tags": tags,
        }
    )


def write_pictures(path: Path, rows: int, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(picture_table(rows, first), path, row_group_size=32)
    return path


def tiny_network(path: Path) -> str:
    """A network of some hundred weights, as ``file:PATH``."""
    torch.manual_seed(7)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
    )
    torch.jit.script(layers).save(str(path))
    return f"file:{path}"
