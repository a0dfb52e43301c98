"""One chunk of a source becomes one part file: read, decode, compute features, check, write.

A part is written under another name and renamed, so that a part that exists is whole: ingestion
that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from distributed.data.canonical_tags import CanonicalTags
from distributed.data.feature_store import feature_matrix, one_chunk
from distributed.ingest.sources.base import (
    IMAGE,
    IMAGE_ID,
    SPLIT,
    TAGS,
    Chunk,
    Rejection,
    Source,
    rejected,
)
from distributed.storage.files import (
    READ_ERRORS,
    one_line,
    past_short_errors,
    read_bytes,
    resolve,
    write_bytes,
)
from distributed.storage.folder import Folder
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture, decode, difference_hash

Result = TypeVar("Result")
IMAGE_HASH = "image_hash"
CODEBOOK = "codebook.npz"
Values = dict[str, np.ndarray]
"""``[B, D]`` of each features column by its name, in their order."""
_WAITS = (0.2, 1.0, 3.0)  # seconds between attempts to read a picture
AGAIN = "the same command goes on from here"


@dataclass(frozen=True)
class PartPlan:
    """Everything that decides what a part holds, besides the source.

    Attributes:
        folder: where parts go, a path or an s3:// address.
        chunk_rows: source rows of a part.
        lowercase: of tags.
        dtype: of features, float16 or float32.
        max_pixels: larger pictures are rejected.
        rules: of tags; a row that loses all of them is rejected.
    """

    folder: str
    chunk_rows: int
    lowercase: bool
    dtype: str
    max_pixels: int
    rules: TagRules | None = None

    def part(self, chunk: int) -> str:
        return Folder(self.folder).file(part_name(chunk))

    def rejects(self, chunk: int) -> str:
        return Folder(self.folder).file(f"chunk-{chunk:07d}.rejected.parquet")

    def codebook(self) -> str:
        return Folder(self.folder).file(CODEBOOK)


def part_name(chunk: int) -> str:
    return f"chunk-{chunk:07d}.parquet"


def work_folder(target: Folder) -> Folder:
    """Where a store lies while it is written."""
    base, mark, options = target.address.partition("?")
    return Folder(f"{base}.partial{mark}{options}")


@dataclass(frozen=True)
class Read:
    """A chunk before its features are computed: usable rows, decoded pictures, and what was rejected."""

    table: pa.Table
    pictures: list[Image.Image]
    rejected: list[pa.Table]


def read_chunk(source: Source, plan: PartPlan, chunk: int) -> Read:
    """Read and check everything but features that are yet to be computed.

    Raises:
        InputError: the input is wrong as a whole, or a picture cannot be read at the moment.
    """
    start = chunk * plan.chunk_rows
    count = min(plan.chunk_rows, source.num_rows - start)
    piece: Chunk = past_short_errors(lambda: source.read(start, count))
    table, out = piece.table, [piece.rejected]
    if plan.lowercase:
        table = _lowercase(table)
    if plan.rules:
        table = _by_rules(table, plan.rules)
    table, tagless = _drop(
        table, pc.equal(pc.list_value_length(table.column(TAGS)), 0), source, "no tags"
    )
    out.append(tagless)
    if feature_names(table.schema):
        return Read(table, [], out)
    table, pictures, bad = _decode(table, plan.max_pixels)
    return Read(table, pictures, [*out, bad])


def _lowercase(table: pa.Table) -> pa.Table:
    tags = table.column(TAGS).combine_chunks()
    lower = pa.ListArray.from_arrays(tags.offsets, pc.utf8_lower(tags.values))
    return table.set_column(table.column_names.index(TAGS), TAGS, lower)


def _by_rules(table: pa.Table, rules: TagRules) -> pa.Table:
    # A tag that is split stays: training leaves such rows out, and without it they would say "no part".
    tags = CanonicalTags(rules, keep_split=True).lists(table.column(TAGS).combine_chunks())
    return table.set_column(table.column_names.index(TAGS), TAGS, tags)


def _drop(table: pa.Table, bad: Any, source: Source, reason: str) -> tuple[pa.Table, pa.Table]:
    ids = table.filter(bad).column(IMAGE_ID).to_pylist()
    where = str(source.describe().get("input", ""))
    return table.filter(pc.invert(bad)), rejected([(i, where, reason) for i in ids])


def _decode(table: pa.Table, max_pixels: int) -> tuple[pa.Table, list[Image.Image], pa.Table]:
    ids = table.column(IMAGE_ID).to_pylist()
    held = IMAGE in table.column_names
    column = table.column(IMAGE if held else "path")

    def one(row: int) -> Image.Image | str:
        """What only the bytes say is the picture's own fault; all else ends the run or is tried again."""
        where = f"image_id {ids[row]!r}" if held else column[row].as_py()
        try:
            return decode(column[row].as_py() if held else _read_picture(where), max_pixels)
        except BadPicture as error:
            return str(error)
        except (MemoryError, pa.ArrowMemoryError):
            raise InputError(
                f"{where}: not enough memory to decode it; use a smaller --chunk_rows or "
                f"--max_pixels; {AGAIN}"
            ) from None

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


