"""Tags out of columns of every type; separators; rows that belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm, joined_lists
from drel_core.errors import InputError


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a, b,,", None, "", " c\n"]), [["a", "b"], [], [], ["c"]]),
        (pa.array(["['a', 'b']", "c,d", "[]"]), [["a", "b"], ["c", "d"], []]),
        (pa.array([["a ", None, " "], None, []]), [["a"], [], []]),
        (pa.array([5, None]), [["5"], []]),
        (pa.array([[1, 2], None]), [["1", "2"], []]),
        (pa.array([None, None]), [[], []]),
        (pa.array([["cafe\u0301", "\u200bcafé\ufeff"]]), [["café", "café"]]),
    ],
)
def test_lists(column: pa.Array, expected: list[list[str]]) -> None:
    found = TagForm().lists(column)
    assert found.type == pa.list_(pa.string())
    assert found.to_pylist() == expected
    assert TagForm().lists(column.slice(1)).to_pylist() == expected[1:]


def test_numbers_with_names() -> None:
    form = TagForm(class_names=("cat", "dog"))
    assert form.lists(pa.array([1, -1, None, 0])).to_pylist() == [["dog"], [], [], ["cat"]]
    assert form.lists(pa.array([[1, 0], []])).to_pylist() == [["dog", "cat"], []]
    with pytest.raises(InputError, match=r"f.parquet row 8: label 2 has no name"):
        form.lists(pa.array([[1], [0, 2]]), "f.parquet", 7)


def test_a_list_that_cannot_be_read_names_file_row_and_form() -> None:
    with pytest.raises(
        InputError, match=r"t.csv row 11: tags are .* a list that is cut off; write"
    ):
        TagForm().lists(pa.array(["a", "['b', 'c"]), "t.csv", 10)


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_(), pa.list_(pa.float32()), pa.date32()])
def test_types_that_hold_no_tags(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match=r"column 'tags' is .*; it must be lists of text"):
        TagForm.check("t.parquet", "tags", kind)


def checked(texts: list[Any], separator: str = ",") -> str | None:
    check = SeparatorCheck(separator)
    for start in range(0, len(texts), 2):
        check.add(pa.array(texts[start : start + 2], pa.string()), start)
    return check.finish("t.csv")


@pytest.mark.parametrize(
    ("texts", "separator", "message"),
    [
        (["cat;dog", "dog;sky"], ",", "2 of 2 have ';' .row 0: 'cat;dog'.; give --separator ';'"),
        ([None, "", "a|b", "c"], ",", None),
        (["x", "a|b", "c|d"], ",", r"2 of 3 have '\|' .row 1: 'a\|b'.; give --separator '\|'"),
        (["a\tb", "c\td"], ";", "give --separator"),
        (["a,b", "c,d"], ";", "give --separator ','"),
        (["a;b,c", "d;e"], ",", None),
        (["['a;b']", "['c;d']"], ",", None),
        (["a\n", "b\n"], ",", None),
    ],
)
def test_another_separator_is_noticed(
    texts: list[Any], separator: str, message: str | None
) -> None:
    if message is None:
        assert checked(texts, separator) is None
    else:
        with pytest.raises(InputError, match=message):
            checked(texts, separator)


def test_another_separator_in_few_rows_is_told() -> None:
    note = checked(["a;b", "c;d", "e", "f", "g"])
    assert note is not None
    assert "2 of 5 have ';'" in note


def test_texts_that_programs_write_for_nothing_are_told() -> None:
    """They stay tags: somebody may be called so."""
    note = checked(["nan", "cat", " nan", "NULL", "nan,cat", "None of these", None])
    assert (
        note == "t.csv: 2 rows have 'nan' for their tags; if it means none, leave the field empty"
    )
    assert TagForm().lists(pa.array(["nan"])).to_pylist() == [["nan"]]
    assert checked(["cat", "<NA>"]) is not None and checked(["nanny", "", "a"]) is None


def test_another_separator_in_most_rows_is_told_though_some_have_the_own() -> None:
    note = checked(["new york, ny;city", *["a;b"] * 9])
    assert note is not None
    assert "1 of 10 rows have ',' between tags, but 10 of 10 have ';'" in note
    assert checked(["a|b, c|d", *["a|b"] * 8]) is None


def test_tags_of_rows_that_belong_together() -> None:
    lists = pa.array([["b", "a"], ["c"], [], ["a", "d"], ["x"]], pa.list_(pa.string()))
    found = joined_lists(lists, np.array([1, 0, 3, 1, -1]), 4)
    assert found.to_pylist() == [["c"], ["b", "a", "d"], [], []]
