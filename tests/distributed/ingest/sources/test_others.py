"""Data sets as other tools wrote them (tests/data/others): what is read, and that it can be learned."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver.in_process import launch
from distributed.ingest.parts import PartPlan, matrix, read_chunk, with_features
from distributed.ingest.sources.base import FEATURES, Source
from distributed.ingest.sources.picture_options import PictureOptions
from distributed.ingest.sources.picture_parquet import PictureParquet
from distributed.ingest.sources.pictures import PictureFolder, open_pictures
from distributed.ingest.sources.table import TableOptions, TableSource
from distributed.ingest.sources.web_dataset import WebDataset
from distributed.training.run_spec import RunSpec
from drel_core.annotators.load import load_bundle
from drel_core.errors import InputError
from tests.helpers.others import (
    IDS,
    NAMES,
    OTHERS,
    ROWS,
    TAGS,
    write_coco,
    write_files,
    write_open_images,
)
from tests.helpers.pictures import encoded
from tests.helpers.training import small_config


def single() -> Source:
    return PictureParquet.open(str(OTHERS / "hugging_face" / "single"), PictureOptions())


def objects() -> PictureParquet:
    options = PictureOptions(tags_column="objects.category")
    return PictureParquet.open(str(OTHERS / "hugging_face" / "objects.parquet"), options)


def features(column: str) -> Source:
    path = str(OTHERS / "hugging_face" / "features.parquet")
    return TableSource.open(path, TableOptions(features_column=column))


def coco(root: Path, **changed: Any) -> PictureFolder:
    options = PictureOptions(tags=str(write_coco(root, **changed)))
    return PictureFolder.open_annotated(str(write_files(root)), "coco", options)


def open_images(root: Path, **options: Any) -> PictureFolder:
    given = PictureOptions(**{**write_open_images(root), **options})
    return PictureFolder.open_annotated(str(write_files(root)), "openimages", given)


def web_dataset() -> WebDataset:
    return WebDataset.open(str(OTHERS / "web_dataset"), PictureOptions())


def table(name: str) -> TableSource:
    return TableSource.open(str(OTHERS / name), TableOptions(split=""))


KINDS: dict[str, Callable[[Path], Source]] = {
    "single": lambda _: single(),
    "objects": lambda _: objects(),
    "matrix": lambda _: features("matrix"),
    "vector": lambda _: features("vector"),
    "ray data": lambda _: table("ray_data"),
    "spark": lambda _: table("spark"),
    "coco": coco,
    "open images": open_images,
    "web dataset": lambda _: web_dataset(),
}


def rows_of(source: Source) -> list[tuple[Any, ...]]:
    chunk = source.read(0, source.num_rows)
    assert chunk.rejected.num_rows == 0
    pieces = [source.read(start, 5).table for start in range(0, source.num_rows, 5)]
    assert pa.concat_tables(pieces).to_pylist() == chunk.table.to_pylist()
    names = ("image_id", "tags", "split")
    return list(zip(*(chunk.table.column(name).to_pylist() for name in names), strict=True))


def test_one_class_an_image_of_datasets() -> None:
    """Test rows come first: files are read in order of their names."""
    found = rows_of(single())
    order = [*range(18, ROWS), *range(18)]
    assert found == [
        (f"{row:03d}.jpg", [NAMES[row % 4]], "test" if row >= 18 else "train") for row in order
    ]


def test_what_save_to_disk_writes_is_told(tmp_path: Path) -> None:
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"load_from_disk\(\.\.\.\)\.to_parquet"):
        open_pictures(str(tmp_path), PictureOptions())


def test_objects_of_datasets() -> None:
    source = objects()
    assert rows_of(source) == [(f"objects-{r}", tags, None) for r, tags in enumerate(TAGS)]
    assert "pictures are named by file and row" in source.notes[0]


@pytest.mark.parametrize("column", ["matrix", "vector"])
def test_arrays_of_datasets(column: str) -> None:
    source = features(column)
    assert [row[:2] for row in rows_of(source)] == list(zip(IDS, TAGS, strict=True))
    value_BD = matrix(source.read(0, ROWS).table)
    assert value_BD.shape == (ROWS, 8)
    for row, tags in enumerate(TAGS):
        assert sorted(np.argsort(-value_BD[row])[: len(tags)]) == sorted(map(NAMES.index, tags))


def test_tensors_of_ray_data() -> None:
    assert [row[:2] for row in rows_of(table("ray_data"))] == list(zip(IDS, TAGS, strict=True))
    assert matrix(table("ray_data").read(0, ROWS).table).shape == (ROWS, 8)


def split_rows(rows: Iterable[int]) -> list[tuple[str, list[str], str]]:
    """As make.py splits: every fourth is a test row, and test lies before train."""
    found = [(IDS[r], TAGS[r], "test" if r % 4 == 3 else "train") for r in rows]
    return sorted(found, key=lambda row: row[2])


def test_folders_of_spark() -> None:
    """What Spark writes beside the rows (_SUCCESS, .crc) is passed over; the folders say the split."""
    assert rows_of(table("spark")) == split_rows(range(ROWS))
    assert FeatureStore.open(str(OTHERS / "spark" / "split=train")).num_rows == 18


def test_a_column_that_folders_say(tmp_path: Path) -> None:
    for name, ids in (("red", ["a", "b"]), ("dark%20blue", ["c"])):
        (tmp_path / f"tag={name}").mkdir()
        values = pa.array([[1.0, 2.0]] * len(ids))
        pq.write_table(
            pa.table({"image_id": ids, "features": values}), tmp_path / f"tag={name}" / "0.parquet"
        )
    source = TableSource.open(str(tmp_path), TableOptions(tags_column="tag"))
    assert [row[:2] for row in rows_of(source)] == [
        ("c", ["dark blue"]),
        ("a", ["red"]),
        ("b", ["red"]),
    ]
    (tmp_path / "tag=red").rename(tmp_path / "tag=__HIVE_DEFAULT_PARTITION__")  # a null there
    chunk = TableSource.open(str(tmp_path), TableOptions(tags_column="tag")).read(0, 9)
    assert chunk.table.column("tags").to_pylist() == [["dark blue"]]
    assert chunk.rejected.column("reason").to_pylist() == ["no tags", "no tags"]


def test_a_delta_table_has_the_rows_of_its_last_version(tmp_path: Path) -> None:
    found = rows_of(table("delta"))
    changed = [row for row in split_rows(range(ROWS)) if row[0] not in ("005", "006")]
    assert sorted(found) == sorted([*changed, ("six", TAGS[6], "train")])
    rows = {
        option: FeatureStore.open(str(OTHERS / "delta"), option=option).num_rows
        for option in ("--store", "--data.train", "--data.test")
    }
    splits = [split for _, _, split in found]
    assert rows == {
        "--store": ROWS - 1,
        "--data.train": splits.count("train"),
        "--data.test": splits.count("test"),
    }

    copy = tmp_path / "delta"
    shutil.copytree(OTHERS / "delta", copy)
    log = copy / "_delta_log"
    (log / f"{1:020d}.json").unlink()
    with pytest.raises(InputError, match="lacks version 1; copy the whole table"):
        FeatureStore.open(str(copy))
    last = log / f"{3:020d}.json"
    actions = [json.loads(line) for line in last.read_text().splitlines()]
    adds = [action["add"] for action in actions if "add" in action]
    pq.write_table(pa.table({"add": pa.array([*adds, None])}), log / f"{3:020d}.checkpoint.parquet")
    count = FeatureStore.open(str(copy)).num_rows
    assert count == sum(json.loads(add["stats"])["numRecords"] for add in adds)
    next(copy.glob(adds[0]["path"].replace("[", "?"))).unlink()
    with pytest.raises(InputError, match="this Delta table has no file split=train"):
        FeatureStore.open(str(copy))
    last.write_text(json.dumps({"add": adds[0] | {"deletionVector": {"storageType": "u"}}}))
    (log / f"{3:020d}.checkpoint.parquet").unlink()
    shutil.copy(OTHERS / "delta" / "_delta_log" / f"{1:020d}.json", log)
    with pytest.raises(InputError, match="leaves out rows of its files"):
        FeatureStore.open(str(copy))


def test_annotations_of_coco(tmp_path: Path) -> None:
    source = coco(tmp_path)
    assert rows_of(source) == [(f"{row:03d}.jpg", tags, None) for row, tags in enumerate(TAGS)]
    assert source.notes == (
        f"{tmp_path}/instances.json: 1 name without a picture (such as 'elsewhere.jpg')",
    )


@pytest.mark.parametrize("kind", [str, float])
def test_ids_of_coco_of_another_type(kind: type, tmp_path: Path) -> None:
    """As tools write them that keep numbers as text, or went through a table with nulls."""
    whole = json.loads(write_coco(tmp_path).read_text())
    for one in whole["annotations"]:
        one["image_id"], one["category_id"] = kind(one["image_id"]), kind(one["category_id"])
    source = coco(tmp_path, annotations=whole["annotations"])
    assert rows_of(source) == [(f"{row:03d}.jpg", tags, None) for row, tags in enumerate(TAGS)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"annotations": [{"image_id": "7b", "category_id": 90}]},
            "no annotation is of an image that it lists: the last has image_id '7b', the first image has",
        ),
        ({"categories": []}, "annotation 0 is of category_id 90, which categories do not name"),
        ({"annotations": [{"image_id": 1, "category_id": [1]}]}, r"of category_id \[1\], which"),
        ({"categories": [{"id": 1, "name": "\ud83d"}]}, "surrogates not allowed"),
        ({"categories": None}, "no COCO file of objects"),
        ({"images": [{"id": 1}]}, "images entry 0 has no id and file_name"),
        (
            {"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]},
            "images entry 1: id 1 is no id of its own",
        ),
    ],
)
def test_what_is_no_coco_is_told(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        coco(tmp_path, **changed)


def test_labels_of_open_images(tmp_path: Path) -> None:
    source = open_images(tmp_path)
    assert rows_of(source) == [(IDS[row], tags, None) for row, tags in enumerate(TAGS)]
    left_out, unmatched = source.notes
    assert "48 of 85 labels are below --confidence 0.5" in left_out
    assert "1 name without a picture (such as 'ffff')" in unmatched
    sure = rows_of(open_images(tmp_path, confidence=0.3))
    assert sure[0][1] == ["blue", "white"]
    codes = open_images(tmp_path, classes="")
    assert rows_of(codes)[0][1] == ["/m/00"]
    assert "--classes names them" in codes.notes[1]
    (tmp_path / "some.csv").write_text("/m/00,blue\n")
    with pytest.raises(InputError, match="does not name '/m/01'"):
        open_images(tmp_path, classes=str(tmp_path / "some.csv"))


def test_samples_of_web_dataset(tmp_path: Path) -> None:
    found = rows_of(web_dataset())
    order = [*range(18, ROWS), *range(18)]
    assert found == [
        (f"{row // 10}/{row:03d}", TAGS[row], "test" if row >= 18 else "train") for row in order
    ]
    one = WebDataset.open(str(OTHERS / "web_dataset" / "test-0000.tar"), PictureOptions())
    assert one.num_rows == 6
    heights = WebDataset.open(str(OTHERS / "web_dataset"), PictureOptions(tags_column="height"))
    assert rows_of(heights)[0][1] == ["20"]


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_tags_in_text_and_class_files_and_names_that_repeat(tmp_path: Path) -> None:
    jpg = encoded(["red"], 0)
    write_tar(
        tmp_path / "a.tar", {"0.jpg": jpg, "0.cls": b"7", "1.txt": b"['x', 'y']", "1.jpg": jpg}
    )
    write_tar(
        tmp_path / "b.tar", {"0.JPG": jpg, "0.json": b'["x", 3]', "1.txt": b"x", "._2.jpg": b""}
    )
    source = WebDataset.open(str(tmp_path), PictureOptions())
    chunk = source.read(0, 9)
    assert dict(
        zip(*(chunk.table.column(n).to_pylist() for n in ("image_id", "tags")), strict=True)
    ) == {"a/0": ["7"], "a/1": ["x", "y"], "b/0": ["x", "3"]}
    assert chunk.rejected.column("reason").to_pylist() == ["no picture in the sample"]
    assert "pictures are named by tar file and sample" in source.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"0.json": b'{"tags": {"a": 1}}', "0.jpg": b""},
            "sample 0: tags are .*; they must be text",
        ),
        ({"0.json": b"{", "0.jpg": b""}, r"0\.json cannot be read"),
        ({"0.json": b'["\\ud83d"]', "0.jpg": b""}, r"0\.json cannot be read"),
        (
            {"0.jpg": b"", "1.jpg": b"", "0.txt": b"x", "1.txt": b"y"},
            "files of the sample '0' do not lie one after another",
        ),
        ({}, "no sample in it"),
    ],
)
def test_samples_that_cannot_be_read(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match=message):
        WebDataset.open(str(tmp_path), PictureOptions())


def test_a_sample_whose_name_is_not_utf8_is_one_rejected_row(tmp_path: Path) -> None:
    jpg = encoded(["red"], 0)
    odd = os.fsdecode(b"caf\xe9")
    write_tar(
        tmp_path / "a.tar", {"0.jpg": jpg, "0.txt": b"x", f"{odd}.jpg": jpg, f"{odd}.txt": b"y"}
    )
    (tmp_path / "._a.tar").write_bytes(b"of a desktop")
    chunk = WebDataset.open(str(tmp_path), PictureOptions()).read(0, 9)
    assert chunk.table.column("tags").to_pylist() == [["x"]]
    (gone,) = chunk.rejected.to_pylist()
    assert (gone["image_id"], gone["reason"]) == (
        "caf\\xe9",
        "its name is not UTF-8; rename the file",
    )


def test_damaged_and_packed_tar_files(tmp_path: Path) -> None:
    whole = (OTHERS / "web_dataset" / "test-0000.tar").read_bytes()
    path = tmp_path / "a.tar"
    for data in (whole[:1000], b"x" * 2000, b""):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.tar: no tar file, or damaged"):
            WebDataset.open(str(tmp_path), PictureOptions())
    path.rename(tmp_path / "a.tar.gz")
    with pytest.raises(InputError, match="a packed tar file; unpack it"):
        WebDataset.open(str(tmp_path), PictureOptions())


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_learned(kind: str, tmp_path: Path) -> None:
    """Ingested as jobs.ingest does it, with the mean colours of a picture's halves for its features."""
    source = KINDS[kind](tmp_path)
    plan = PartPlan(str(tmp_path / "parts"), 100, False, "float32", 1_000_000)
    read = read_chunk(source, plan, 0)
    table = read.table
    if FEATURES not in table.column_names:
        halves = [
            np.asarray(picture, np.float32).reshape(-1, 2, 12, 3) for picture in read.pictures
        ]
        colours_BD = np.stack([h.mean((0, 2)).ravel() for h in halves])
        table, _ = with_features(table, {FEATURES: colours_BD}, "float32")
    assert len(table) == source.num_rows
    path = tmp_path / "train.parquet"
    pq.write_table(table, path)
    config = small_config(path, tmp_path / "out", epochs=40)
    survey = survey_store(FeatureStore.open(str(path)), "fail")
    assert survey.names.to_pylist() == NAMES
    launch(
        RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0}),
        lambda _: None,
    )
    annotator = load_bundle(tmp_path / "out" / "model")
    _, tag_B1 = annotator.annotate(torch.from_numpy(matrix(table)), 1)
    names = [annotator.vocabulary.names[tag] for tag in tag_B1[:, 0].tolist()]
    right = [
        name in tags for name, tags in zip(names, table.column("tags").to_pylist(), strict=True)
    ]
    assert np.mean(right) >= 0.9
