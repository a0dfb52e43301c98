"""Every bad input that docs/reference/formats.md names, with fail and with skip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.check_rows import SurveyOptions, survey_unit
from distributed.data.feature_store import FeatureStore, read_unit
from distributed.data.survey import merge_surveys
from drel_core.errors import InputError
from tests.helpers.store_checks import (
    FLOAT_LIST,
    fixed,
    ones,
    read_back,
    survey,
    table,
    truth,
    write,
)
from tests.helpers.stores import planted_table

# ---- bad rows

BAD_ROWS: dict[str, tuple[dict[str, pa.Array], int, str]] = {
    "NaN": ({"features": ones(3, 2, np.nan)}, 3, "features hold NaN at position 2"),
    "Inf": ({"features": ones(2, 0, -np.inf)}, 2, "features hold Inf at position 0"),
    "float16 overflow": (
        {"features": fixed(np.full((6, 4), [[1.0]] * 5 + [[1e5]]), np.float16)},
        5,
        "features hold Inf at position 0",
    ),
    "beyond float32": (
        {"features": ones(1, 1, 1e300, np.float64)},
        1,
        "features hold 1e+300, beyond float32, at position 1",
    ),
    "null value": (
        {"features": pa.array([[1, 2, None, 4]] + [[1, 2, 3, 4]] * 5, pa.list_(pa.float32(), 4))},
        0,
        "features hold a null at position 2",
    ),
    "null features": (
        {
            "features": pa.array(
                [[1, 2, 3, 4]] * 4 + [None, [1, 2, 3, 4]], pa.list_(pa.float32(), 4)
            )
        },
        4,
        "features are null",
    ),
    "null list": (
        {"features": pa.array([None] + [[1, 2, 3, 4]] * 5, FLOAT_LIST)},
        0,
        "features are null",
    ),
    "ragged": (
        {"features": pa.array([[1, 2]] + [[1, 2, 3, 4]] * 5, FLOAT_LIST)},
        0,
        "features have D = 2, the store has D = 4",
    ),
    "empty features": (
        {"features": pa.array([[]] + [[1, 2, 3, 4]] * 5, FLOAT_LIST)},
        0,
        "features have D = 0, the store has D = 4",
    ),
    "null id": ({"image_id": pa.array(["a", None, "c", "d", "e", "f"])}, 1, "image_id is null"),
    "empty id": ({"image_id": pa.array(["a", "", "c", "d", "e", "f"])}, 1, "image_id is empty"),
    "duplicate id": (
        {"image_id": pa.array(["a", "b", "c", "d", "b", "f"])},
        4,
        "image_id occurs already in {path} row 1",
    ),
    "null tag": (
        {"tags": pa.array([["a"], ["a"], ["a", None], ["a"], ["a"], ["a"]])},
        2,
        "tags hold a null or an empty string",
    ),
    "empty tag": (
        {"tags": pa.array([["a"], ["a"], ["a", ""], ["a"], ["a"], ["a"]])},
        2,
        "tags hold a null or an empty string",
    ),
}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(tmp_path: Path, name: str, statistics: bool) -> None:
    replaced, row, reason = BAD_ROWS[name]
    content = table(**replaced)
    path = write(tmp_path / "a.parquet", content, row_group_size=4)
    reason = reason.format(path=path)
    store = FeatureStore.open(path)
    with pytest.raises(InputError) as caught:
        survey(store, statistics=statistics)
    assert str(caught.value) == (
        f"{path}: row {row}: {reason}; mend the file, or leave bad rows out with "
        "--data.on_bad_row skip"
    )
    found = survey(store, "skip", statistics=statistics)
    assert found.skipped == [(path, row, reason)] and found.train_rows == 5
    rest = content.take([i for i in range(6) if i != row])
    assert read_back(found.train)["image_id"].to_pylist() == rest["image_id"].to_pylist()
    counts, value_ND = truth(rest)
    assert dict(zip(found.names.to_pylist(), found.count_T.tolist(), strict=True)) == counts
    if statistics:
        np.testing.assert_allclose(found.mean_D, value_ND.mean(0))


def test_several_bad_rows_name_the_first_and_count_the_rest(tmp_path: Path) -> None:
    content = table(image_id=pa.array(["a", "b", "a", "d", None, ""]), features=ones(5, 0, np.nan))
    store = FeatureStore.open(write(tmp_path / "a.parquet", content), None, "--data")
    with pytest.raises(InputError) as caught:
        survey(store)
    message = str(caught.value)
    assert "row 2: image_id occurs already" in message and "(and 2 more bad rows)" in message
    assert message.endswith("with --on_bad_row skip")  # as jobs.evaluate names it


def test_duplicates_across_files_leave_exact_counts(tmp_path: Path) -> None:
    first = table(image_id=pa.array(list("abcdef")), tags=pa.array([["x"]] * 6))
    again = table(
        image_id=pa.array(["g", "a", "h", "a", "i", "f"]),
        tags=pa.array([["y"], ["only here"], ["y"], ["only here"], ["y"], ["y"]]),
        features=fixed(np.arange(24).reshape(6, 4)),
    )
    one, two = (write(tmp_path / f"{n}.parquet", t) for n, t in (("1", first), ("2", again)))
    store = FeatureStore.open(str(tmp_path))
    with pytest.raises(InputError) as caught:
        survey(store)
    assert f"{two}: row 1: image_id occurs already in {one} row 0 (and 2 more" in str(caught.value)
    found = survey(store, "skip")
    assert [(row, text[-5:]) for _, row, text in found.skipped] == [
        (1, "row 0"),
        (3, "row 0"),
        (5, "row 5"),
    ]
    assert found.names.to_pylist() == ["x", "y"] and found.count_T.tolist() == [6, 3]
    kept = pa.concat_tables([first, again.take([0, 2, 4])])
    _, value_ND = truth(kept)
    np.testing.assert_allclose(found.mean_D, value_ND.mean(0))
    np.testing.assert_allclose(found.std_D, value_ND.std(0))
    assert read_back(found.train)["image_id"].to_pylist() == kept["image_id"].to_pylist()


def test_rows_without_tags_are_counted_and_left_out(tmp_path: Path) -> None:
    content = table(tags=pa.array([["a"], [], None, ["b"], ["b"], []]))
    found = survey(FeatureStore.open(write(tmp_path / "a.parquet", content)))
    assert found.tagless == 3 and found.train_rows == 3 and not found.skipped
    assert read_back(found.train)["tags"].to_pylist() == [["a"], ["b"], ["b"]]


def test_nothing_left(tmp_path: Path) -> None:
    none = table(tags=pa.array([[]] * 6, pa.list_(pa.string())))
    store = FeatureStore.open(write(tmp_path / "a.parquet", none))
    with pytest.raises(InputError, match="no row is left to use: of 6 rows 6 have no tags"):
        survey(store)
    bad = table(features=fixed(np.full((6, 4), np.nan)))
    store = FeatureStore.open(write(tmp_path / "b.parquet", bad))
    with pytest.raises(InputError, match="no row is left to use: of 6 rows 0 have no tags, 6 are"):
        survey(store, "skip")


# ---- bad files: an error whatever on_bad_row says

BAD_TABLES: dict[str, tuple[pa.Table, str]] = {
    "missing column": (
        table().drop_columns(["tags"]),
        "no column 'tags'; it has image_id, features; name the right one with --data.columns.tags",
    ),
    "column twice": (
        pa.table(
            [*table().columns, table()[0]], names=["image_id", "features", "tags", "image_id"]
        ),
        "two columns are named 'image_id'",
    ),
    "id type": (
        table(image_id=pa.array(range(6))),
        "column 'image_id' is int64; it must be string",
    ),
    "feature type": (
        table(features=pa.array([[1, 2]] * 6)),
        "column 'features' is list<element: int64>; it must be fixed_size_list<",
    ),
    "features no list": (table(features=pa.array([1.0] * 6)), "column 'features' is double; it"),
    "tag type": (
        table(tags=pa.array(["a"] * 6)),
        "column 'tags' is string; it must be list<string>",
    ),
    "no rows": (
        table().slice(0, 0),
        "the store holds no rows; give --data.train at least one image",
    ),
    "no features": (table(features=pa.array([None] * 6, FLOAT_LIST)), "no row has features"),
    "D = 0": (table(features=pa.array([[]] * 6, pa.list_(pa.float32(), 0))), "features have D = 0"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table(tmp_path: Path, name: str) -> None:
    content, message = BAD_TABLES[name]
    path = write(tmp_path / "a.parquet", content)
    with pytest.raises(InputError) as caught:
        FeatureStore.open(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_bad_bytes(tmp_path: Path) -> None:
    good = Path(write(tmp_path / "good.parquet", planted_table(500))).read_bytes()
    cases = {
        "empty": (b"", "the file is empty"),
        "short": (b"PA", "not a Parquet file"),
        "text": (b"image_id,tags\n" * 20, "not a Parquet file"),
        "cut": (good[: len(good) // 2], "truncated"),
        "footer": (good[:-200] + bytes(150) + good[-50:], "truncated"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            FeatureStore.open(str(path))
        assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no such file or folder; give --data\.test a"):
        FeatureStore.open(str(tmp_path / "nowhere"), None, "--data.test")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"holds no \.parquet file"):
        FeatureStore.open(str(tmp_path / "folder"))


@pytest.mark.parametrize("where", ["page header", "values, with page checksums"])
def test_damaged_pages_are_found_when_read(tmp_path: Path, where: str) -> None:
    path = tmp_path / "a.parquet"
    write(path, planted_table(2000), compression="none", write_page_checksum="checksums" in where)
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset
    if "checksums" in where:
        content[start + column.total_compressed_size // 2] ^= 1
    else:
        content[start : start + 16] = b"\xff" * 16
    path.write_bytes(bytes(content))
    store = FeatureStore.open(str(path))
    with pytest.raises(InputError, match="rows from 0 cannot be read"):
        survey(store, "skip")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    latin = pa.array([b"a", b"caf\xe9", b"c", b"d", b"e", b"f"]).view(pa.string())
    store = FeatureStore.open(write(tmp_path / "a.parquet", table(image_id=latin)))
    with pytest.raises(InputError, match="'image_id' holds text that is not UTF-8"):
        survey(store, "skip")


def test_a_file_that_changes_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    store = FeatureStore.open(write(path, planted_table(50), row_group_size=25))
    write(path, planted_table(30), row_group_size=25)
    with pytest.raises(InputError, match="rows from row 25, but"):
        survey(store)
    write(path, planted_table(20))
    with pytest.raises(InputError):
        survey(store)


@pytest.mark.parametrize("shape", ["fixed", "list"])
def test_files_must_agree(tmp_path: Path, shape: str) -> None:
    for name, dim in (("a", 4), ("b", 4), ("c", 5)):
        features = fixed(np.ones((6, dim)))
        features = features if shape == "fixed" else features.cast(FLOAT_LIST)
        content = table(features=features, image_id=pa.array([name + x for x in "123456"]))
        write(tmp_path / f"{name}.parquet", content)
    with pytest.raises(InputError) as caught:
        FeatureStore.open(str(tmp_path))
    assert "c.parquet: features have D = 5, but" in str(caught.value)
    assert "a.parquet has D = 4; all files" in str(caught.value)


def test_types_of_float_may_differ_between_files(tmp_path: Path) -> None:
    for name, kind in (("a", np.float16), ("b", np.float64)):
        ids = pa.array([name + x for x in "123456"])
        write(tmp_path / f"{name}.parquet", table(image_id=ids, features=ones(0, 0, 2.0, kind)))
    store = FeatureStore.open(str(tmp_path))
    found = survey(store)
    assert store.dtype == np.float64 and found.train_rows == 12
    assert read_unit(found.train[0], store.columns).features_BD.dtype == np.float16
    np.testing.assert_allclose(found.mean_D, [14 / 12, 1, 1, 1])


def test_lost_surveys_are_noticed(tmp_path: Path) -> None:
    store = FeatureStore.open(write(tmp_path / "a.parquet", planted_table(20), row_group_size=10))
    with pytest.raises(AssertionError, match="surveys of 10 rows"):
        merge_surveys(
            store, [survey_unit(store.units[0], SurveyOptions(store.columns, store.image_dim))]
        )
