"""Like features, like tags: seen where it is so, and where features and tags are of different images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver.neighbours import unrelated
from tests.helpers.stores import planted_table


def asked(folder: Path, table: pa.Table, seed: int = 0) -> str | None:
    pq.write_table(table, folder / "a.parquet", row_group_size=64)
    store = FeatureStore.open(str(folder / "a.parquet"))
    return unrelated(survey_store(store, "fail"), store.columns, seed)


def with_features(table: pa.Table, value_ND: np.ndarray) -> pa.Table:
    flat = pa.array(value_ND.astype(np.float32).ravel())
    return table.set_column(
        1, "features", pa.FixedSizeListArray.from_arrays(flat, value_ND.shape[1])
    )


def features_of(table: pa.Table) -> np.ndarray:
    return np.stack(table.column("features").to_numpy(zero_copy_only=False))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("skewed", [False, True])
def test_shuffled_features_are_told_from_noisy_ones(
    tmp_path: Path, seed: int, skewed: bool
) -> None:
    table = planted_table(600, tags=40, seed=seed, skewed=skewed)
    value_ND = features_of(table)
    generator = np.random.default_rng(seed)
    assert asked(tmp_path, table, seed) is None
    noise_ND = value_ND.std() * generator.normal(size=value_ND.shape)
    assert asked(tmp_path, with_features(table, value_ND + noise_ND), seed) is None
    mixed = with_features(table, value_ND[generator.permutation(600)])
    said = asked(tmp_path, mixed, seed)
    assert said is not None and "may be of different images" in said


def test_few_rows_say_nothing(tmp_path: Path) -> None:
    table = planted_table(150)
    assert asked(tmp_path, with_features(table, features_of(table)[::-1])) is None


def test_a_store_in_order_of_its_tags_is_read_in_part(tmp_path: Path) -> None:
    table = planted_table(7000, each=1)
    order = np.argsort([row[0] for row in table.column("tags").to_pylist()], kind="stable")
    assert asked(tmp_path, table.take(pa.array(order))) is None
