"""One form of a tag for every way in: stores, feedback, vocabularies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.canonical_tags import encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import Correction, append, feedback_rows, read_feedback
from distributed.data.survey import survey_store
from distributed.data.tag_values import clean_texts, lookup
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag
from tests.helpers.store_checks import table

ODD = [
    " ",
    " cat ",
    "cat\n",
    "cat",
    "CAT",
    "cafe\u0301",
    "caf\u00e9",
    "\u200b",
    "\ufeffcat",
    "a b",
    "\u00a0x\x00",
]
CLEAN = ["", "cat", "cat", "cat", "CAT", "caf\u00e9", "caf\u00e9", "", "cat", "a b", "x"]


def test_python_and_arrow_agree() -> None:
    assert [clean_tag(text) for text in ODD] == CLEAN
    assert clean_texts(pa.array([*ODD, None])).to_pylist() == [*CLEAN, None]
    assert [clean_tag(text) for text in CLEAN] == CLEAN


def test_a_store_counts_one_tag_once(tmp_path: Path) -> None:
    tags = [["cat", " cat "], ["cat\n"], ["cafe\u0301"], ["caf\u00e9", "CAT"], ["dog"], ["dog"]]
    path = tmp_path / "t.parquet"
    pq.write_table(table(tags=pa.array(tags)), path)
    survey = survey_store(FeatureStore.open(str(path)), "fail")
    assert survey.names.to_pylist() == ["CAT", "caf\u00e9", "cat", "dog"]
    assert survey.count_T.tolist() == [1, 2, 2, 2]
    flat = pa.array([tag for row in tags for tag in row])
    offsets = np.cumsum([0, *map(len, tags)])
    ids, offsets = encode_tags(flat, offsets, survey.names)
    assert ids.tolist() == [2, 2, 1, 0, 1, 3, 3]
    assert offsets.tolist() == [0, 1, 2, 3, 5, 6, 7]


def test_a_blank_tag_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(table(tags=pa.array([["a"], [" "], *[["b"]] * 4])), path)
    with pytest.raises(InputError, match="row 1: tags hold a null or an empty string"):
        survey_store(FeatureStore.open(str(path)), "fail")


def test_names_of_older_vocabularies_are_found_as_they_stand() -> None:
    names = pa.array([" cat ", "cat", "dog"])
    assert lookup(pa.array([" cat ", "cat", "dog ", "x", None]), names).tolist() == [
        0,
        1,
        2,
        -1,
        -1,
    ]
    assert lookup(pa.array(["dog\n"], pa.large_string()), names).tolist() == [2]


def test_feedback_of_earlier_versions_is_cleaned_when_it_is_learned(tmp_path: Path) -> None:
    corrections = [
        Correction(f"i{place}", np.zeros(4, np.float32), [tag], [" old "], "m")
        for place, tag in enumerate([" ", " cat ", "cat\n", "CAT", "cafe\u0301", "caf\u00e9"])
    ]
    append(str(tmp_path / "f"), corrections)
    kept = pa.table({"image_id": ["i1"], "tags": [["old", "new"]]})
    rows, _ = feedback_rows(read_feedback(str(tmp_path / "f"), 4), kept, Columns())
    found = dict(
        zip(rows.column("image_id").to_pylist(), rows.column("tags").to_pylist(), strict=True)
    )
    assert found == {
        "i1": ["cat", "new"],
        "i2": ["cat"],
        "i3": ["CAT"],
        "i4": ["caf\u00e9"],
        "i5": ["caf\u00e9"],
    }
