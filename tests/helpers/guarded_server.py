"""A scorer of pictures that asks for a token: the page, the token and the real data set are tried on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from distributed.bundles.locate import publish
from distributed.data.replay_buffer import RESERVOIR
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.server import Server, serving

TOKEN = "this-is-the-token-0123456789"
D = 1280  # what efficientnet-lite0 makes of a picture
NAMES = ("<b>x</b>", 'a "b" & <i>c', *(f"tag-{tag:02d}" for tag in range(10)))


def row(seed: int = 0) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(-3, 4, D).tolist()
    return found


@contextmanager
def guarded_server(versions: Path) -> Iterator[Server]:
    """v1, which is served, takes pictures and features and keeps two rows; v2 takes features alone."""
    write_drel(versions / "v1", dim=D, names=NAMES, decider=random_decider(len(NAMES)))
    write_drel(versions / "v2", dim=D, names=NAMES, seed=1, features={"kind": "lowlevel"})
    examples = {
        "image_id": ["row <i>0", "row <i>1"],
        "tags": [["tag-00"], ["<b>x</b>", "unseen"]],
        "features": [row(10), row(11)],
    }
    pq.write_table(pa.table(examples), versions / "v1" / RESERVOIR)
    publish(versions, "v1")
    pictures = versions / "pictures"
    pictures.mkdir()
    for name in ("row <i>0.png", "row <i>1.PNG", "of nobody.png"):
        Image.new("RGB", (300, 150), (200, 30, 30)).save(pictures / name)
    options = ("--backbone", "efficientnet-lite0", "--poll_seconds", "0.3", "--max_body_mib", "3")
    options += ("--pictures", str(pictures))
    with serving(versions, *options, token=TOKEN) as running:
        yield running
