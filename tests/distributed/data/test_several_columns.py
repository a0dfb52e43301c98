"""Several features columns of a store are read as one that was concatenated by hand; a single one is not
copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from distributed.data.blocks import inline_blocks, load_rows
from distributed.data.columns import Columns
from distributed.data.epoch import EpochPlan, ShardReader, shard
from distributed.data.feature_store import (
    FeatureStore,
    RowSelection,
    feature_columns,
    feature_matrix,
    has_negatives,
    one_chunk,
    read_table,
    read_unit,
)
from distributed.data.manifest import check_same_blocks, check_same_features, features_of
from distributed.data.survey import survey_store
from drel_core.bundle.info import FeatureBlock
from drel_core.errors import InputError
from tests.helpers.store_checks import fixed, write
from tests.helpers.stores import planted_table

BOTH = Columns(features="deep,low")
ROWS = 60


def values(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    low_Bd = generator.normal(size=(rows, 3)).astype(np.float32) * 100
    return np.abs(generator.normal(size=(rows, 5))).astype(np.float16), low_Bd


def two(rows: int = ROWS, **replaced: pa.Array) -> pa.Table:
    deep_Bd, low_Bd = values(rows)
    made = planted_table(rows)
    columns = {
        "low": fixed(low_Bd),
        "image_id": made["image_id"],
        "tags": made["tags"],
        "deep": fixed(deep_Bd, np.float16),
    }
    return pa.table({**columns, **replaced})


def by_hand() -> pa.Table:
    made = planted_table(ROWS)
    joined = fixed(np.concatenate(values(), axis=1))
    return pa.table({"image_id": made["image_id"], "features": joined, "tags": made["tags"]})


def stores(folder: Path) -> tuple[FeatureStore, FeatureStore]:
    both = write(folder / "two.parquet", two(), row_group_size=16)
    one = write(folder / "one.parquet", by_hand(), row_group_size=16)
    return FeatureStore.open(both, BOTH), FeatureStore.open(one)


def test_two_columns_are_what_one_concatenated_by_hand_is(tmp_path: Path) -> None:
    both, one = stores(tmp_path)
    assert both.dims == (5, 3) and both.image_dim == one.image_dim == 8
    assert both.dtype == one.dtype == np.float32
    found, expected = (survey_store(store, "fail") for store in (both, one))
    assert found.dims == (5, 3) and expected.dims == (8,)
    np.testing.assert_array_equal(found.mean_D, expected.mean_D)
    np.testing.assert_array_equal(found.std_D, expected.std_D)
    for a, b in zip(both.units, one.units, strict=True):
        mine, theirs = (
            read_unit(RowSelection.without(unit, np.array([unit.file_row])), store.columns)
            for unit, store in ((a, both), (b, one))
        )
        np.testing.assert_array_equal(mine.features_BD, theirs.features_BD)
    for epoch in range(2):
        steps = [
            list(
                ShardReader(
                    shard(survey.train, 2, 1),
                    EpochPlan.make(ROWS, 2, 16),
                    1,
                    0,
                    inline_blocks(store.columns, survey.names),
                    resident=False,
                    shuffle_rows=16,
                ).epoch(epoch)
            )
            for store, survey in ((both, found), (one, expected))
        ]
        assert len(steps[0]) == len(steps[1]) > 1
        for step, other in zip(*steps, strict=True):
            assert torch.equal(step.features_BD, other.features_BD)
            assert torch.equal(step.tags.values, other.tags.values)


def test_the_order_given_is_the_order_of_values(tmp_path: Path) -> None:
    path = write(tmp_path / "two.parquet", two())
    store = FeatureStore.open(path, Columns(features="low, deep"))
    found = survey_store(store, "fail")
    value_BD = load_rows(found.train, store.columns, found.names).features_BD.numpy()
    deep_Bd, low_Bd = values()
    np.testing.assert_array_equal(value_BD, np.concatenate([low_Bd, deep_Bd], axis=1))
    assert has_negatives(store) == [True, False]


def test_a_single_column_is_not_copied(tmp_path: Path) -> None:
    _, one = stores(tmp_path)
    column = one_chunk(read_table(one.units[0], ["features"]).column(0))
    value_BD = feature_matrix([column])
    assert np.shares_memory(value_BD, column.flatten().to_numpy())


def test_lists_of_any_length_are_joined_as_well(tmp_path: Path) -> None:
    low = pa.array(values()[1].tolist(), pa.list_(pa.float32()))
    store = FeatureStore.open(write(tmp_path / "a.parquet", two(low=low)), BOTH)
    found, expected = survey_store(store, "fail"), survey_store(stores(tmp_path)[1], "fail")
    assert store.dims == (5, 3)
    np.testing.assert_array_equal(found.mean_D, expected.mean_D)


def test_columns_come_back_from_what_was_joined() -> None:
    deep_Bd, low_Bd = values()
    joined = fixed(np.concatenate([deep_Bd, low_Bd], axis=1))
    parts = feature_columns(joined, BOTH, (5, 3))
    assert list(parts) == ["deep", "low"]
    np.testing.assert_array_equal(feature_matrix([parts["low"]]), low_Bd)
    assert feature_columns(joined, Columns(), (8,)) == {"features": joined}


def bad_low(row: int, position: int, value: float) -> pa.Array:
    low_Bd = values()[1].copy()
    low_Bd[row, position] = value
    return fixed(low_Bd)


def short_low() -> pa.Array:
    rows: list[Any] = values()[1].tolist()
    rows[7] = rows[7][:2]
    return pa.array(rows, pa.list_(pa.float32()))


def null_low() -> pa.Array:
    rows: list[Any] = values()[1].tolist()
    rows[7] = None
    return pa.array(rows, pa.list_(pa.float32(), 3))


def null_inside() -> pa.Array:
    rows: list[Any] = values()[1].tolist()
    rows[7][1] = None
    return pa.array(rows, pa.list_(pa.float32(), 3))


@pytest.mark.parametrize(
    ("low", "said"),
    [
        (bad_low(7, 2, np.nan), "row 7: column 'low': features hold NaN at position 2"),
        (bad_low(7, 0, np.inf), "row 7: column 'low': features hold Inf at position 0"),
        (short_low(), "row 7: column 'low': features have D = 2, the store has D = 3"),
        (null_low(), "row 7: column 'low': features are null"),
        (null_inside(), "row 7: column 'low': features hold a null at position 1"),
    ],
)
def test_a_fault_of_the_second_column_names_it(tmp_path: Path, low: pa.Array, said: str) -> None:
    path = write(tmp_path / "two.parquet", two(low=low))
    store = FeatureStore.open(path, BOTH)
    with pytest.raises(InputError, match=r"two\.parquet: ") as caught:
        survey_store(store, "fail")
    assert said in str(caught.value)
    left = survey_store(store, "skip")
    assert left.train_rows == ROWS - 1 and left.skipped[0][1] == 7
    assert len(load_rows(left.train, BOTH, left.names)) == ROWS - 1


def test_a_fault_of_the_first_column_names_it(tmp_path: Path) -> None:
    deep_Bd = values()[0]
    deep_Bd[2, 4] = np.nan
    path = write(tmp_path / "two.parquet", two(deep=fixed(deep_Bd, np.float16)))
    with pytest.raises(InputError, match="row 2: column 'deep': features hold NaN at position 4"):
        survey_store(FeatureStore.open(path, BOTH), "fail")


def test_a_store_without_one_of_them_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "two.parquet", two().drop_columns(["low"]))
    with pytest.raises(InputError, match=r"no column 'low'; it has .*--data.columns.features"):
        FeatureStore.open(path, BOTH)
    (tmp_path / "s").mkdir()
    write(tmp_path / "s" / "a.parquet", two())
    write(tmp_path / "s" / "b.parquet", two(low=fixed(np.ones((ROWS, 4)))))
    with pytest.raises(
        InputError, match=r"b.parquet: column 'low': features have D = 4, but .*a.p"
    ):
        FeatureStore.open(str(tmp_path / "s"), BOTH)
    path = write(tmp_path / "text.parquet", two(low=pa.array(["x"] * ROWS)))
    with pytest.raises(InputError, match="column 'low' is string"):
        FeatureStore.open(path, BOTH)


@pytest.mark.parametrize("names", ["deep,deep", "deep,", ""])
def test_names_must_be_different_names(names: str) -> None:
    with pytest.raises(ValueError, match=r"columns\.features"):
        Columns(features=names)


def test_a_model_wants_its_columns_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "two.parquet", two())
    model = [FeatureBlock("deep", 5), FeatureBlock("low", 3)]
    check_same_blocks(FeatureStore.open(path, BOTH), model)
    renamed = [FeatureBlock("cnn", 5), FeatureBlock("histograms", 3)]
    check_same_blocks(FeatureStore.open(path, BOTH), renamed)
    for swapped in (model, [FeatureBlock("low", 5), FeatureBlock("deep", 3)]):
        store = FeatureStore.open(path, Columns(features="low,deep"))
        with pytest.raises(InputError, match=r"the model takes .*in this order.*columns\.features"):
            check_same_blocks(store, swapped)


def test_a_manifest_says_where_each_column_comes_from(tmp_path: Path) -> None:
    about = {"deep": {"kind": "cnn", "name": "n"}, "low": {"kind": "lowlevel", "words": 3}}
    (tmp_path / "train").mkdir()
    (tmp_path / "manifest.json").write_text(
        '{"features": {"columns": {"deep": {"kind": "cnn", "name": "n"}, '
        '"low": {"kind": "lowlevel", "words": 3}}}}'
    )
    where = str(tmp_path / "train")
    assert features_of(where, Columns(features="low")) == about["low"]
    both = features_of(where, Columns(features="low,deep"))
    assert both == {"columns": about} and list(both["columns"]) == ["low", "deep"]
    assert features_of(where, Columns(features="deep,other")) is None
    (tmp_path / "manifest.json").write_text('{"features": {"kind": "cnn", "name": "n"}}')
    assert features_of(where) == about["deep"]
    assert features_of(where, BOTH) is None  # it says nothing of a column that came later
    other = {"columns": {"a": about["low"], "b": {"kind": "cnn", "name": "m"}}}
    with pytest.raises(InputError, match=r"deep of here .*name m and n"):
        check_same_features(other, "there", both, "here")
