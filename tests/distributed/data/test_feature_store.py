"""Good feature stores of every shape: counts, statistics, validation rows, reading back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from distributed.data.blocks import load_rows
from distributed.data.check_rows import Validation
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, RowSelection, has_negatives, read_unit
from distributed.data.feature_sums import feature_sums
from distributed.data.ray_reader import block_rows, selection_block
from distributed.data.tag_values import lookup
from drel_core.errors import InputError
from tests.helpers.store_checks import fixed, ones, read_back, survey, table, truth, write
from tests.helpers.stores import planted_table

# ---- good stores


@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize(
    "kind",
    ["fixed float16", "fixed float32", "fixed float64", "list float32", "large list float32"],
)
def test_counts_and_statistics_equal_the_naive_ones(tmp_path: Path, rows: int, kind: str) -> None:
    shape, value = kind.rsplit(" ", 1)
    value_type = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}[value]
    list_type = {
        "fixed": pa.list_(value_type, 5),
        "list": pa.list_(value_type),
        "large list": pa.large_list(value_type),
    }[shape]
    content = planted_table(rows, 5)
    repeated = pa.array([[*tags, tags[0]] for tags in content["tags"].to_pylist()])
    content = content.set_column(1, "features", content["features"].cast(list_type))
    content = content.set_column(2, "tags", repeated)
    store = FeatureStore.open(write(tmp_path / "a.parquet", content, row_group_size=37))
    assert (store.num_rows, store.image_dim, store.dtype) == (rows, 5, np.dtype(value))
    found = survey(store)
    counts, value_ND = truth(content)
    assert dict(zip(found.names.to_pylist(), found.count_T.tolist(), strict=True)) == counts
    assert found.names.to_pylist() == sorted(counts) and found.count_T.dtype == np.int64
    np.testing.assert_allclose(found.mean_D, value_ND.mean(0), rtol=1e-12, atol=1e-12)
    std_D = value_ND.std(0)
    np.testing.assert_allclose(found.std_D, np.where(std_D > 0, std_D, 1.0), rtol=1e-7)
    assert found.train_rows == rows and not found.skipped and not found.tagless
    back = read_back(found.train)
    assert back["image_id"].to_pylist() == content["image_id"].to_pylist()
    assert back["tags"].to_pylist() == content["tags"].to_pylist()
    np.testing.assert_array_equal(back["features"].to_pylist(), content["features"].to_pylist())


def test_features_are_a_view_in_the_stored_type(tmp_path: Path) -> None:
    store = FeatureStore.open(
        write(tmp_path / "a.parquet", table(features=ones(0, 0, 2.0, np.float16)))
    )
    batch = read_unit(survey(store).train[0], store.columns)
    assert batch.features_BD.dtype == np.float16
    assert not batch.features_BD.flags.owndata and not batch.features_BD.flags.writeable


def test_polars_string_types_and_lookup(tmp_path: Path) -> None:
    content = table(
        image_id=pa.array(list("abcdef"), pa.large_string()),
        tags=pa.array([["sky", "sea"]] * 6, pa.large_list(pa.large_string())),
    )
    store = FeatureStore.open(write(tmp_path / "a.parquet", content))
    found = survey(store)
    batch = read_unit(found.train[0], store.columns)
    ids = lookup(batch.tag_values, pa.array(["sea", "tree"]))
    assert ids.dtype == np.int64 and ids.tolist() == [-1, 0] * 6


def test_column_names_are_free(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table().rename_columns(["id", "vec.x", "labels"]))
    columns = Columns(image_id="id", features="vec.x", tags="labels")
    store = FeatureStore.open(path, columns)
    found = survey(store)
    assert found.train_rows == 6
    assert read_unit(found.train[0], columns).features_BD.shape == (6, 4)


def test_folder_is_read_recursively_in_order_without_hidden_files(tmp_path: Path) -> None:
    content = planted_table(30)
    for name, start in (("b.parquet", 10), ("sub/c.parquet", 20), ("a.parquet", 0)):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content.slice(start, 10))
    for hidden in ("_SUCCESS.parquet", ".x.parquet", "_temporary/d.parquet", "notes.txt"):
        path = tmp_path / "store" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not Parquet")
    store = FeatureStore.open(str(tmp_path / "store"))
    assert read_back(survey(store).train)["image_id"].to_pylist() == content["image_id"].to_pylist()


def test_relative_paths_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b%20#"
    folder.mkdir()
    write(folder / "x ?.parquet", table())
    monkeypatch.chdir(tmp_path)
    store = FeatureStore.open("a b%20#")
    monkeypatch.chdir(Path(__file__).parent)  # a worker has another folder
    assert survey(store).train_rows == 6


def test_unknown_kind_of_location_is_one_line() -> None:
    with pytest.raises(InputError, match="foo://x: not a readable location"):
        FeatureStore.open("foo://x")


def test_large_row_groups_become_several_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Columns, "unit_rows", 9000)  # not a multiple of the read batch
    content = planted_table(30000, 3)
    store = FeatureStore.open(write(tmp_path / "a.parquet", content, row_group_size=20000))
    sizes = [(u.row_group, u.start, u.rows, u.file_row) for u in store.units]
    assert sizes == [
        (0, 0, 9000, 0),
        (0, 9000, 9000, 9000),
        (0, 18000, 2000, 18000),
        (1, 0, 9000, 20000),
        (1, 9000, 1000, 29000),
    ]
    back = read_back(survey(store).train)
    assert back["image_id"].to_pylist() == content["image_id"].to_pylist()
    assert back["tags"].to_pylist() == content["tags"].to_pylist()


def test_dropped_rows_then_a_range_of_the_rest(tmp_path: Path) -> None:
    store = FeatureStore.open(write(tmp_path / "a.parquet", planted_table(20), row_group_size=10))
    selection = RowSelection(store.units[1], np.array([10, 13, 19]), 2, 4)
    assert selection.rows().tolist() == [14, 15, 16, 17]
    batch = read_unit(selection, store.columns)
    assert batch.image_id_B.to_pylist() == [f"image-{i}" for i in (14, 15, 16, 17)]
    np.testing.assert_array_equal(
        batch.features_BD, np.array(planted_table(20)["features"].to_pylist())[14:18].astype("f")
    )


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_part_of_a_selection_and_its_rows_as_tensors(tmp_path: Path, kind: str) -> None:
    content = planted_table(20)
    flat = np.array(content["features"].to_pylist()).astype(kind).ravel()
    features = pa.FixedSizeListArray.from_arrays(pa.array(flat), 16)
    content = content.set_column(1, "features", features)
    path = write(tmp_path / "a.parquet", content, row_group_size=10)
    store = FeatureStore.open(path)
    some = RowSelection(store.units[1], np.array([10, 13, 19]), 2, 4)
    kept = some.only(np.array([True, False, False, True]))
    assert kept.rows().tolist() == [14, 17]
    assert (
        kept.rows().tolist() == RowSelection.of(store.units[1], np.array([14, 17])).rows().tolist()
    )
    assert RowSelection.without(store.units[1], kept.dropped).rows().tolist() == [14, 17]
    names = survey(store).names
    rows = load_rows(kept, store.columns, names)
    assert rows.features_BD.numpy().dtype == np.dtype(kind)
    np.testing.assert_array_equal(rows.features_BD.numpy(), flat.reshape(20, 16)[[14, 17]])
    wanted = [content["tags"].to_pylist()[row] for row in (14, 17)]
    assert [[names[tag].as_py() for tag in row] for row in rows.tags.tolist()] == wanted
    through_arrow = block_rows(selection_block(kept, store.columns, names))
    assert torch.equal(through_arrow.features_BD, rows.features_BD)
    assert through_arrow.features_BD.dtype == rows.features_BD.dtype
    assert through_arrow.tags.tolist() == rows.tags.tolist()
    assert len(load_rows([some, kept], store.columns, names)) == 6


# ---- validation split


def test_validation_rows_do_not_depend_on_the_layout(tmp_path: Path) -> None:
    content = planted_table(400)
    write(tmp_path / "one.parquet", content, row_group_size=64)
    (tmp_path / "many").mkdir()
    shuffled = content.take(np.random.default_rng(0).permutation(400))
    for i in range(4):
        write(tmp_path / "many" / f"{i}.parquet", shuffled.slice(100 * i, 100), row_group_size=7)
    held = []
    for name in ("one.parquet", "many"):
        found = survey(FeatureStore.open(str(tmp_path / name)), validation=Validation(0.25, 3))
        train, part = (
            set(read_back(r)["image_id"].to_pylist()) for r in (found.train, found.validation)
        )
        assert not train & part and len(train | part) == 400
        assert (len(train), len(part)) == (found.train_rows, found.validation_rows)
        mask = np.isin(content["image_id"].to_numpy(zero_copy_only=False), list(part))
        counts, value_ND = truth(content.filter(~mask))
        assert dict(zip(found.names.to_pylist(), found.count_T.tolist(), strict=True)) == counts
        np.testing.assert_allclose(found.mean_D, value_ND.mean(0), atol=1e-12)
        held.append(part)
    assert held[0] == held[1] and 60 < len(held[0]) < 140
    other = survey(FeatureStore.open(str(tmp_path / "many")), validation=Validation(0.25, 4))
    assert set(read_back(other.validation)["image_id"].to_pylist()) != held[0]


# ---- sums


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_feature_sums_over_chosen_finite_rows(kind: Any, power: float) -> None:
    generator = np.random.default_rng(0)
    value_BD = generator.normal(size=(700, 300)).astype(kind)  # several blocks
    value_BD[650, 7], value_BD[3, 0], value_BD[3, 5] = np.nan, np.inf, -np.inf
    chosen_B = generator.random(700) < 0.7
    found = feature_sums(value_BD, chosen_B, power)
    assert [(row, place) for row, place, _ in found.bad] == [(3, 0), (650, 7)]
    good = value_BD[chosen_B & np.isfinite(value_BD).all(1)].astype(np.float64)
    good = np.sign(good) * np.abs(good) ** power
    np.testing.assert_allclose(found.sum_D, good.sum(0), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(found.square_D, (good**2).sum(0), rtol=1e-10)


def test_large_finite_features_are_no_error() -> None:
    value_BD = np.full((4, 8), 3e38, dtype=np.float32)  # sums overflow float32, values do not
    found = feature_sums(value_BD, np.ones(4, dtype=bool))
    assert not found.bad
    np.testing.assert_allclose(found.sum_D, 4 * value_BD[0].astype(np.float64))


def test_constant_feature_has_std_one(tmp_path: Path) -> None:
    content = table(features=fixed(np.full((6, 4), 1e4)))
    found = survey(FeatureStore.open(write(tmp_path / "a.parquet", content)))
    np.testing.assert_array_equal(found.std_D, 1.0)
    np.testing.assert_allclose(found.mean_D, 1e4)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_sample_tells_whether_features_are_signed(tmp_path: Path, kind: Any) -> None:
    for name, least in (("signed", -0.5), ("pooled", 0.0)):
        features = np.maximum(np.random.default_rng(0).normal(size=(300, 4)), least)
        path = write(tmp_path / f"{name}.parquet", table(300, features=fixed(features, kind)))
        store = FeatureStore.open(path)
        assert has_negatives(store) == [name == "signed"]
