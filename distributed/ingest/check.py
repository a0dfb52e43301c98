"""What an ingestion would make of its input, told from a sample of it; nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingest.extraction.base import Extraction
from distributed.ingest.parts import PartPlan, Read, matrix, read_chunk
from distributed.ingest.sources.base import IMAGE_ID, SPLIT, TAGS, Source, by_reason
from drel_core.bundle.tag_rules import TagRules

_PLACES = 4
"""Where the sample is taken: evenly spread from the first rows to the last."""
_ROWS = 64
LOOK_ROWS = _PLACES * _ROWS
"""Most rows that are read for a look."""
_EXAMPLES = 5


def look(
    source: Source,
    extraction: Extraction | None,
    *,
    lowercase: bool,
    dtype: str,
    max_pixels: int,
    rules: TagRules | None = None,
) -> list[str]:
    """Lines that say what was understood: rows, columns, features, tags, what would be rejected and why.

    Args:
        extraction: how pictures become features; None where the source has features.
        lowercase, dtype, max_pixels, rules: as for the ingestion itself.

    Raises:
        InputError: the input as a whole is wrong.
    """
    with tempfile.TemporaryDirectory() as nowhere:  # a plan has a folder; no part is written
        plan = PartPlan(nowhere, _ROWS, lowercase, dtype, max_pixels, rules)
        chunks = -(-source.num_rows // _ROWS)
        places = np.unique(np.linspace(0, max(chunks - 1, 0), _PLACES).astype(int)).tolist()
        sample = [read_chunk(source, plan, chunk) for chunk in places if chunk < chunks]
    tables = [read.table.select([IMAGE_ID, TAGS, SPLIT]) for read in sample]
    gone = pa.concat_tables([part for read in sample for part in read.rejected])
    good = sum(map(len, tables))
    lines = [*_described(source.describe())]
    lines.append(
        f"rows      {source.num_rows}; read for this look: {good + len(gone)}, of them usable: {good}"
    )
    if good:
        rows = pa.concat_tables(tables)
        lines += [_features(sample, extraction, dtype, source.num_rows), *_split(rows)]
        lines += _tags(rows)
    return [*lines, *_rejected(gone)]


def _described(about: dict[str, Any]) -> list[str]:
    """A source's own words of itself, an option a line; empty ones are left out."""
    options = about.get("options")
    flat = {**about, **(options if isinstance(options, dict) else {})}
    shown = {
        name: value
        for name, value in flat.items()
        if value not in ("", None, [], {}) and not isinstance(value, dict)
    }
    kind = shown.pop("kind", "")
    head = f"source    {kind}: {shown.pop('input', '')}"
    return [head, *(f"  {name} = {value}" for name, value in shown.items() if name != "seed")]


def _features(sample: Sequence[Read], extraction: Extraction | None, dtype: str, rows: int) -> str:
    if extraction is not None:
        pictures = [picture for read in sample for picture in read.pictures]
        sides = np.array([picture.size for picture in pictures])
        low, high = sides.min(0), sides.max(0)
        about = extraction.describe()
        each = about.get("columns") or {"": about}
        kinds = [f"{one['kind']} {one.get('name', '')}".rstrip() for one in each.values()]
        return (
            f"features  {' and '.join(kinds)}, of pictures of {low[0]} x {low[1]} to {high[0]} x {high[1]} "
            "pixels"
        )
    value_BD = np.concatenate([matrix(read.table) for read in sample if len(read.table)])
    dim = value_BD.shape[1]
    constant = int((value_BD == value_BD[0]).all(0).sum()) if len(value_BD) > 1 else 0
    mib = rows * dim * np.dtype(dtype).itemsize / 2**20
    return (
        f"features  D = {dim}, from {value_BD.min():.4g} to {value_BD.max():.4g}; {constant} are the same in "
        f"all of these rows; about {mib:,.0f} MiB in a store of {dtype}"
    )


def _split(rows: pa.Table) -> list[str]:
    counted = pc.value_counts(rows.column(SPLIT).combine_chunks()).to_pylist()
    said = {entry["values"]: entry["counts"] for entry in counted}
    if set(said) <= {None}:
        return ["split     the input names no test part; --split random:N makes one"]
    parts = ", ".join(f"{name or 'not said'} {count}" for name, count in said.items())
    return [f"split     {parts}"]


def _tags(rows: pa.Table) -> list[str]:
    tags = rows.column(TAGS).combine_chunks()
    value = tags.flatten()
    counted = sorted(
        pc.value_counts(value).to_pylist(), key=lambda entry: (-entry["counts"], entry["values"])
    )
    most = ", ".join(f"{entry['values']!r} ({entry['counts']})" for entry in counted[:10])
    lines = [
        f"tags      {len(counted)} different ones, {len(value) / len(rows):.1f} an image; most often: {most}"
    ]
    places = np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).astype(int))
    for row in places.tolist():
        lines.append(f"  image {rows.column(IMAGE_ID)[row].as_py()!r}: {tags[row].as_py()}")
    return lines


def _rejected(gone: pa.Table) -> list[str]:
    if not len(gone):
        return ["rejected  none of these rows"]
    lines = [f"rejected  {len(gone)} of these rows:"]
    for count, first in by_reason(gone):
        name = f"image {first['image_id']!r}, " if first["image_id"] else ""
        lines.append(f"  {count} x {first['reason']} ({name}{first['where']})")
    return lines
