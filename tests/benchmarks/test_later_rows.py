"""Rows after those of a planted store: the same world, other images, and some tags that are new."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.later_rows import WithNewTags, planted_source, write_later
from benchmarks.make_store import Planted
from drel_core.errors import InputError


@pytest.mark.parametrize("structure", ["linear", "nonlinear"])
def test_images_without_a_new_tag_are_as_they_would_be(structure: str) -> None:
    base = Planted(1024, 16, 50, 3.0, 1.0, 1.0, 0.0, 3, structure)
    later = WithNewTags(**vars(base), new_tags=4)
    before, after = base.read(0, 1024).table, later.read(0, 1024).table
    plain, extended = before["tags"].to_pylist(), after["tags"].to_pylist()
    has_B = np.array([len(new) > len(old) for old, new in zip(plain, extended, strict=True)])
    assert 0.25 < has_B.mean() < 0.35
    for old, new, has in zip(plain, extended, has_B, strict=True):
        assert new[: len(old)] == old and len(new) == len(old) + has
        assert not has or new[-1] in {"tag50", "tag51", "tag52", "tag53"}
    features = [np.stack(t["features"].to_numpy(zero_copy_only=False)) for t in (before, after)]
    differs_B = np.abs(features[0] - features[1]).max(1) > 1e-3
    assert (differs_B == has_B).all()


def test_no_row_of_the_store_is_among_them(tmp_path: Path) -> None:
    source = Planted(600, 8, 20, 3.0, 1.0, 1.0, 0.1, 0)
    manifest = {"plan": {"source": source.describe()}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    write_later(tmp_path, 200, ["tag20"], tmp_path / "a.parquet", tmp_path / "b.parquet")
    later = [pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    tables = [source.read(0, 600).table, *later]
    ids = [set(table["image_id"].to_pylist()) for table in tables]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 1000
    assert all("tag20" in table["tags"].combine_chunks().flatten().to_pylist() for table in later)
    (tmp_path / "manifest.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="make_store has not made it"):
        planted_source(tmp_path)
