"""Marks of files: another one when a file was written again, none of what does not count."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from distributed.storage import content
from distributed.storage.content import content_of, content_of_each
from distributed.storage.files import write_bytes
from tests.helpers.s3_server import Bucket


def touch(path: Path, text: str, time: int = 1_000_000_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def test_a_file_that_was_written_again_has_another_mark(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a" / "one.jpg", "1")
    touch(tmp_path / "in" / "two.jpg", "2")
    touch(tmp_path / "tags.csv", "x")
    places = [str(tmp_path / "in"), str(tmp_path / "tags.csv")]
    before = content_of(places)
    assert set(before) == {"a/one.jpg", "two.jpg", "tags.csv"}
    assert content_of(places) == before
    touch(tmp_path / "in" / "two.jpg", "3", time=1_000_000_001)  # as many bytes
    after = content_of(places)
    assert {name for name in after if after[name] != before[name]} == {"two.jpg"}


def test_a_copy_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    touch(tmp_path / "small", "1")
    large = bytearray(5 << 20)
    for place in (0, (5 << 20) - 1):
        (tmp_path / "large").write_bytes(large)
        os.utime(tmp_path / "large", (1_000_000_000, 1_000_000_000))
        before = content_of([str(tmp_path)])
        touch(tmp_path / "small", "1" if place else "2")
        large[place] = 1
        (tmp_path / "large").write_bytes(large)
        os.utime(tmp_path / "large", (1_000_000_000, 1_000_000_000))
        after = content_of([str(tmp_path)])
        assert before["large"] != after["large"] and before["small"] != after["small"]
        assert content_of([str(tmp_path)]) == after


def test_what_does_not_count_has_no_mark(tmp_path: Path) -> None:
    touch(tmp_path / "one.jpg", "1")
    touch(tmp_path / ".DS_Store", "1")
    touch(tmp_path / ".cache" / "two.jpg", "1")
    touch(tmp_path / "store.partial" / "plan.json", "1")
    assert set(content_of([str(tmp_path)], [str(tmp_path / "store.partial")])) == {"one.jpg"}
    assert content_of([str(tmp_path / "not there")]) == {}


def test_a_file_that_may_not_be_read_counts_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be an input; whoever reads it says so."""
    touch(tmp_path / "one.jpg", "1")
    touch(tmp_path / "secret.txt", "22")

    def only_pictures(path: str, mode: str) -> Any:
        if path.endswith(".txt"):
            raise PermissionError(13, "Permission denied")
        return open(path, mode)

    monkeypatch.setattr(content, "open", only_pictures, raising=False)
    marks = content_of([str(tmp_path)])
    assert marks["secret.txt"] == "2 bytes of 1000000000000000000" and "," in marks["one.jpg"]


def test_files_behind_a_link_count(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "one.jpg", "1")
    touch(tmp_path / "in" / "two.jpg", "2")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "again").symlink_to(".")
    before = content_of([str(tmp_path / "in")])
    assert set(before) == {"more/one.jpg", "two.jpg"}
    touch(tmp_path / "far" / "one.jpg", "3", time=1_000_000_001)
    assert content_of([str(tmp_path / "in")]) != before


def test_a_name_that_is_no_text_can_be_noted(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "w"):
        pass
    (name,) = content_of([str(tmp_path)])
    assert name.encode("utf-8") == b"caf\\xe9.jpg"


def test_many_files_have_one_mark_that_names_the_last(tmp_path: Path) -> None:
    for number in range(1001):
        touch(tmp_path / f"{number}.jpg", "1")
    before = content_of([str(tmp_path)])
    touch(tmp_path / "7.jpg", "1", time=1_000_000_001)
    after = content_of([str(tmp_path)])
    assert set(before) == set(after) == {"1001 files"}
    assert before != after and after["1001 files"].endswith("last written: 7.jpg")
    touch(tmp_path / "7.jpg", "2", time=1_000_000_001)  # as cp -p
    assert content_of([str(tmp_path)]) != after


def test_a_file_on_s3_is_known_by_its_etag(s3: Bucket) -> None:
    write_bytes(s3.at("store/a/one.parquet"), b"11")
    write_bytes(s3.at("store/two.parquet"), b"22")
    before = content_of([s3.at("store")])
    assert set(before) == {"a/one.parquet", "two.parquet"}
    write_bytes(s3.at("store/two.parquet"), b"33")  # in the same second
    after = content_of([s3.at("store")])
    assert {name for name in after if after[name] != before[name]} == {"two.parquet"}
    assert set(content_of([s3.at("store/two.parquet")])) == {"two.parquet"}
    write_bytes(s3.at("store/two.parquet"), b"22")
    assert content_of([s3.at("store")]) == before
    assert content_of([s3.at("stor")]) == {} == content_of([s3.at("store/a/one")])
    write_bytes(s3.at("store/.lock"), b"1")
    assert set(content_of([s3.at("store/")])) == {"a/one.parquet", "two.parquet"}


def test_many_files_on_s3_are_known_by_their_etags(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_NAMED", 9)
    for number in range(10):
        write_bytes(s3.at(f"pics/{number}"), b"1")
    s3.proxy.rate = 0.3
    before = content_of([s3.at("pics")])
    (name,) = before
    assert name == "10 files"
    write_bytes(s3.at("pics/7"), b"2")
    assert content_of([s3.at("pics")])[name] != before[name]


def test_single_files_are_known_wherever_they_lie(s3: Bucket, tmp_path: Path) -> None:
    touch(tmp_path / "here.jpg", "1")
    for name in ("a/1.jpg", "a/2.jpg", "b/c/3 %.jpg"):
        write_bytes(s3.at(quote(name)), b"1")
    some = [
        s3.at("a/1.jpg"),
        s3.at("b/c/3%20%25.jpg"),
        s3.at("none.jpg"),
        str(tmp_path / "here.jpg"),
    ]
    before = content_of_each(some)
    assert set(before) == {some[0], some[1], some[3]}
    write_bytes(s3.at("a/2.jpg"), b"2")  # nobody asked for it
    assert content_of_each(some) == before
    write_bytes(s3.at("b/c/3%20%25.jpg"), b"2")
    after = content_of_each(some)
    assert {name for name in after if after[name] != before[name]} == {some[1]}
