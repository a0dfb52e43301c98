"""Where a report finds the pictures of its rows."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, RowGroupSlice
from distributed.reporting.pictures import Thumbnails, thumbnails
from distributed.reporting.shown_rows import read_rows
from drel_core.errors import InputError
from tests.helpers.pictures import encoded, picture_table
from tests.helpers.stores import planted_table


def store_of(folder: Path, ids: list[str], **columns: pa.Array) -> Path:
    """Features, and what else is given, in row groups of 4."""
    table = planted_table(len(ids)).set_column(0, "image_id", pa.array(ids))
    for name, values in columns.items():
        table = table.append_column(name, values)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part.parquet", row_group_size=4)
    return folder


def units_of(store: Path, rows: list[int]) -> list[RowGroupSlice]:
    return [
        RowGroupSlice(unit.path, unit.row_group, row - unit.file_row, 1, row)
        for unit in FeatureStore.open(str(store)).units
        for row in rows
        if unit.file_row <= row < unit.file_row + unit.rows
    ]


def find(store: Path, rows: list[int], pictures: Path | None = None) -> Thumbnails:
    units = units_of(store, rows)
    read = read_rows(units, Columns())
    return thumbnails(
        units, read, str(store), Columns(), None if pictures is None else str(pictures)
    )


def size_of(uri: str) -> tuple[int, int]:
    head, _, text = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text))).size


def test_rows_of_several_groups_are_read_as_they_stand(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [f"id {n}" for n in range(11)])
    read = read_rows(units_of(store, [9, 0, 3, 4]), Columns())
    table = planted_table(11)
    assert {row: (one.image_id, list(one.tags)) for (_, row), one in read.items()} == {
        row: (f"id {row}", table["tags"][row].as_py()) for row in (0, 3, 4, 9)
    }


def test_pictures_in_the_store_itself(tmp_path: Path) -> None:
    held = picture_table(9)["image"].combine_chunks()
    store = store_of(tmp_path / "store", [f"n{n}" for n in range(9)], image=held)
    found = find(store, [0, 5, 8])
    assert found.note == "" and {row for _, row in found.uri} == {0, 5, 8}
    assert all(size_of(uri) == (48, 40) for uri in found.uri.values())


def test_paths_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(["red"], 0))
    (tmp_path / "b.png").write_bytes(b"no picture")
    paths = pa.array([str(tmp_path / "a.png"), str(tmp_path / "b.png"), str(tmp_path / "c"), None])
    found = find(store_of(tmp_path / "store", list("abcd"), path=paths), [0, 1, 2, 3])
    assert {row for _, row in found.uri} == {0}
    assert found.note.startswith("3 of 4 pictures are not in column 'path' of")


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    """A report goes on without them: it neither fails nor waits for a pipe."""
    (tmp_path / "a.png").write_bytes(encoded(["red"], 0))
    os.mkfifo(tmp_path / "pipe")
    names = ["a.png", "pipe", ".", "x" * 5000]
    paths = [*(str(tmp_path / name) for name in names), "odd://x/y.png", "nul\0.png", "/dev/zero"]
    found = find(store_of(tmp_path / "store", list("abcdefg"), path=pa.array(paths)), [*range(7)])
    assert {row for _, row in found.uri} == {0} and found.note.startswith("6 of 7 pictures")


@pytest.mark.parametrize(
    "values",
    [
        pa.array([10**15, 2]),
        pa.array([[1], [2]]),
        pa.array([{"bytes": 10**15}] * 2),
        pa.array([{"path": "a.png"}] * 2),
    ],
)
def test_a_column_of_the_name_that_holds_no_pictures(tmp_path: Path, values: pa.Array) -> None:
    store = store_of(tmp_path / "store", ["a", "b"], image=values)
    found = find(store, [0, 1])
    assert found.uri == {} and "--pictures FOLDER" in found.note


def test_paths_of_every_type_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(["red"], 0))
    paths = pa.array([str(tmp_path / "a.png")] * 2)
    for name, kind in (("one", paths.dictionary_encode()), ("two", paths.cast(pa.string_view()))):
        assert len(find(store_of(tmp_path / name, ["a", "b"], image=kind), [0, 1]).uri) == 2


def test_a_folder_by_the_ids_whatever_the_suffix(tmp_path: Path) -> None:
    ids = ["cat", "dogs/big", "x.jpg", "odd", "gone"]
    pictures = tmp_path / "pictures"
    for name in ("cat.png", "dogs/big.jpg", "x.jpg", "deep/down/odd.bmp", "other.jpg"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "BMP" if name.endswith("bmp") else "PNG"
        (pictures / name).write_bytes(encoded(["red"], 0, kind))
    found = find(store_of(tmp_path / "store", ids), [0, 1, 2, 3, 4], pictures)
    assert {row for _, row in found.uri} == {0, 1, 2, 3}
    assert found.note.startswith("1 of 5 pictures")


def test_an_id_leads_nowhere_but_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(encoded(["red"], 0))
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(["blue"], 0))
    ids = ["../secret", "../secret.png", str(secret), "a/../../secret", "a\0b", "x" * 4000]
    found = find(store_of(tmp_path / "store", ids), [0, 1, 2, 3, 4, 5], tmp_path / "pictures")
    assert found.uri == {}


def test_a_store_of_pictures_by_the_ids(tmp_path: Path) -> None:
    held = picture_table(20)
    (tmp_path / "held").mkdir()
    pq.write_table(held, tmp_path / "held" / "part.parquet", row_group_size=6)
    ids = ["picture-17", "elsewhere", "picture-0"]
    found = find(store_of(tmp_path / "store", ids), [0, 1, 2], tmp_path / "held")
    assert {row for _, row in found.uri} == {0, 2}
    bare = store_of(tmp_path / "bare", ids)
    with pytest.raises(InputError, match="no column 'image' or 'path'"):
        find(bare, [0], bare)


def test_where_jobs_ingest_found_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store" / "test", ["a", "b"])
    pictures = tmp_path / "pictures"
    about = {"plan": {"source": {"kind": "images", "input": str(pictures)}}}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(about))
    found = find(store, [0, 1])
    assert found.uri == {} and "no such file or folder" in found.note
    assert "--pictures FOLDER says where they are now" in found.note
    pictures.mkdir()
    for name in "ab":
        (pictures / f"{name}.jpg").write_bytes(encoded(["red"], 0, "JPEG"))
    assert len(find(store, [0, 1]).uri) == 2


def test_without_any_it_says_how_to_give_them(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ["a", "b"])
    assert "--pictures FOLDER" in find(store, [0]).note
    with pytest.raises(InputError, match="give --pictures a folder of pictures"):
        find(store, [0], tmp_path / "none")
