"""A column is the same whatever type it comes in, and whatever this process has imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, read_unit
from distributed.data.plain_types import plain, plain_type
from distributed.data.survey import survey_store
from drel_core.errors import InputError
from tests.helpers.commands import ROOT
from tests.helpers.store_checks import tag_lists

ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0]]
VALUE_BD = np.array(ROWS, np.float32)


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (pa.array(["a", None, "b"]).dictionary_encode(), pa.string(), ["a", None, "b"]),
        (pa.array(["a", None], pa.string_view()), pa.large_string(), ["a", None]),
        (pa.array([b"a"], pa.binary_view()), pa.large_binary(), [b"a"]),
        (
            pa.array([["a"], None, [], ["b", None]], pa.list_(pa.string_view())),
            pa.large_list(pa.large_string()),
            [["a"], None, [], ["b", None]],
        ),
        (
            pa.ListArray.from_arrays([0, 1, 3], pa.array(["a", "b", "a"]).dictionary_encode()),
            pa.large_list(pa.string()),
            [["a"], ["b", "a"]],
        ),
        (
            pa.array([[1.0], None, [2.0, 3.0]], pa.list_view(pa.float32())),
            pa.large_list(pa.float32()),
            [[1.0], None, [2.0, 3.0]],
        ),
        (
            pa.FixedShapeTensorArray.from_numpy_ndarray(VALUE_BD.reshape(3, 2, 2)),
            pa.list_(pa.float32(), 4),
            ROWS,
        ),
        (
            pa.array([[[1.0, 2.0], [3.0]], None, [[4.0]]], pa.list_(pa.list_(pa.float64()))),
            pa.large_list(pa.float64()),
            [[1.0, 2.0, 3.0], None, [4.0]],
        ),
        (
            pa.array([[[1, 2], [3, 4]], None], pa.list_(pa.list_(pa.int8(), 2), 2)),
            pa.list_(pa.int8(), 4),
            [[1, 2, 3, 4], None],
        ),
        (pa.array([{"data": [1.0, 2.0], "shape": [1, 2]}]), pa.list_(pa.float64()), [[1.0, 2.0]]),
        (pa.array([{"bytes": b"x", "path": "y"}]), None, [{"bytes": b"x", "path": "y"}]),
        (pa.array([[1.0]], pa.list_(pa.float32())), None, [[1.0]]),
    ],
)
def test_plain(array: pa.Array, kind: pa.DataType | None, expected: list[Any]) -> None:
    found = plain(array)
    assert found.type == plain_type(array.type) == (kind or array.type)
    assert found.to_pylist() == expected
    sliced = plain(array.slice(1))
    sliced.validate(full=True)
    assert sliced.to_pylist() == expected[1:]


def test_a_store_of_other_types_is_the_same_store(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image_id": pa.array(["x", "y", "z"]).dictionary_encode(),
            "features": pa.FixedShapeTensorArray.from_numpy_ndarray(VALUE_BD.reshape(3, 2, 2)),
            "tags": pa.array([["b", "a"], None, ["b"]], pa.list_(pa.string_view())),
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    store = FeatureStore.open(str(path))
    survey = survey_store(store, "fail")
    assert (store.image_dim, survey.train_rows, survey.tagless) == (4, 2, 1)
    assert dict(zip(survey.names.to_pylist(), survey.count_T.tolist(), strict=True)) == {
        "a": 1,
        "b": 2,
    }
    batch = read_unit(survey.train[0], store.columns)
    np.testing.assert_array_equal(batch.features_BD, VALUE_BD[[0, 2]])
    assert batch.image_id_B.to_pylist() == ["x", "z"]
    assert tag_lists(batch) == [["b", "a"], ["b"]]


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null())])
def test_a_file_in_which_no_row_has_a_tag(kind: pa.DataType, tmp_path: Path) -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array(VALUE_BD.ravel()), 4)
    none = [None, [], []] if pa.types.is_list(kind) else [None] * 3
    for name, tags in (("a", pa.array([["t"]] * 3)), ("b", pa.array(none, kind))):
        ids = [f"{name}{row}" for row in range(3)]
        table = pa.table({"image_id": ids, "features": features, "tags": tags})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    survey = survey_store(FeatureStore.open(str(tmp_path)), "fail")
    assert (survey.train_rows, survey.tagless) == (3, 3)
    assert survey.names.to_pylist() == ["t"]


def test_a_null_among_tags_without_a_type_is_a_bad_row(tmp_path: Path) -> None:
    features = pa.FixedSizeListArray.from_arrays(pa.array(VALUE_BD[:1].ravel()), 4)
    tags = pa.array([[None]], pa.list_(pa.null()))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image_id": ["a"], "features": features, "tags": tags}), path)
    with pytest.raises(InputError, match="row 0: tags hold a null"):
        survey_store(FeatureStore.open(str(path)), "fail")


WRITE = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray, ArrowVariableShapedTensorArray
value = np.arange(12, dtype=np.float32).reshape(3, 4)
for name, features in {
    "fixed": ArrowTensorArray.from_numpy(value.reshape(3, 2, 2)),
    "varying": ArrowVariableShapedTensorArray.from_numpy(
        [v.reshape(s, 4 // s) for v, s in zip(value, (1, 2, 4))]
    ),
}.items():
    table = pa.table({"image_id": ["x", "y", "z"], "features": features, "tags": [["a"]] * 3})
    pq.write_table(table, f"{sys.argv[1]}/{name}.parquet")
"""
READ = """
import sys
import numpy as np
from distributed.data.feature_store import FeatureStore, RowSelection, read_unit
from distributed.ingest.sources.table import TableSource
if sys.argv[2] == "ray":
    import ray.data
for name in ("fixed", "varying"):
    path = f"{sys.argv[1]}/{name}.parquet"
    store = FeatureStore.open(path)
    batch = read_unit(RowSelection.without(store.units[0], np.zeros(0, int)), store.columns)
    features = TableSource.open(path).read(0, 3).table.column("features")
    print(batch.features_BD.tolist(), features.to_pylist(), features.type)
"""


def test_tensors_of_ray_data_with_and_without_its_module(tmp_path: Path) -> None:
    """Written by Ray's own classes; read in two processes, of which one knows the extension types."""

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, str(tmp_path), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(WRITE)
    bare, imported = run(READ, "bare"), run(READ, "ray")
    value = np.arange(12, dtype=np.float32).reshape(3, 4).tolist()
    assert bare == imported
    assert bare.splitlines() == [f"{value} {value} fixed_size_list<item: float>[4]"] * 2


def test_features_of_other_types_are_named(tmp_path: Path) -> None:
    table = pa.table({"image_id": ["a"], "features": ["b"], "tags": [["c"]]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'features' is string; it must be"):
        FeatureStore.open(str(tmp_path / "t.parquet"), Columns())
