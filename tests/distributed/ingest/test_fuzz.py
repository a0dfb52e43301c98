"""Inputs that nobody thought of: each is read right, or refused in one line; nothing else happens.

Hypothesis makes files of every kind that ingestion takes. What reading says is compared with what was written
where that is known, else it must end well or in an ``InputError`` (a picture: ``BadPicture``).
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distributed.ingest.sources.pictures import PictureOptions, open_pictures
from distributed.ingest.sources.table import TableOptions, TableSource
from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture, decode

BOUNDED = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
# Surrogates cannot be encoded; NUL and line breaks within a cell are tried on their own.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
WORD = st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=8)


def outcome(read: Callable[[], Any]) -> Any:
    """What was read, or None where it was refused; a refusal is one line that says something."""
    try:
        return read()
    except InputError as error:
        assert str(error).strip()
        return None


def read_table(file: Path, **options: Any) -> dict[str, list[str]] | None:
    """Tags by id of a table with features, as they would be ingested."""

    def read() -> dict[str, list[str]]:
        source = TableSource.open(str(file), TableOptions(**options))
        chunk = source.read(0, source.num_rows)
        assert len(chunk.table) + len(chunk.rejected) >= source.num_rows or source.num_rows == 0
        ids, tags = (chunk.table.column(name).to_pylist() for name in ("image_id", "tags"))
        return dict(zip(ids, tags, strict=True))

    found: dict[str, list[str]] | None = outcome(read)
    return found


def with_features(folder: Path, rows: int) -> str:
    file = folder / "f.npy"
    np.save(file, np.arange(rows * 3, dtype=np.float32).reshape(rows, 3))
    return str(file)


def normal(tags: list[str]) -> list[str]:
    """Tags as every way in leaves them, without repeats."""
    clean = (unicodedata.normalize("NFC", tag).strip() for tag in tags)
    return list(dict.fromkeys(tag for tag in clean if tag))


@BOUNDED
@given(
    tags=st.lists(st.lists(WORD, max_size=4), min_size=1, max_size=6),
    separator=st.sampled_from([";", "|", ",", " / "]),
    comma=st.sampled_from([",", "\t"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    mark=st.booleans(),
    last=st.booleans(),
)
def test_a_csv_in_any_dialect_gives_the_tags_that_were_written(
    tags: list[list[str]],
    separator: str,
    comma: str,
    end: str,
    quoting: Any,
    mark: bool,
    last: bool,
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=comma, lineterminator=end, quoting=quoting)
    writer.writerow(["image_id", "tags"])
    for row, names in enumerate(tags):
        writer.writerow([f"i{row}", separator.join(names)])
    text = buffer.getvalue() if last else buffer.getvalue().removesuffix(end)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("t.tsv" if comma == "\t" else "t.csv")
        file.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
        found = read_table(
            file, features_file=with_features(Path(folder), len(tags)), separator=separator
        )
    assert found is not None
    for row, names in enumerate(tags):
        assert sorted(set(found.get(f"i{row}", []))) == sorted(normal(names))  # without: rejected


@BOUNDED
@given(
    head=st.lists(TEXT, max_size=3),
    rows=st.lists(st.lists(TEXT, max_size=4), max_size=4),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32", "cp1252"]),
    tail=st.binary(max_size=20),
    kind=st.sampled_from([".csv", ".tsv", ".csv.gz", ".jsonl", ".parquet", ".txt", ""]),
)
def test_any_text_as_a_table_is_read_or_refused(
    head: list[str], rows: list[list[str]], codec: str, tail: bytes, kind: str
) -> None:
    lines = [",".join(["image_id", "tags", *head]), *(",".join(row) for row in rows)]
    data = "\n".join(lines).encode(codec, "replace") + tail
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"t{kind}"
        file.write_bytes(data)
        read_table(file, features_file=with_features(Path(folder), len(rows)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@BOUNDED
@given(
    values=st.lists(st.tuples(JSON, JSON), min_size=1, max_size=5),
    blank=st.sampled_from(["", "\n", " "]),
)
def test_any_json_lines_are_read_or_refused(values: list[tuple[Any, Any]], blank: str) -> None:
    lines = [json.dumps({"image_id": key, "tags": tags}) for key, tags in values]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.jsonl"
        file.write_text("\n".join([*lines, blank]), encoding="utf-8")
        read_table(file, features_file=with_features(Path(folder), len(values)))


SCALARS = st.sampled_from(
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.int8(),
        pa.int64(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.null(),
        pa.date32(),
        pa.timestamp("us", tz="UTC"),
        pa.decimal128(30, 2),
        pa.dictionary(pa.int8(), pa.string()),
    ]
)
KINDS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 3)),
        inner.map(lambda kind: pa.struct([("bytes", kind), ("path", pa.string())])),
    ),
    max_leaves=3,
)


def some(kind: pa.DataType, rows: int, seed: int) -> pa.Array:
    """Rows of a type, a null among them here and there."""
    generator = np.random.default_rng(seed)
    empty = generator.random(rows) < 0.2
    if pa.types.is_null(kind):
        return pa.nulls(rows)
    if pa.types.is_struct(kind):
        parts = [some(kind.field(at).type, rows, seed + 1 + at) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays(
            parts, [kind.field(at).name for at in range(kind.num_fields)]
        )
    if pa.types.is_fixed_size_list(kind):
        inner = some(kind.value_type, rows * kind.list_size, seed + 1)
        return pa.FixedSizeListArray.from_arrays(inner, kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = np.concatenate([[0], generator.integers(0, 3, rows).cumsum()])
        inner = some(kind.value_type, int(offsets[-1]), seed + 1)
        maker = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        width = np.int32 if pa.types.is_list(kind) else np.int64
        return maker.from_arrays(pa.array(offsets.astype(width)), inner)
    if pa.types.is_dictionary(kind):
        return pa.array([f"w{at % 4}" for at in range(rows)], mask=empty).dictionary_encode()
    if pa.types.is_boolean(kind):
        return pa.array(generator.random(rows) < 0.5, mask=empty)
    if kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary()):
        return pa.array([f"w{at % 4}" for at in range(rows)], pa.string(), mask=empty).cast(kind)
    number = pa.array(generator.integers(0, 9, rows), mask=empty)
    return number.cast(pa.int32()).cast(kind) if pa.types.is_date32(kind) else number.cast(kind)


@settings(BOUNDED, max_examples=150)
@given(
    key=SCALARS,
    tags=KINDS,
    features=KINDS,
    rows=st.integers(0, 5),
    seed=st.integers(0, 99),
    where=st.sampled_from(["table", "images"]),
)
def test_parquet_of_any_types_is_read_or_refused(
    key: pa.DataType, tags: pa.DataType, features: pa.DataType, rows: int, seed: int, where: str
) -> None:
    last = "features" if where == "table" else "image"
    columns = {
        "image_id": some(key, rows, seed),
        "tags": some(tags, rows, seed + 50),
        last: some(features, rows, seed + 70),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.parquet"
        try:
            pq.write_table(pa.table(columns), file)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            return  # no Parquet has such a column
        if where == "table":
            read_table(file)
            return

        def read() -> None:
            source = open_pictures(str(file), PictureOptions())
            chunk = source.read(0, source.num_rows)
            assert chunk.table.schema.field("tags").type == pa.list_(pa.string())

        outcome(read)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@settings(BOUNDED, max_examples=300)
@given(
    kind=st.sampled_from(sorted(PICTURES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    keep=st.floats(0.05, 1),
)
def test_a_damaged_picture_is_decoded_or_bad(
    kind: str, changes: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(PICTURES[kind])
    for place, value in changes:  # most of them in the header
        data[int(place**3 * (len(data) - 1))] = value
    try:
        picture = decode(bytes(data[: max(1, int(keep * len(data)))]), max_pixels=10_000)
    except BadPicture as error:
        assert str(error)
        return
    assert picture.mode == "RGB" and picture.width * picture.height <= 10_000


@BOUNDED
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    keep=st.floats(0.05, 1),
    kind=st.sampled_from([".npy", ".npz"]),
    dtype=st.sampled_from(["f4", "f8", "f2", "i8", ">f4", "c8", "U3", "O", "b1"]),
    shape=st.sampled_from([(2, 3), (2,), (3, 2), (2, 3, 1), (0, 3), (2, 0), ()]),
)
def test_a_damaged_array_file_is_read_or_refused(
    changes: list[tuple[float, int]], keep: float, kind: str, dtype: str, shape: tuple[int, ...]
) -> None:
    buffer = io.BytesIO()
    value = np.zeros(shape, dtype)
    if kind == ".npy":
        np.save(buffer, value, allow_pickle=True)
    else:
        np.savez(buffer, x=value)
    data = bytearray(buffer.getvalue())
    for place, byte in changes:
        data[int(place**3 * (len(data) - 1))] = byte
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"f{kind}"
        file.write_bytes(bytes(data[: max(1, int(keep * len(data)))]))
        table = Path(folder) / "t.csv"
        table.write_text("image_id,tags\na,cat\nb,dog\n")
        found = read_table(table, features_file=str(file))
        if found is not None:
            assert set(found) <= {"a", "b"}


@pytest.mark.parametrize("cell", ["a\x00b", "a\nb", '"', "=1+1", "\ufeff", "\u200b", "\ud7ff"])
def test_odd_cells_stay_what_they_are_or_go(cell: str, tmp_path: Path) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([["image_id", "tags"], ["1", f"cat;{cell}"], ["2", "dog;sky"]])
    (tmp_path / "t.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")
    found = read_table(tmp_path / "t.csv", features_file=with_features(tmp_path, 2), separator=";")
    if found is not None:
        assert found["2"] == ["dog", "sky"]
        assert "cat" in found["1"] and set(found["1"]) <= {"cat", *normal([cell]), cell}
