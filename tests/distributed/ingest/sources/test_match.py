"""Names in a tags file and the files that they mean."""

from __future__ import annotations

import pytest

from distributed.ingest.sources.match import match
from drel_core.errors import InputError

SUFFIXES = frozenset((".jpg", ".png"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("1.jpg", "1.jpg"),
        ("1", "1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("images/1.jpg", "1.jpg"),
        ("images/1", "1.jpg"),
        ("/data/pics/1.jpg", "1.jpg"),
        ("/elsewhere/1.jpg", "1.jpg"),
        ("file:///data/pics/1.jpg", "1.jpg"),
        ("pics\\1.jpg", "1.jpg"),
        ("x/../1.jpg", "1.jpg"),
        ("1.jpg", "1.JPG"),
        ("1", "1.JPG"),
        ("Train/1.JPG", "train/1.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301", "caf\u00e9.jpg"),
        ("1.jpg", "train/1.jpg"),
        ("1", "train/1.jpg"),
        ("cat.1", "cat.1.jpg"),
        (" 1.jpg ", "1.jpg"),
    ],
)
def test_a_name_finds_its_file(name: str, file: str) -> None:
    assert match([name, "other"], ["0.jpg", file], "/data/pics", "t.csv", SUFFIXES) == [1, -1]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/1.jpg", "test/1.jpg"),
        ("1.png", "1.jpg"),
        ("11", "1.jpg"),
        ("", "1.jpg"),
        (".", "1.jpg"),
    ],
)
def test_a_name_that_means_another_file(name: str, file: str) -> None:
    assert match([name], [file], "/data/pics", "t.csv", SUFFIXES) == [-1]


def test_the_exact_path_comes_first() -> None:
    files = ["1.JPG", "1.jpg", "train/1.jpg"]
    assert match(["1.jpg", "1.JPG", "train/1.jpg"], files, "/p", "t.csv", SUFFIXES) == [1, 0, 2]


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (["1"], ["test/1.jpg", "train/1.jpg"], "'1' may be test/1.jpg or train/1.jpg; write"),
        (["1", "2"], ["1.jpg", "1.png", "2.jpg", "2.png"], "1 more names are unclear"),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], "'a/1.jpg' and 'b/1.jpg' would both be"),
    ],
)
def test_what_is_unclear_is_refused(names: list[str], files: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match(names, files, "/p", "t.csv", SUFFIXES)


def test_names_that_differ_in_case_are_two_pictures() -> None:
    assert match(["aB.jpg", "ab.jpg"], ["aB.jpg"], "/p", "t.csv", SUFFIXES) == [0, -1]
    assert match(["AB", "aB", "ab"], ["x/aB.jpg"], "/p", "t.csv", SUFFIXES) == [-1, 0, -1]
    assert match(["A.jpg"], ["a.jpg"], "/p", "t.csv", SUFFIXES) == [0]


def test_several_names_of_one_file() -> None:
    names = ["1.jpg", "./1.jpg", "1", "train/1.jpg"]
    assert match(names, ["train/1.jpg"], "/p", "t.csv", SUFFIXES) == [0, 0, 0, 0]
