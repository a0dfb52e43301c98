"""A store with other tags: all else in it is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.columns import Columns
from distributed.data.edited_tags import Assigned
from distributed.ingest import edit_store as module
from distributed.ingest.edit_store import StoreEdits, dry_edit, edit_store
from drel_core.errors import InputError
from tests.helpers.stores import planted_table

MERGED = {"tag-00": ("tag-01",), "tag-02": ()}
ABOUT = {"merge": 1}


def becomes(tag: str) -> tuple[str, ...]:
    return MERGED.get(tag, (tag,))


EDITS = StoreEdits(becomes)


def write(path: Path, rows: int, first: int = 0) -> pa.Table:
    """With columns and types that this project does not know of."""
    table = planted_table(rows, first=first)
    nan = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)  # bits of NaNs stay
    more = {
        "odd": pa.array(np.tile(nan, rows)[:rows]),
        "colour": pa.array(["red", None] * rows)[:rows].dictionary_encode(),
        "taken": pa.array(range(rows), pa.timestamp("us", "UTC")),
    }
    for name, values in more.items():
        table = table.append_column(name, values)
    table = table.replace_schema_metadata({"made by": "somebody"})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=64, compression="zstd")
    return pq.ParquetFile(path).read()


def test_tags_are_others_and_all_else_is_as_it_was(tmp_path: Path) -> None:
    before = {
        name: write(tmp_path / "store" / name, 150, i * 1000)
        for i, name in enumerate(("a.parquet", "year=1999/b.parquet"))
    }
    found = edit_store(
        str(tmp_path / "store"), Columns(), EDITS, str(tmp_path / "new"), ABOUT, print
    )
    dry = dry_edit(str(tmp_path / "store"), Columns(), EDITS)
    assert (found.images, found.changed, found.bare) == (dry.images, dry.changed, dry.bare)
    assert found.images == 300 and 0 < found.bare < found.changed < 300
    for name, old in before.items():
        file = pq.ParquetFile(tmp_path / "new" / name)
        new, one = file.read(), file.metadata.row_group(0)
        assert [file.metadata.row_group(i).num_rows for i in range(3)] == [64, 64, 22]
        assert {one.column(i).compression for i in range(one.num_columns)} == {"ZSTD"}
        assert new.schema.equals(old.schema, check_metadata=True)
        for column in set(old.column_names) - {"tags"}:
            assert new.column(column).equals(old.column(column)) or column == "odd"
        odd = [table.column("odd").to_numpy().view(np.uint32) for table in (old, new)]
        np.testing.assert_array_equal(*odd)
        wanted = [
            list(dict.fromkeys(n for tag in tags for n in becomes(tag)))
            for tags in old.column("tags").to_pylist()
        ]
        assert new.column("tags").to_pylist() == wanted


def test_a_split_tag_goes_to_the_images_that_are_named(tmp_path: Path) -> None:
    table = write(tmp_path / "a.parquet", 90)
    carry = [i for i, tags in enumerate(table.column("tags").to_pylist()) if "tag-05" in tags]
    ids = pa.array([f"image-{i}" for i in carry[:-2]])
    parts = Assigned.of(ids, ["one", "other"] * len(ids))  # more parts than ids are not read
    edits = StoreEdits(lambda tag: (tag,), [("tag-05", parts)])
    found = edit_store(
        str(tmp_path / "a.parquet"), Columns(), edits, str(tmp_path / "new"), ABOUT, print
    )
    assert (found.changed, found.unassigned) == (len(carry) - 2, 2)
    tags = pq.read_table(tmp_path / "new" / "a.parquet").column("tags").to_pylist()
    assert [i for i, some in enumerate(tags) if "tag-05" in some] == carry[-2:]
    assert [i for i, some in enumerate(tags) if "one" in some] == carry[:-2:2]


def test_a_store_of_jobs_ingest_stays_one(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for part, rows, first in (("train", 100, 0), ("test", 40, 1000)):
        write(store / part / "part-00000.parquet", rows, first)
    pq.write_table(pa.table({"tag": ["x"], "count": [1]}), store / "vocabulary.parquet")
    gone = pa.schema([("image_id", pa.string()), ("where", pa.string()), ("reason", pa.string())])
    pq.write_table(gone.empty_table(), store / "rejected.parquet")
    features = {"kind": "cnn", "name": "efficientnet-lite0"}
    manifest = {"format": 1, "D": 16, "columns": {"features": 16}, "T": 12, "features": features}
    (store / "manifest.json").write_text(json.dumps({**manifest, "plan": {"source": {}}}))
    edit_store(str(store), Columns(), EDITS, str(tmp_path / "new"), ABOUT, print)
    new = tmp_path / "new"
    said = json.loads((new / "manifest.json").read_text())
    assert (said["T"], said["edited"], said["features"]) == (10, ABOUT, features)
    assert [one["rows"] for part in ("train", "test") for one in said["files"][part]] == [100, 40]
    vocabulary = pq.read_table(new / "vocabulary.parquet")
    assert "tag-00" not in vocabulary.column("tag").to_pylist() and len(vocabulary) == 10
    assert "10 tags" in (new / "report.md").read_text()
    # Of the training part alone, the manifest still says where the features come from.
    edit_store(str(store / "train"), Columns(), EDITS, str(tmp_path / "part"), ABOUT, print)
    said = json.loads((tmp_path / "part" / "manifest.json").read_text())
    assert said["features"] == features and "files" not in said


def test_nothing_is_left_where_it_fails_or_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "store" / "a.parquet", 90)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_describe", fail)
    with pytest.raises(KeyboardInterrupt):
        edit_store(str(tmp_path / "store"), Columns(), EDITS, str(tmp_path / "new"), ABOUT, print)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_where_a_new_store_cannot_go(tmp_path: Path) -> None:
    write(tmp_path / "store" / "a.parquet", 9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, says in (
        ("store", "in the store itself"),
        ("store/new", "in the store itself"),
        ("full", "holds files"),
    ):
        with pytest.raises(InputError, match=says):
            edit_store(str(tmp_path / "store"), Columns(), EDITS, str(tmp_path / out), ABOUT, print)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a.parquet"]
