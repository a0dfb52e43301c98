"""Folders of pictures with a tags file, and Parquet of pictures: which picture has which tags."""

from __future__ import annotations

import os
from pathlib import Path

from distributed.ingest.sources.pictures import PictureFolder, PictureOptions
from tests.helpers.pictures import encoded


def folder_of(root: Path, *names: str | bytes) -> Path:
    """A folder of real pictures."""
    for place, name in enumerate(names):
        path = Path(os.fsdecode(root)) / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(["red"], place))
    return root


def test_a_name_that_is_not_utf8_is_one_rejected_row(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg", b"caf\xe9.jpg", "2.jpg")
    (pictures / "again").symlink_to(".")
    (tmp_path / "tags.csv").write_text("image_id,tags\n1,cat\n2,dog\n")
    options = PictureOptions(tags=str(tmp_path / "tags.csv"))
    source = PictureFolder.open(str(pictures), options)
    assert source.num_rows == 3
    chunks = [source.read(start, 2) for start in (0, 2)]
    assert [row["path"] for row in chunks[0].table.to_pylist()] == [
        f"{pictures}/1.jpg",
        f"{pictures}/2.jpg",
    ]
    assert chunks[1].table.num_rows == 0
    assert chunks[1].rejected.to_pylist() == [
        {
            "image_id": None,
            "where": f"{pictures}/caf\\xe9.jpg",
            "reason": "its name is not UTF-8; rename the file",
        }
    ]
