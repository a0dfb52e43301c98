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
from distributed.data.tag_values import TagCodes, sorted_unique
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
    kept = CanonicalTags(rules, keep_split=True).lists(column).to_pylist()
    assert [set(tags) for tags in kept] == [{*rules.applied(tags, True)} for tags in lists]
    codes, row_n = TagCodes.of(flat(lists)[0]), np.repeat(np.arange(len(lists)), [*map(len, lists)])
    found = CanonicalTags(rules).pairs(codes, row_n)
    names = found.names.to_pylist()
    pairs = {(row, names[tag]) for row, tag in zip(found.row_m, found.id_m, strict=True)}
    assert pairs == {(row, tag) for row, tags in enumerate(expected) for tag in tags}
    assert {tag: rows.tolist() for tag, rows in found.undecided.items()} == {
        tag: rows
        for tag in rules.split
        if (rows := [row for row, tags in enumerate(lists) if tag in rules.undecided(tags)])
    }
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


SPLIT = TagRules.parse(
    "aliases: {cranes: crane}\nimplies: {heron: bird crane}\nsplit: {crane: [bird crane, big machine]}"
)


def test_rows_that_name_no_part_of_a_split_tag_are_left_out_with_one_line(tmp_path):
    """Every tag that a row does not name is irrelevant to it: it would teach that it has no part."""
    tags = [
        ["crane", "sky"], ["cranes", "sky"], ["crane", "bird crane"], ["crane", "heron"], ["crane"], ["sky"],
    ]  # fmt: skip
    store = write(tmp_path / "s.parquet", tags, row_group_size=2)
    lines: list[str] = []
    found = survey_store(store, "fail", rules=SPLIT, log=lines.append)
    assert found.undecided == {"crane": 3} and found.undecided_rows == 3 and found.tagless == 0
    read = load_rows(found.train, store.columns, found.index).tags.tolist()
    names = found.names.to_pylist()
    assert [[names[tag] for tag in row] for row in read] == [
        ["bird crane"], ["bird crane", "heron"], ["sky"],
    ]  # fmt: skip
    (line,) = lines
    assert line == (
        f"WARNING: {store.path}: 3 rows left out for a split tag without any of its parts: 3 with "
        "'crane' (now 'bird crane', 'big machine'). Say which part each has: python -m jobs.tags --data "
        f"{store.path} --split 'crane=bird crane,big machine' --assign PARTS.csv --out NEW_STORE"
    )
    write(tmp_path / "only.parquet", [["crane"], ["cranes"]])
    with pytest.raises(InputError, match="0 have no tags, 2 a split tag and no part, 0 are bad"):
        survey_store(FeatureStore.open(str(tmp_path / "only.parquet")), "fail", rules=SPLIT)


def test_a_store_keeps_a_split_tag_for_who_knows_its_part():
    column = pa.array([["cranes"], ["crane", "heron"]])
    kept = CanonicalTags(SPLIT, keep_split=True).lists(column).to_pylist()
    assert kept == [["crane"], ["crane", "heron", "bird crane"]]


def test_keys_in_order_and_out_of_it_are_made_different():
    for key in ([], [3], [3, 3], [1, 2, 2, 9, 4, 4], [5, 4, 3]):
        assert sorted_unique(np.array(key, np.int64)).tolist() == sorted(set(key))


def test_texts_that_have_one_clean_form_are_one_name():
    values = pa.array([" dog", "dog", None, "cat ", "dog\n", ""])
    codes = TagCodes.of(values)
    assert codes.values.to_pylist() == ["dog", "dog", None, "cat", "dog", ""]
    names = [*codes.names.to_pylist(), None]
    assert [names[code] for code in codes.code_n] == codes.values.to_pylist()
    assert codes.is_empty_n.tolist() == [False, False, True, False, False, True]
    again = TagCodes.of(values.dictionary_encode())
    assert again.values.to_pylist() == codes.values.to_pylist()
    assert again.code_n.tolist() == codes.code_n.tolist()


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
