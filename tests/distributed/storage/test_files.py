"""Addresses of files below a folder: those of a URI keep its options and escape odd characters."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from distributed.data.parquet_files import folder_columns
from distributed.ingest.sources.picture_options import PictureOptions
from distributed.ingest.sources.pictures import PictureFolder
from distributed.storage.files import address_below, name_below, read_bytes, write_bytes
from tests.helpers.pictures import encoded
from tests.helpers.s3_server import Bucket

URI = "s3://training/data?region=eu-west-1"


@pytest.mark.parametrize("path", ["/data/a b", "s3://b/p", "s3://b/p/?region=x", "s3://b"])
@pytest.mark.parametrize("name", ["a/1.jpg", "a b%20?#.jpg", "caf\u00e9"])
def test_a_name_comes_back_from_its_address(path: str, name: str) -> None:
    assert name_below(address_below(path, name), path) == name


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_below(f"{os.getcwd()}/in/a/1.parquet", "in") == "a/1.parquet"


def test_names_of_folders_are_unpacked_on_s3_as_elsewhere() -> None:
    """Spark escapes a value once, the URI once more."""
    address = address_below(URI, "tag=dark%20blue/0.parquet")
    assert folder_columns(address, URI) == {"tag": "dark blue"}
    assert folder_columns("/d/tag=dark%20blue/0.parquet", "/d") == {"tag": "dark blue"}


def test_pictures_with_odd_names_are_found_on_s3(s3: Bucket, tmp_path: Path) -> None:
    names = ["a b.jpg", "a%20b.jpg", "c#1.jpg"]
    for place, name in enumerate(names):
        write_bytes(address_below(s3.at("pics"), name), encoded(["red"], place))
    (tmp_path / "tags.csv").write_text("image_id,tags\n" + "".join(f"{n},x\n" for n in names))
    options = PictureOptions(tags=str(tmp_path / "tags.csv"))
    for root in (s3.at("pics"), s3.at("pics/?region=us-east-1")):
        table = PictureFolder.open(root, options).read(0, 9).table
        assert table.column("image_id").to_pylist() == sorted(names)
        found = [read_bytes(path) for path in table.column("path").to_pylist()]
        assert found == [encoded(["red"], names.index(name)) for name in sorted(names)]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout: a rename would put a file in the place of the device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(str(pipe), b"all of it")
    reader.join(10)
    assert read == [b"all of it"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]
