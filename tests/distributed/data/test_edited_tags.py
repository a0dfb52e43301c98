"""A tags column after edits, against a loop over its rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from distributed.data.edited_tags import Assigned, edited_column

BECOMES = {"dogs": ("dog",), "bad": (), "old": ("new",)}


def becomes(tag: str) -> tuple[str, ...]:
    return BECOMES.get(tag, (tag,))


def test_tags_become_others_once_a_row_and_all_else_stays() -> None:
    rows = [["dogs", "dog", "cat"], ["bad"], None, ["cat", "cat"], [], ["old", None], [" dogs "]]
    found = edited_column(pa.array(rows), becomes)
    wanted = [["dog", "cat"], [], None, ["cat", "cat"], [], ["new", None], ["dog"]]
    assert found.column.to_pylist() == wanted
    assert found.changed_B.tolist() == [True, True, False, False, False, True, True]


def test_a_column_without_edited_tags_is_given_back() -> None:
    column = pa.array([["cat"], [" cat"], None])  # not even blanks go
    assert edited_column(column, becomes).column is column


def test_a_row_that_had_all_that_its_tags_imply_did_not_change() -> None:
    implied = {"dog": ("dog", "animal"), "puppy": ("puppy", "dog", "animal")}
    rows = [
        ["dog", "animal"],
        ["animal", "sky", "dog"],
        ["dog"],
        ["animal"],
        ["puppy", "animal"],
        ["puppy", "dog", "animal", "sky"],
        [" dog ", "animal"],
        ["dog", "animal", "animal"],
    ]
    found = edited_column(pa.array(rows), lambda tag: implied.get(tag, (tag,)))
    wanted = [False, False, True, False, True, False, True, True]
    assert found.changed_B.tolist() == wanted
    assert [set(row) for row in found.column.to_pylist()] == [
        {new for tag in row for new in implied.get(tag.strip(), (tag.strip(),))} for row in rows
    ]
    column = pa.array(rows[:2])
    assert edited_column(column, lambda tag: implied.get(tag, (tag,))).column is column


def test_parts_of_a_split_tag_go_to_their_images() -> None:
    column = pa.array([["crane", "sky"], ["crane"], ["sky"], ["crane", "dogs"]])
    assigned = Assigned.of(pa.array(["d", "a", "d", "x"]), ["bird", "machine", "machine", "bird"])
    found = edited_column(column, becomes, pa.array(["a", "b", "c", "d"]), [("crane", assigned)])
    wanted = [["machine", "sky"], ["crane"], ["sky"], ["bird", "machine", "dog"]]
    assert found.column.to_pylist() == wanted
    assert found.unassigned_B.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.large_string())]
)
def test_as_a_loop_over_rows_does_it(kind: pa.DataType) -> None:
    random = np.random.default_rng(0)
    names = [f"t{i}" for i in range(30)] + ["dogs", "dog", "bad", "old", "new"]
    rows = [list(random.choice(names, random.integers(0, 6), replace=False)) for _ in range(500)]
    column = pa.array([None, *rows], kind).slice(1)  # a slice has offsets that do not begin at 0

    def edit(tags: list[str]) -> list[str]:
        return list(dict.fromkeys(new for tag in tags for new in becomes(tag)))

    found = edited_column(column, becomes)
    assert found.column.type == kind
    assert found.column.to_pylist() == [edit(tags) for tags in rows]
    assert found.changed_B.tolist() == [edit(tags) != tags for tags in rows]


def test_categories_and_columns_of_nothing() -> None:
    words = pa.array(["dogs", "cat"]).dictionary_encode()
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), words)
    assert edited_column(column, becomes).column.to_pylist() == [["dog"], ["cat"]]
    for empty in (pa.nulls(3), pa.array([[], []]), pa.array([], pa.list_(pa.string()))):
        assert edited_column(empty, becomes).column is empty