def _read_picture(path: str) -> bytes:
    """Raises:
    InputError: it cannot be read, not now at least. That is no property of the picture.
    """
    try:
        return patiently(lambda: read_bytes(path))
    except READ_ERRORS as error:
        fault = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"{path}: cannot be read ({fault}); it was there when it was listed; {AGAIN}"
        ) from None


def patiently(read: Callable[[], Result]) -> Result:
    """What ``read`` gives, in some attempts. On S3 the SDK's own attempts do not cover all: a range that is
    shorter than the text of an error ends with the first one.

    Raises:
        OSError, ArrowException: what the last attempt raised.
    """
    for wait in _WAITS:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except READ_ERRORS:
            time.sleep(wait)
    return read()


def with_features(table: pa.Table, values: Values, dtype: str) -> tuple[pa.Table, pa.Table]:
    """Add computed features; rows whose features are not finite in ``dtype`` are rejected."""
    with np.errstate(over="ignore"):
        stored = {name: value_BD.astype(dtype) for name, value_BD in values.items()}
    ids = table.column(IMAGE_ID).to_pylist()
    bad: dict[int, Rejection] = {}
    for name, stored_BD in stored.items():
        for row in np.flatnonzero(~np.isfinite(stored_BD).all(1)).tolist():
            bad.setdefault(row, (ids[row], name, f"not finite as {dtype}"))
    keep_B = np.ones(len(table), dtype=bool)
    keep_B[list(bad)] = False
    table = table.filter(pa.array(keep_B)) if bad else table
    for name, stored_BD in stored.items():
        flat = pa.array((stored_BD[keep_B] if bad else stored_BD).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, stored_BD.shape[1])
        table = table.append_column(name, column)
    return table, rejected([bad[row] for row in sorted(bad)])


def feature_names(schema: pa.Schema) -> list[str]:
    """The features columns of a chunk or a part: those of lists of a fixed size."""
    return [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]


def values_of(table: pa.Table) -> Values:
    """The features that a table came with, by the names of their columns."""
    return {
        name: feature_matrix([one_chunk(table.column(name))])
        for name in feature_names(table.schema)
    }


def matrix(table: pa.Table) -> np.ndarray:
    """``[B, D]`` of a table that came with its features; of several columns one after another."""
    names = feature_names(table.schema)
    return feature_matrix([one_chunk(table.column(name)) for name in names])


def write_part(
    plan: PartPlan, chunk: int, table: pa.Table, values: Values, out: list[pa.Table]
) -> dict[str, int]:
    """Write a chunk's rejected rows, then its part; the part's name appears when it is whole."""
    table = table.drop_columns(feature_names(table.schema))
    table, bad = with_features(table, values, plan.dtype)
    gone = pa.concat_tables([*out, bad])
    names = [IMAGE_ID, *values, TAGS, SPLIT]
    if IMAGE_HASH in table.column_names:
        names.append(IMAGE_HASH)
    options = {"compression": "none", "write_page_checksum": True}
    write_table(plan.rejects(chunk), gone, **options)
    write_table(plan.part(chunk), table.select(names), **options)
    return {"chunk": chunk, "rows": len(table), "rejected": len(gone)}


def write_table(path: str, table: pa.Table, **options: Any) -> None:
    """A small Parquet file, there whole or not at all; ``options`` of ``pq.write_table``."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    write_bytes(path, buffer.getvalue())


def read_part(path: str, columns: list[str] | None = None) -> pa.Table:
    """A part, or the rejected rows of one."""
    filesystem, name = resolve(path)
    return patiently(lambda: pq.read_table(name, filesystem=filesystem, columns=columns))


def part_schema(path: str) -> pa.Schema:
    filesystem, name = resolve(path)
    return patiently(lambda: pq.read_schema(name, filesystem=filesystem))


def read_first_group(path: str, columns: list[str]) -> pa.Table:
    filesystem, name = resolve(path)
    return patiently(
        lambda: pq.ParquetFile(name, filesystem=filesystem).read_row_group(0, columns=columns)
    )
