"""Marks of files: another one when a file was written again, none of what does not count."""

from __future__ import annotations

import os
from pathlib import Path

from distributed.storage.content import content_of
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


def test_what_does_not_count_has_no_mark(tmp_path: Path) -> None:
    touch(tmp_path / "one.jpg", "1")
    touch(tmp_path / ".DS_Store", "1")
    touch(tmp_path / ".cache" / "two.jpg", "1")
    touch(tmp_path / "store.partial" / "plan.json", "1")
    assert set(content_of([str(tmp_path)], [str(tmp_path / "store.partial")])) == {"one.jpg"}
    assert content_of([str(tmp_path / "not there")]) == {}


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
