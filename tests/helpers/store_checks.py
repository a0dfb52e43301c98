"""Small stores, their survey as the callers do it, and the naive answers."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distributed.data.check_rows import SurveyOptions, Validation, survey_unit
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureBatch, FeatureStore, RowSelection, read_unit
from distributed.data.survey import OnBadRow, StoreSurvey, merge_surveys
from tests.helpers.stores import planted_table

FLOAT_LIST = pa.list_(pa.float32())


def table(rows: int = 6, dim: int = 4, **replaced: pa.Array) -> pa.Table:
    """A planted store with some columns replaced."""
    columns = {
        name: planted_table(rows, dim).column(name) for name in ("image_id", "features", "tags")
    }
    return pa.table({**columns, **replaced})


def fixed(value_BD: Any, kind: Any = np.float32) -> pa.Array:
    with np.errstate(over="ignore"):  # float16 overflow is one of the cases
        array = np.asarray(value_BD, dtype=kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def ones(row: int, position: int, value: float, kind: Any = np.float32) -> pa.Array:
    array = np.ones((6, 4), dtype=kind)
    array[row, position] = value
    return fixed(array, kind)


def survey(
    store: FeatureStore,
    on_bad_row: OnBadRow = "fail",
    validation: Validation | None = None,
    **options: Any,
) -> StoreSurvey:
    """As the caller does it: units travel to workers and answers come back in any order."""
    how = SurveyOptions(store.columns, store.image_dim, validation, **options)
    answers = [
        pickle.loads(pickle.dumps(survey_unit(unit, how)))
        for unit in pickle.loads(pickle.dumps(store.units))
    ]
    return merge_surveys(store, reversed(answers), on_bad_row)


def write(path: Path, content: pa.Table, **options: Any) -> str:
    pq.write_table(content, path, **options)
    return str(path)


def tag_lists(batch: FeatureBatch) -> list[list[str]]:
    flat, offsets = batch.tag_values.to_pylist(), batch.tag_offsets.tolist()
    return [flat[low:high] for low, high in pairwise(offsets)]


def read_back(reads: list[RowSelection]) -> pa.Table:
    batches = [read_unit(read, Columns()) for read in reads]
    for read, batch in zip(reads, batches, strict=True):
        assert len(batch.image_id_B) == len(batch.features_BD) == read.take
        assert batch.tag_offsets[0] == 0 and batch.tag_offsets[-1] == len(batch.tag_values)
    return pa.table(
        {
            "image_id": pa.concat_arrays([b.image_id_B.cast(pa.string()) for b in batches]),
            "features": list(np.concatenate([b.features_BD for b in batches])),
            "tags": [tags for batch in batches for tags in tag_lists(batch)],
        }
    )


def truth(content: pa.Table) -> tuple[Counter[str], np.ndarray]:
    """The naive form: a Counter over sets of tags, and all features as one array."""
    counts = Counter(tag for tags in content["tags"].to_pylist() for tag in set(tags))
    return counts, np.array(content["features"].to_pylist(), dtype=np.float64)
