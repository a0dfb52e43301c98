"""One chunk of a source becomes one part file: read, decode, compute features, check, write.

A part is written under another name and renamed, so that a part that exists is whole: ingestion
that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from distributed.ingest.sources.base import (
    FEATURES,
    IMAGE,
    IMAGE_ID,
    SPLIT,
    TAGS,
    Chunk,
    Source,
    rejected,
)
from distributed.storage.files import READ_ERRORS, one_line, read_bytes, write_bytes
from drel_core.images.pictures import BadPicture, decode, difference_hash

IMAGE_HASH = "image_hash"


@dataclass(frozen=True)
class PartPlan:
    """Everything that decides what a part holds, besides the source.

    Attributes:
        folder: where parts go.
        chunk_rows: source rows of a part.
        lowercase: of tags.
        dtype: of features, float16 or float32.
        max_pixels: larger pictures are rejected.
    """

    folder: str
    chunk_rows: int
    lowercase: bool
    dtype: str
    max_pixels: int

    def part(self, chunk: int) -> str:
        return f"{self.folder}/chunk-{chunk:07d}.parquet"

    def rejects(self, chunk: int) -> str:
        return f"{self.folder}/chunk-{chunk:07d}.rejected.parquet"

    def codebook(self) -> str:
        return f"{self.folder}/codebook.npz"


@dataclass(frozen=True)
class Read:
    """A chunk before its features are computed: usable rows, decoded pictures, and what was rejected."""

    table: pa.Table
    pictures: list[Image.Image]
    rejected: list[pa.Table]


def read_chunk(source: Source, plan: PartPlan, chunk: int) -> Read:
    """Read and check everything but features that are yet to be computed."""
    start = chunk * plan.chunk_rows
    count = min(plan.chunk_rows, source.num_rows - start)
    piece: Chunk = source.read(start, count)
    table, out = piece.table, [piece.rejected]
    if plan.lowercase:
        table = _lowercase(table)
    table, tagless = _drop(
        table, pc.equal(pc.list_value_length(table.column(TAGS)), 0), source, "no tags"
    )
    out.append(tagless)
    if FEATURES in table.column_names:
        return Read(table, [], out)
    table, pictures, bad = _decode(table, plan.max_pixels)
    return Read(table, pictures, [*out, bad])


def _lowercase(table: pa.Table) -> pa.Table:
    tags = table.column(TAGS).combine_chunks()
    lower = pa.ListArray.from_arrays(tags.offsets, pc.utf8_lower(tags.values))
    return table.set_column(table.column_names.index(TAGS), TAGS, lower)


def _drop(table: pa.Table, bad: Any, source: Source, reason: str) -> tuple[pa.Table, pa.Table]:
    ids = table.filter(bad).column(IMAGE_ID).to_pylist()
    where = str(source.describe().get("input", ""))
    return table.filter(pc.invert(bad)), rejected([(i, where, reason) for i in ids])


def _decode(table: pa.Table, max_pixels: int) -> tuple[pa.Table, list[Image.Image], pa.Table]:
    ids = table.column(IMAGE_ID).to_pylist()
    held = IMAGE in table.column_names
    column = table.column(IMAGE if held else "path")

    def one(row: int) -> Image.Image | str:
        try:
            data = column[row].as_py() if held else read_bytes(column[row].as_py())
            return decode(data, max_pixels)
        except BadPicture as error:
            return str(error)
        except (*READ_ERRORS, MemoryError) as error:
            return f"cannot be read: {one_line(error)}"

    if held:
        results = [one(row) for row in range(len(ids))]
    else:  # waits for files, most of all on S3
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(one, range(len(ids))))
    good = [not isinstance(result, str) for result in results]
    bad = [
        (ids[row], "column image" if held else column[row].as_py(), str(result))
        for row, result in enumerate(results)
        if isinstance(result, str)
    ]
    pictures = [result for result in results if not isinstance(result, str)]
    keep = table.filter(pa.array(good, pa.bool_())).drop_columns([IMAGE if held else "path"])
    hashes = pa.array([difference_hash(picture) for picture in pictures], pa.uint64())
    return keep.append_column(IMAGE_HASH, hashes), pictures, rejected(bad)


def with_features(
    table: pa.Table, features_BD: np.ndarray, dtype: str
) -> tuple[pa.Table, pa.Table]:
    """Add computed features; rows whose features are not finite in ``dtype`` are rejected."""
    with np.errstate(over="ignore"):
        stored_BD = features_BD.astype(dtype)
    finite_B = np.isfinite(stored_BD).all(1)
    bad = [
        (image_id, "features", f"not finite as {dtype}")
        for image_id, fine in zip(table.column(IMAGE_ID).to_pylist(), finite_B, strict=True)
        if not fine
    ]
    if bad:
        stored_BD, table = stored_BD[finite_B], table.filter(pa.array(finite_B))
    dim = features_BD.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(stored_BD.reshape(-1)), dim)
    return table.append_column(FEATURES, column), rejected(bad)


def matrix(table: pa.Table) -> np.ndarray:
    """``[B, D]`` of a table that came with its features."""
    column = table.column(FEATURES).combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(table), column.type.list_size)


def write_part(
    plan: PartPlan, chunk: int, table: pa.Table, features_BD: np.ndarray, out: list[pa.Table]
) -> dict[str, int]:
    """Write a chunk's rejected rows, then its part; the part's name appears when it is whole."""
    if FEATURES in table.column_names:
        table = table.drop_columns([FEATURES])
    table, bad = with_features(table, features_BD, plan.dtype)
    gone = pa.concat_tables([*out, bad])
    names = [IMAGE_ID, FEATURES, TAGS, SPLIT]
    if IMAGE_HASH in table.column_names:
        names.append(IMAGE_HASH)
    _write(plan.rejects(chunk), gone)
    _write(plan.part(chunk), table.select(names))
    return {"chunk": chunk, "rows": len(table), "rejected": len(gone)}


def _write(path: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", write_page_checksum=True)
    write_bytes(path, buffer.getvalue())
