"""Several features columns of a table, in its Parquet files or each in a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.ingest.sources.several import SeveralColumns, named_options
from distributed.ingest.sources.table import TableOptions
from drel_core.errors import InputError

DEEP_BD = np.arange(20, dtype=np.float32).reshape(5, 4)
LOW_BD = -np.arange(15, dtype=np.float32).reshape(5, 3)
IDS = [f"i{row}" for row in range(5)]
TAGS = [["a"], ["b"], [], ["a", "b"], ["c"]]


def opened(path: Path, **options: str) -> SeveralColumns:
    return SeveralColumns.open(str(path), named_options(TableOptions(split="", **options)))


def parquet(folder: Path, deep_BD: np.ndarray = DEEP_BD, low_BD: np.ndarray = LOW_BD) -> Path:
    path = folder / "table.parquet"
    table = pa.table({"image_id": IDS, "deep": list(deep_BD), "low": list(low_BD), "tags": TAGS})
    pq.write_table(table, path, row_group_size=2)
    return path


def column(table: pa.Table, name: str) -> np.ndarray:
    return np.stack(table.column(name).to_numpy(zero_copy_only=False))


def test_columns_of_parquet_come_in_the_order_given(tmp_path: Path) -> None:
    source = opened(parquet(tmp_path), features_column="low, deep")
    chunk = source.read(0, 5)
    assert source.num_rows == 5
    assert chunk.table.column_names == ["image_id", "low", "deep", "tags", "split"]
    kept = [0, 1, 3, 4]
    assert chunk.table["image_id"].to_pylist() == [IDS[row] for row in kept]
    np.testing.assert_array_equal(column(chunk.table, "deep"), DEEP_BD[kept])
    np.testing.assert_array_equal(column(chunk.table, "low"), LOW_BD[kept])
    assert chunk.rejected.to_pylist() == [
        {"image_id": "i2", "where": f"{tmp_path}/table.parquet row 2", "reason": "no tags"}
    ]
    assert source.describe()["columns"] == {"low": 3, "deep": 4} and source.describe()["D"] == 7
    assert source.read(3, 9).table["image_id"].to_pylist() == ["i3", "i4"]


def test_a_row_that_one_column_lacks_is_rejected_with_its_name(tmp_path: Path) -> None:
    deep_BD, low_BD = DEEP_BD.copy(), LOW_BD.copy()
    low_BD[1, 2], deep_BD[4, 0] = np.nan, np.inf
    source = opened(parquet(tmp_path, deep_BD, low_BD), features_column="deep,low")
    chunk = source.read(0, 5)
    assert chunk.table["image_id"].to_pylist() == ["i0", "i3"]
    np.testing.assert_array_equal(column(chunk.table, "low"), LOW_BD[[0, 3]])
    reasons = {row["image_id"]: row["reason"] for row in chunk.rejected.to_pylist()}
    assert reasons == {
        "i1": "low: features hold NaN at position 2",
        "i2": "no tags",
        "i4": "deep: features hold Inf at position 0",
    }
    assert len(chunk.rejected) == 3


@pytest.mark.parametrize("order", ["deep,low", "low,deep"])
def test_a_repeated_row_that_one_column_lacks_gives_no_tags(order: str, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = {
        "image_id": ["i", "i", "i"],
        "deep": [[1.0, 2.0]] * 3,
        "low": [[3.0], None, [3.0]],
        "tags": [["a"], ["b"], ["c"]],
    }
    pq.write_table(pa.table(table), path)
    chunk = opened(path, features_column=order).read(0, 3)
    assert chunk.table["tags"].to_pylist() == [["a", "c"]]


def test_files_are_joined_by_id(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image_id,tags\ni0,a\ni3,b\ni9,b\ni4,c\n")
    order = np.array([4, 2, 0, 1, 3])
    np.savez(tmp_path / "deep.npz", features=DEEP_BD, ids=np.array(IDS))
    np.savez(tmp_path / "low.npz", features=LOW_BD[order][:4], ids=np.array(IDS)[order][:4])
    files = f"deep={tmp_path}/deep.npz, low={tmp_path}/low.npz"
    source = opened(tmp_path / "tags.csv", features_file=files, ids_array="ids")
    chunk = source.read(0, 4)
    assert chunk.table["image_id"].to_pylist() == ["i0", "i4"]  # low knows nothing of i3
    np.testing.assert_array_equal(column(chunk.table, "deep"), DEEP_BD[[0, 4]])
    np.testing.assert_array_equal(column(chunk.table, "low"), LOW_BD[[0, 4]])
    reasons = {row["image_id"]: row["reason"] for row in chunk.rejected.to_pylist()}
    assert set(reasons) == {"i3", "i9"}
    assert reasons["i3"] == f"low: no features: the id is not in {tmp_path}/low.npz"


def test_one_column_is_no_matter_of_several() -> None:
    assert named_options(TableOptions()) == {}
    assert named_options(TableOptions(features_file="a=b.npy")) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features_column": "a,a"}, "--features_column a,a: give different names"),
        ({"features_column": "a,"}, "--features_column a,: give different names"),
        ({"features_file": "a=x.npy,y.npy"}, "each needs a name"),
        ({"features_file": "tags=x.npy,b=y.npy"}, "a store has a column 'tags' of its own"),
        ({"features_column": "a,split"}, "a store has a column 'split' of its own"),
        ({"features_file": "a=x.npy,a=y.npy"}, "each needs a name, and another one"),
    ],
)
def test_names_are_missing_or_there_twice(options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        named_options(TableOptions(**options))


def test_what_is_wrong_with_one_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'hist'"):
        opened(parquet(tmp_path), features_column="deep,hist")
