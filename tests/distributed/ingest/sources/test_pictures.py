"""Folders of pictures with a tags file, and Parquet of pictures: which picture has which tags."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.ingest.sources.picture_options import PictureOptions
from distributed.ingest.sources.picture_parquet import PictureParquet
from distributed.ingest.sources.pictures import PictureFolder
from distributed.storage.files import write_bytes
from drel_core.errors import InputError
from tests.helpers.pictures import encoded
from tests.helpers.s3_server import Bucket


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


def test_hidden_pictures_are_passed_over(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "a/1.jpg", "a/.thumbnails/1.jpg", "a/._1.jpg")
    assert rows_of(opened(tmp_path, pictures, "image_id,tags\n1,cat\n")) == {"1": ["cat"]}


def opened(root: Path, pictures: Path, lines: str, **options: str) -> PictureFolder:
    (root / "tags.csv").write_text(lines, "utf-8")
    return PictureFolder.open(str(pictures), PictureOptions(tags=str(root / "tags.csv"), **options))


def rows_of(source: PictureFolder | PictureParquet) -> dict[str, list[str]]:
    table = source.read(0, source.num_rows).table
    return dict(
        zip(table.column("image_id").to_pylist(), table.column("tags").to_pylist(), strict=True)
    )


def test_rows_of_one_picture_are_joined(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg", "2.jpg")
    long = "ImageID,LabelName\n1,cat\n1,dog\n2,dog\n2.jpg,sky\n./1.jpg,cat\n"
    source = opened(tmp_path, pictures, long, id_column="ImageID", tags_column="LabelName")
    assert rows_of(source) == {"1": ["cat", "dog"], "2": ["dog", "sky"]}
    assert source.read(0, 9).rejected.num_rows == 0


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("1.jpg", "2.jpg"), ("images/1.jpg", "images/2.jpg")),
        (("1.jpg", "2.jpg"), ("./1.jpg", "./2.jpg")),
        (("1.jpg", "2.jpg"), ("ROOT/1.jpg", "ROOT/2.jpg")),
        (("1.JPG", "2.jpg"), ("1.jpg", "2.jpg")),
        (("cafe\u0301.jpg", "2.jpg"), ("caf\u00e9.jpg", "2.jpg")),
        (("1", "2.jpg"), ("1", "2")),
        (("1.heic", "2.jpg"), ("1", "2")),
        (("train/1.jpg", "test/2.jpg"), ("1", "2")),
    ],
)
def test_pictures_and_tags_find_each_other(
    files: tuple[str, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    pictures = folder_of(tmp_path / "pics", *files)
    names = tuple(name.replace("ROOT", str(pictures)) for name in names)
    source = opened(tmp_path, pictures, f"image_id,tags\n{names[0]},cat\n{names[1]},dog\n")
    assert rows_of(source) == {names[0]: ["cat"], names[1]: ["dog"]}
    assert source.read(0, 9).rejected.num_rows == 0
    assert source.notes == ()


@pytest.mark.parametrize("column", ["image", "File_Name", "path", "key"])
def test_the_column_of_names_is_found_by_its_usual_names(column: str, tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg")
    source = opened(tmp_path, pictures, f"tags,{column}\ncat,1.jpg\n")
    assert rows_of(source) == {"1.jpg": ["cat"]}


def test_a_name_of_two_pictures_is_refused(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "train/1.jpg", "test/1.jpg")
    with pytest.raises(InputError, match=r"'1' may be test/1\.jpg or train/1\.jpg"):
        opened(tmp_path, pictures, "image_id,tags\n1,cat\n")


def test_what_has_no_partner_is_shown_by_an_example_of_each_side(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg", "2.jpg")
    with pytest.raises(InputError, match=r"it has 'x', the folder '1\.jpg'"):
        opened(tmp_path, pictures, "image_id,tags\nx,cat\ny,dog\n")
    source = opened(tmp_path, pictures, "image_id,tags\nx,cat\n2,dog\n")
    (note,) = opened(tmp_path, pictures, "image_id,tags\nx,cat\n2,dog\n1,sky\n").notes
    assert note.endswith("1 name without a picture (such as 'x')")  # it is one of the rows
    (note,) = source.notes
    assert "1 name without a picture (such as 'x')" in note
    assert "1 picture that it does not name (such as '1.jpg')" in note
    assert sorted(row["reason"] for row in source.read(0, 9).rejected.to_pylist()) == [
        "named in the tags file, no picture",
        "not in the tags file",
    ]


def test_a_tags_file_beside_the_pictures_is_pointed_at(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg")
    (pictures / "labels.csv").write_text("image_id,tags\n1,cat\n")
    with pytest.raises(InputError, match=f"give --tags {pictures}/labels.csv"):
        PictureFolder.open(str(pictures), PictureOptions(tags="labels.csv"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (pa.array(["a,b", "c"]).dictionary_encode(), [["a", "b"], ["c"]]),
        (pa.array(["a,b", None], pa.string_view()), [["a", "b"], []]),
        (pa.array([5, 7]), [["5"], ["7"]]),
        (pa.array([None, None]), [[], []]),
        (pa.array([["a"], None], pa.list_(pa.string_view())), [["a"], []]),
    ],
)
def test_tags_of_every_type(tags: pa.Array, expected: list[list[str]], tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg", "2.jpg")
    ids = pa.array(["1", "2"]).dictionary_encode()
    pq.write_table(pa.table({"image_id": ids, "tags": tags}), tmp_path / "t.parquet")
    source = PictureFolder.open(str(pictures), PictureOptions(tags=str(tmp_path / "t.parquet")))
    assert list(rows_of(source).values()) == expected

    images = pa.array([encoded(["red"], row) for row in range(2)], pa.binary())
    table = pa.table({"image_id": ids, "tags": tags, "image": images})
    pq.write_table(table, tmp_path / "p.parquet")
    parquet = PictureParquet.open(str(tmp_path / "p.parquet"), PictureOptions())
    assert list(rows_of(parquet).values()) == expected


@pytest.mark.parametrize("tags", [pa.array([0.5, 1.0]), pa.array([True, False])])
def test_types_that_hold_no_tags_are_refused(tags: pa.Array, tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg")
    images = pa.array([b"x", b"y"], pa.binary())
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image_id": ["1", "2"], "tags": tags, "image": images}), path)
    with pytest.raises(InputError, match="column 'tags' is"):
        PictureFolder.open(str(pictures), PictureOptions(tags=str(path)))
    with pytest.raises(InputError, match="column 'tags' is"):
        PictureParquet.open(str(path), PictureOptions())


def test_rows_of_one_picture_in_parquet(tmp_path: Path) -> None:
    one, two = encoded(["red"], 0), encoded(["blue"], 1)
    table = pa.table(
        {
            "image_id": ["1", "1", "2", "2"],
            "image": pa.array([one, one, two, two], pa.binary()),
            "tags": ["cat", "dog", "dog", "dog"],
        }
    )
    path = tmp_path / "p.parquet"
    pq.write_table(table, path, row_group_size=1)
    source = PictureParquet.open(str(path), PictureOptions())
    for size in (1, 3, 4):
        tables = [source.read(start, size).table for start in range(0, 4, size)]
        tags = pa.concat_tables(tables).column("tags").to_pylist()
        assert tags == [
            ["cat", "dog"],
            ["dog"],
            ["dog"],
        ]  # the last row is found to be repeated later
    pq.write_table(table.set_column(1, "image", pa.array([one, two] * 2, pa.binary())), path)
    with pytest.raises(InputError, match=r"row 0 and .* row 1: both are image '1', with other"):
        PictureParquet.open(str(path), PictureOptions())


def test_a_wrong_separator_is_refused(tmp_path: Path) -> None:
    pictures = folder_of(tmp_path / "pics", "1.jpg", "2.jpg")
    lines = "image_id,tags\n1,cat;dog\n2,dog;sky\n"
    with pytest.raises(InputError, match="give --separator ';'"):
        opened(tmp_path, pictures, lines)
    assert rows_of(opened(tmp_path, pictures, lines, separator=";"))["1"] == ["cat", "dog"]


def test_only_names_below_the_input_say_train_or_test(s3: Bucket) -> None:
    """Not the folders above it, nor the options of a URI; and files of one name in two folders are two."""
    table = pa.table({"image": [encoded(["red"], 0)], "tags": [["x"]]})
    for name in ("a/0.parquet", "b/0.parquet", "test/0.parquet"):
        with BytesIO() as file:
            pq.write_table(table, file)
            write_bytes(s3.at(f"training/{name}"), file.getvalue())
    for root in (s3.at("training"), s3.at("training/?region=us-east-1")):
        source = PictureParquet.open(root, PictureOptions())
        found = source.read(0, 9).table
        assert found.column("image_id").to_pylist() == ["a/0-0", "b/0-0", "test/0-0"]
        assert found.column("split").to_pylist() == [None, None, "test"]
        assert "2 files named neither train nor test (such as a/0.parquet)" in source.notes[-1]
