"""Tags of a store, read without its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.columns import Columns
from distributed.data.tag_reader import TagReader
from drel_core.errors import InputError


def write(path: Path, rows: list[list[str | None] | None], group: int = 2) -> Path:
    ids = [f"{path.stem}-{row}" for row in range(len(rows))]
    table = pa.table({"image_id": ids, "tags": pa.array(rows, pa.list_(pa.string()))})
    pq.write_table(table, path, row_group_size=group)
    return path


def test_counts_are_of_images_and_clean_names(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [["sky", "sea"], ["sky", " sky"], None])
    write(tmp_path / "b.parquet", [["sea", None, "  "], []])
    found = TagReader.open(str(tmp_path)).counts()
    assert found.names == ("sea", "sky")
    assert found.count_T.tolist() == [2, 2]
    assert (found.images, found.tagless) == (5, 2)


def test_a_matrix_says_which_image_has_which_tag(tmp_path: Path) -> None:
    rows: list[list[str | None] | None] = [["b", "a"], ["c"], ["a", "a"], [], ["b", "unknown"]]
    reader = TagReader.open(str(write(tmp_path / "a.parquet", rows)))
    found = np.concatenate([one.toarray() for one in reader.matrices(pa.array(["a", "b", "c"]))])
    assert found.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_store_without_tags_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [["sky"]])
    with pytest.raises(InputError, match=r"name the right one with --columns\.tags"):
        TagReader.open(str(path), Columns(tags="keywords"))
    pq.write_table(pa.table({"tags": ["sky"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="must be list<string>"):
        TagReader.open(str(tmp_path / "b.parquet"))
