"""Folders whose files are named after the parts of a data set: each option reads its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.named_parts import split_of
from distributed.driver import train
from distributed.driver.in_process import launch
from distributed.inference.open_for import open_for
from distributed.training.config import with_option
from drel_core.errors import InputError
from tests.helpers.bundles import write_drel
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"),
        ("Training/part-0.parquet", "train"),
        ("data/train-00000-of-00005.parquet", "train"),
        ("split=test/part-0.parquet", "test"),
        ("test/train.parquet", "train"),
        ("test/val-0.parquet", "test"),
        ("train/dev1.parquet", "train"),
        ("val.parquet", "validation"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("dev/part-0.parquet", "validation"),
        ("valley.parquet", None),
        ("device/part-0.parquet", None),
        ("part-0.parquet", None),
        ("latest.parquet", None),
    ],
)
def test_what_a_name_says(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("training", "testing"),
    [
        ("train.parquet", "test.parquet"),
        ("train/part-0.parquet", "test/part-0.parquet"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("split=train/part-0.parquet", "split=test/part-0.parquet"),
    ],
)
def test_each_option_reads_its_part(tmp_path: Path, training: str, testing: str) -> None:
    store = tmp_path / "store"
    write_planted(store / training, 30, dim=8)
    write_planted(store / testing, 12, dim=8, first=100)
    path = str(store)
    for option, rows in (
        ("--data.train", 30),
        ("--data.new", 30),
        ("--data.replay", 30),
        ("--data.test", 12),
        ("--store", 42),
    ):
        assert FeatureStore.open(path, option=option).num_rows == rows
    model = str(write_drel(tmp_path / "m"))
    assert open_for(model, path, Columns()).store.num_rows == 12
    assert open_for(model, path, Columns(), tags_needed=False).store.num_rows == 42
    write_planted(store / "val.parquet", 5, dim=8, first=200)
    assert FeatureStore.open(path).num_rows == 30


def test_files_of_one_part_and_of_none_are_all_read(tmp_path: Path) -> None:
    write_planted(tmp_path / "train-0.parquet", 30, dim=8)
    write_planted(tmp_path / "more.parquet", 12, dim=8, first=100)
    assert FeatureStore.open(str(tmp_path)).num_rows == 42
    assert FeatureStore.open(str(tmp_path), option="--data.test").num_rows == 42


def test_a_part_that_is_not_there_and_a_file_of_no_part_are_told(tmp_path: Path) -> None:
    write_planted(tmp_path / "train.parquet", 30, dim=8)
    write_planted(tmp_path / "val.parquet", 12, dim=8, first=100)
    with pytest.raises(InputError, match=r"no test part: .* train and validation .*--data\.test"):
        FeatureStore.open(str(tmp_path), option="--data.test")
    write_planted(tmp_path / "more.parquet", 12, dim=8, first=200)
    with pytest.raises(InputError, match=r"more\.parquet, which may belong to any; give --data"):
        FeatureStore.open(str(tmp_path))


def test_test_rows_that_are_training_rows_are_told(tmp_path: Path) -> None:
    store = write_planted(tmp_path / "a.parquet", 60)
    again = write_planted(tmp_path / "copy.parquet", 60)
    other = write_planted(tmp_path / "b.parquet", 60, seed=1, first=100)
    for test, told in ((again, True), (other, False)):
        lines: list[str] = []
        config = small_config(store, tmp_path / f"out-{told}", epochs=1)
        config = with_option(config, "data.test", str(test))
        train.run(config, lines.append, launcher=launch)
        assert any("training rows as well" in line for line in lines) == told
