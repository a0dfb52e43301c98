"""Rules meet the tags of a store: against a loop over rows, in a survey, and in a training."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed.data.blocks import load_rows
from distributed.data.canonical_tags import CanonicalTags, TagIndex, encode_tags, open_rules
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from tests.helpers.rules import SPELLINGS, TAGS, small_rules
from tests.helpers.store_checks import table

rows = st.lists(st.lists(st.sampled_from((*TAGS, *SPELLINGS, "other")), max_size=5), max_size=6)


def flat(lists: list[list[str]]) -> tuple[pa.Array, np.ndarray]:
    offsets = np.cumsum([0, *map(len, lists)])
    return pa.array([tag for tags in lists for tag in tags], pa.string()), offsets


def again(values: pa.Array, offsets: np.ndarray) -> list[list[str]]:
    every = values.to_pylist()
    return [every[low:high] for low, high in pairwise(offsets.tolist())]


@settings(max_examples=150, deadline=None)
@given(small_rules(), rows, st.lists(st.sampled_from((*TAGS, *SPELLINGS)), unique=True))
def test_it_is_what_a_loop_over_rows_gives(rules, lists, vocabulary):
    expected = [rules.applied(tags) for tags in lists]
    values, offsets = CanonicalTags(rules).applied(*flat(lists))
    assert [list(dict.fromkeys(tags)) for tags in again(values, offsets)] == [
        list(dict.fromkeys(t for tag in tags for t in rules.applied([tag]))) for tags in lists
    ]
    column = pa.array([["cut off"], *lists], pa.list_(pa.string())).slice(1)
    assert [set(tags) for tags in CanonicalTags(rules).lists(column).to_pylist()] == [
        set(tags) for tags in expected
    ]
    index = pickle.loads(pickle.dumps(TagIndex(pa.array(vocabulary, pa.string()), rules)))
    ids, ends = encode_tags(*flat(lists), index)
    assert [ids[low:high].tolist() for low, high in pairwise(ends)] == [
        sorted(vocabulary.index(tag) for tag in tags if tag in vocabulary) for tags in expected
    ]


def write(path: Path, tags: list[list[str]], **options: int) -> FeatureStore:
    pq.write_table(table(len(tags), tags=pa.array(tags)), path, **options)
    return FeatureStore.open(str(path))


RULES = TagRules.parse("aliases: {dogs: dog}\nimplies: {dog: animal}\nblocked: [nsfw]")


def test_a_survey_counts_the_tags_that_rules_make(tmp_path):
    tags = [["dogs"], [" dog", "dogs"], ["animal", "nsfw"], ["nsfw"], ["sky", "sky"]]
    store = write(tmp_path / "s.parquet", tags, row_group_size=2)
    found = survey_store(store, "fail", rules=RULES)
    counts = dict(zip(found.names.to_pylist(), found.count_T.tolist(), strict=True))
    assert counts == {"animal": 3, "dog": 2, "sky": 1}
    assert found.tagless == 1 and found.train_rows == 4
    read = load_rows(found.train, store.columns, found.index).tags.tolist()
    names = found.names.to_pylist()
    assert [[names[tag] for tag in row] for row in read] == [
        ["animal", "dog"], ["animal", "dog"], ["animal"], ["sky"],
    ]  # fmt: skip
    assert found.content == survey_store(store, "fail").content  # the store is the same one


def test_rows_that_repeat_an_id_are_surveyed_by_the_rules_as_well(tmp_path):
    store = write(tmp_path / "s.parquet", [["dogs"], ["sky"], ["dogs"]])
    ids = pa.array(["a", "b", "a"])
    pq.write_table(table(3, image_id=ids, tags=pa.array([["dogs"], ["sky"], ["dogs"]])), store.path)
    found = survey_store(FeatureStore.open(store.path), "skip", rules=RULES)
    assert found.names.to_pylist() == ["animal", "dog", "sky"] and len(found.skipped) == 1


def test_the_file_is_read_from_where_it_lies(tmp_path):
    assert open_rules("") is None
    path = tmp_path / "vocabulary.yaml"
    path.write_text(RULES.to_yaml(), encoding="utf-8")
    assert open_rules(str(path)) == RULES
    with pytest.raises(InputError, match=r"none.yaml: cannot read it"):
        open_rules(str(tmp_path / "none.yaml"))


def test_reading_without_rules_takes_the_vocabulary_alone():
    values, offsets = flat([["b", "a"], ["c"]])
    names = pa.array(["a", "b"])
    for index in (names, TagIndex(names), TagIndex(names, TagRules(groups={}))):
        ids, ends = encode_tags(values, offsets, index)
        assert ids.tolist() == [0, 1] and ends.tolist() == [0, 2, 2]
