"""Folders with odd names and links."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from distributed.data.feature_store import FeatureStore
from distributed.storage.folder import Folder
from distributed.storage.listing import list_tree
from tests.helpers.stores import planted_table

ODD = b"caf\xe9"


def names(root: Path) -> list[str]:
    files = list_tree(pafs.LocalFileSystem(), str(root)).files
    return [os.path.relpath(path, root) for path, _ in files]


def test_names_that_are_not_utf8_are_listed_apart(tmp_path: Path) -> None:
    os.mkdir(bytes(tmp_path) + b"/" + ODD)
    for name in (b"a.jpg", ODD + b".jpg", ODD + b"/b.jpg", "\u00e9.jpg".encode()):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"1234")
    found = list_tree(pafs.LocalFileSystem(), str(tmp_path))
    assert found.files == [(f"{tmp_path}/a.jpg", 4), (f"{tmp_path}/\u00e9.jpg", 4)]
    assert found.unreadable == [f"{tmp_path}/caf\\xe9.jpg", f"{tmp_path}/caf\\xe9/b.jpg"]
    assert Folder.of(tmp_path).files() == {"a.jpg": 4, "\u00e9.jpg": 4}


def test_links_are_followed_and_no_folder_is_listed_twice(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    (root / "z" / "deep").mkdir(parents=True)
    away.mkdir()
    for path in (root / "1", root / "z" / "deep" / "2", away / "3"):
        path.write_bytes(b"")
    for name, target in {
        "again": root,
        "early": root / "z" / "deep",
        "linked": away,
        "more": away,
        "nowhere": tmp_path / "none",
    }.items():
        (root / name).symlink_to(target)
    (root / "itself").symlink_to("itself")
    (away / "back").symlink_to(root)
    (root / "file").symlink_to(root / "1")
    assert names(root) == ["1", "file", "linked/3", "z/deep/2"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_tree(pafs.LocalFileSystem(), str(tmp_path / "none"))
    assert list_tree(pafs.LocalFileSystem(), str(tmp_path / "none"), missing_ok=True).files == []


def test_a_store_with_a_stray_name_beside_it_opens(tmp_path: Path) -> None:
    pq.write_table(planted_table(10), tmp_path / "base.parquet")
    with open(bytes(tmp_path) + b"/notes-" + ODD + b".txt", "w"):
        pass
    (tmp_path / "again").symlink_to(".")
    assert FeatureStore.open(str(tmp_path)).num_rows == 10
