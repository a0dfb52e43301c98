"""`jobs.ingest` on pictures against a plain loop over the same decoder and network.

    python -m benchmarks.ingest [--images 5000] [--precision bf16]

Makes JPEG pictures, then measures images/s of both in one run, on all cores: the loop before and after, in a
process of its own. The job's rate is steady state (from its first part to its last) and, beside it, over its
whole run, start of Ray included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from distributed.runtime.ray_session import MALLOC

PART = re.compile(r"part (\d+)/\d+\s+(\d+) rows\s+(\d+) rejected")
LOOP = """
import sys, time
import numpy as np, pyarrow.parquet as pq, torch
from drel_core.images.backbone import load_backbone
from drel_core.images.pictures import decode
path, precision, images = sys.argv[1], sys.argv[2], int(sys.argv[3])
backbone = load_backbone("efficientnet-lite0", precision=precision)
held = pq.read_table(path).column("image")[:images].to_pylist()
def batch(start):
    pixels = [backbone.preprocessing.pixels(decode(data)) for data in held[start : start + 16]]
    return backbone(np.stack(pixels))
batch(0)
start = time.perf_counter()
for at in range(0, len(held), 16):
    batch(at)
print(len(held) / (time.perf_counter() - start))
"""


def make_pictures(path: Path, images: int) -> None:
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(images):
        coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((480, 360), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        encoded.append(buffer.getvalue())
    ids = [f"i{number}" for number in range(images)]
    tags = [[f"t{number % 50}", "all"] for number in range(images)]
    table = pa.table({"image_id": ids, "image": encoded, "tags": tags})
    pq.write_table(table, path, row_group_size=512, compression="none")


def loop(path: Path, precision: str, images: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", LOOP, str(path), precision, str(images)],
        env=os.environ | MALLOC,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def job(path: Path, out: Path, precision: str) -> tuple[float, float]:
    """Images/s from the first part on, and over the whole command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jobs.ingest",
            "--source",
            "images",
            "--input",
            str(path),
            "--out",
            str(out),
            "--cnn.precision",
            precision,
            "--chunk_rows",
            "256",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen: list[tuple[float, int]] = []
    assert process.stdout is not None
    for line in process.stdout:
        if found := PART.search(line):
            seen.append((time.perf_counter(), int(found[2]) + int(found[3])))
    if process.wait():
        raise SystemExit("jobs.ingest failed")
    whole = time.perf_counter() - start
    (first, few), (last, all_) = seen[0], seen[-1]
    return (all_ - few) / (last - first), all_ / whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "pictures.parquet"
        make_pictures(path, args.images)
        before = loop(path, args.precision, 1500)
        steady, whole = job(path, folder / "store", args.precision)
        after = loop(path, args.precision, 1500)
        rows = json.loads((folder / "store" / "manifest.json").read_text("utf-8"))["rows"]
        assert rows["train"] == args.images
    bare = (before + after) / 2
    print(f"plain loop    {bare:8.0f} images/s ({before:.0f} before, {after:.0f} after)")
    print(f"jobs.ingest   {steady:8.0f} images/s  {steady / bare:.2f} of the loop")
    print(f"whole command {whole:8.0f} images/s  {whole / bare:.2f}, with the start of Ray")


if __name__ == "__main__":
    main()
