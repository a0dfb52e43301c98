"""Jobs that read and write below a folder, local or on s3://, and their small inputs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from distributed.storage.folder import Folder
from tests.helpers.commands import SMALL
from tests.helpers.stores import planted_table

Command = tuple[str, list[str]]
SCRIPT = """
import importlib, json, sys
for verb, arguments in json.loads(sys.stdin.read()):
    importlib.import_module(f"jobs.{verb}").main(arguments)
"""
"""What runs the commands on its standard input, as JSON, one after another."""


def picture(number: int) -> bytes:
    """A PNG with corners in it, which descriptors need."""
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def write_sources(at: Folder) -> None:
    """Pictures with a tags file, one of them damaged, and a feature store."""
    lines = ["id,tags"]
    for number in range(20):
        at.write(f"pics/p{number:02d}.png", picture(number))
        lines.append(f"p{number:02d},{'even' if number % 2 == 0 else 'odd'};all")
    at.write("pics/p07.png", b"\x89PNG and no more")
    at.write("tags.csv", "\n".join(lines).encode())
    with at.writing("train.parquet") as path:
        pq.write_table(planted_table(200), path, row_group_size=64)


def ingest(at: Folder, *options: str) -> Command:
    arguments = ["--source", "images", "--input", at.file("pics"), "--tags", at.file("tags.csv")]
    shape = ["--separator", ";", "--chunk_rows", "4", "--split", "random:5"]
    features = ["--features", "cnn,lowlevel", "--lowlevel.words", "4"]
    return "ingest", [*arguments, *shape, *features, "--out", at.file("store"), *options]


def tune(at: Folder, space: Path) -> Command:
    arguments = ["--data.train", at.file("train.parquet"), "--out", at.file("search")]
    trials = ["--trials", "2", "--epochs", "2", "--grace", "2", "--space", str(space)]
    return "tune", [*arguments, *trials, "--checkpoint.every", "2", *SMALL]


def manifest(at: Folder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((at / "store").read("manifest.json") or b"")
    return found
