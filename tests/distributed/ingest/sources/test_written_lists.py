"""Lists that were written as text, in the forms of those who write them."""

from __future__ import annotations

import pytest

from distributed.ingest.sources.written_lists import read_list


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['cat', 'dog']", ["cat", "dog"]),
        ("[\"o'hara\", 'x']", ["o'hara", "x"]),
        ('["cat","dog"]', ["cat", "dog"]),
        ('["caf\\u00e9", "a\\"b"]', ["café", 'a"b']),
        ("[]", []),
        ("{}", []),
        ("set()", []),
        ("['cat' 'dog'\n 'o\\'hara']", ["cat", "dog", "o'hara"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("[np.str_('a'), np.str_('b')]", ["a", "b"]),
        ("Index(['a'], dtype='object')", ["a"]),
        ("frozenset({'a'})", ["a"]),
        ("('a', 'b')", ["a", "b"]),
        ('c("cat", "dog")', ["cat", "dog"]),
        ('{cat,"hot dog, large"}', ["cat", "hot dog, large"]),
        ("[cat, dog]", ["cat", " dog"]),
        ("[cat]", ["cat"]),
        ("'a','b'", ["a", "b"]),
        ("[1, 2]", ["1", "2"]),
        ("[None, 'a', nan]", ["a"]),
        ("(cat)", None),
        ("'80s, rock", None),
        ("[a],[b]", None),
        ("[", None),
        ("c(1)", None),
    ],
)
def test_read_list(text: str, expected: list[str] | None) -> None:
    assert read_list(text, ",") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"name": "cat"}]', "lists or objects"),
        ("[['a'], ['b']]", "lists or objects"),
        ('{"cat": 1}', "not a list of texts"),
        ("['cat', 'do", "cut off"),
        ("[cat, do", "cut off"),
        ("['a' 'b' ... 'z']", "cut short"),
        ("[0.1, 0.9]", "numbers"),
        ("[cat; dog]", "';' between"),
    ],
)
def test_lists_that_hold_no_texts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_list(text, ",")
