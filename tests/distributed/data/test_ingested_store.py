"""The folder that jobs.ingest wrote, given whole: which rows of it a job reads."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.inference.open_for import open_for
from drel_core.errors import InputError
from tests.helpers.bundles import write_drel
from tests.helpers.stores import write_planted


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """As ``distributed.ingest.assemble`` leaves it."""
    root = tmp_path / "store"
    write_planted(root / "train" / "part-00000.parquet", 30, dim=8)
    write_planted(root / "test" / "part-00000.parquet", 12, dim=8, first=100)
    (root / "manifest.json").write_text(json.dumps({"features": None}))
    pq.write_table(
        pa.table({"image_id": ["x"], "where": ["y"], "reason": ["z"]}), root / "rejected.parquet"
    )
    pq.write_table(pa.table({"tag": ["x"], "count": [1]}), root / "vocabulary.parquet")
    return root


def test_each_job_reads_its_part(store: Path, tmp_path: Path) -> None:
    path = str(store)
    assert FeatureStore.open(path).num_rows == 30
    assert FeatureStore.open(path, option="--data.test").num_rows == 12
    assert FeatureStore.open(path, option="--data", part="train").num_rows == 30
    model = str(write_drel(tmp_path / "m"))
    assert open_for(model, path, Columns()).store.num_rows == 12
    assert open_for(model, path + "/", Columns(), tags_needed=False).store.num_rows == 42


def test_a_part_that_is_not_there_is_told(store: Path) -> None:
    (store / "test" / "part-00000.parquet").unlink()
    (store / "test").rmdir()
    with pytest.raises(InputError, match=r"made no test part of it .*--data.test .*/store/train"):
        FeatureStore.open(str(store), option="--data.test")
    assert FeatureStore.open(str(store)).num_rows == 30
