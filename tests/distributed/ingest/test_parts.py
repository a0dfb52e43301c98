"""One chunk of pictures: what the bytes say is a rejection, what merely fails ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.ingest import parts
from distributed.ingest.parts import PartPlan, read_chunk
from distributed.ingest.sources.pictures import PictureFolder, PictureOptions
from distributed.storage.folder import Folder
from drel_core.errors import InputError
from jobs.ingest import IngestConfig, with_absolute_paths
from tests.helpers.pictures import encoded
from tests.helpers.s3_server import Bucket

NAMES = ("a", "b", "c", "d")


def plan(folder: Path) -> PartPlan:
    return PartPlan(str(folder), 100, lowercase=False, dtype="float32", max_pixels=10_000)


def pictures(folder: Path, tmp_path: Path) -> PictureOptions:
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / f"{name}.png").write_bytes(encoded(["red"], number))
    (folder / "b.png").write_bytes(b"\x89PNG and no more")
    tags = tmp_path / "tags.csv"
    tags.write_text("id,tags\n" + "".join(f"{name},x\n" for name in NAMES))
    return PictureOptions(tags=str(tags))


def test_a_picture_that_cannot_be_read_is_no_rejection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_WAITS", (0.01, 0.01))
    folder = tmp_path / "pictures"
    options = pictures(folder, tmp_path)
    source = PictureFolder.open(str(folder), options)
    found = read_chunk(source, plan(tmp_path), 0)
    assert found.table.column("image_id").to_pylist() == ["a", "c", "d"]
    (gone,) = [table for table in found.rejected if len(table)]
    assert gone.column("image_id").to_pylist() == ["b"]
    (folder / "c.png").unlink()  # since it was listed
    with pytest.raises(InputError, match=r"c.png: cannot be read \(.*it was there"):
        read_chunk(source, plan(tmp_path), 0)
    (folder / "c.png").symlink_to("/proc/self/mem")  # reading it is an input/output error
    with pytest.raises(InputError, match=r"c.png: cannot be read \(.*goes on from here"):
        read_chunk(source, plan(tmp_path), 0)


def test_too_little_memory_is_no_rejection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    source = PictureFolder.open(str(folder), pictures(folder, tmp_path))

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(parts, "decode", exhausted)
    with pytest.raises(InputError, match=r"a\.png: not enough memory"):
        read_chunk(source, plan(tmp_path), 0)


def test_pictures_on_s3_read_as_local_ones_and_an_outage_rejects_none(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_WAITS", (0.01,))
    folder = tmp_path / "pictures"
    options = pictures(folder, tmp_path)
    Folder.of(s3.at("deep/pics")).put_all(folder, last="")
    local = read_chunk(PictureFolder.open(str(folder), options), plan(tmp_path), 0)
    s3.proxy.rate = 0.5
    source = PictureFolder.open(s3.at("deep/pics"), options)
    remote = read_chunk(source, plan(tmp_path), 0)
    assert s3.proxy.injected.total() > 0
    assert remote.table.equals(local.table)
    for one, other in zip(remote.pictures, local.pictures, strict=True):
        assert one.tobytes() == other.tobytes()
    assert [len(table) for table in remote.rejected] == [len(table) for table in local.rejected]
    s3.proxy.rate = 1.0
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(InputError, match=r"s3://.*png: cannot be read"):
        read_chunk(source, plan(tmp_path), 0)


def test_paths_mean_what_they_mean_where_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = IngestConfig(source="images", input="../pics", tags="tags.csv", out="~/out")
    found = with_absolute_paths(config)
    assert found.input == str(tmp_path / "../pics") and found.tags == str(tmp_path / "tags.csv")
    assert found.out == str(Path("~/out").expanduser())
    elsewhere = with_absolute_paths(IngestConfig(source="images", input="s3://b/p", out="s3://b/o"))
    assert (elsewhere.input, elsewhere.out) == ("s3://b/p", "s3://b/o")
