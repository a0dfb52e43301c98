"""Pictures read like features: the pixels of a plain decode, and bad ones told with their row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distributed.data import picture_columns as reading
from distributed.data.blocks import inline_blocks, load_rows
from distributed.data.columns import Columns
from distributed.data.epoch import EpochPlan, ShardReader, shard
from distributed.data.feature_store import FeatureStore
from distributed.data.picture_columns import bundle_columns, picture_columns
from distributed.data.survey import survey_store
from distributed.inference.annotate import store_content
from drel_core.bundle.info import BundleInfo
from drel_core.errors import InputError
from drel_core.images.backbone import Preprocessing
from tests.helpers.commands import ROOT
from tests.helpers.pictures import encoded, picture_table, write_pictures

SMALL = Preprocessing(size=32)
OTHERS = ROOT / "tests" / "data" / "others"


def open_store(path: Path) -> tuple[FeatureStore, Columns]:
    columns = picture_columns(str(path), Columns(), SMALL)
    return FeatureStore.open(str(path), columns), columns


def plain(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC)).reshape(-1)


def test_pixels_are_those_of_a_plain_decode(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "a.parquet", 70)
    store, columns = open_store(path)
    assert store.image_dim == 32 * 32 * 3 and store.dtype == np.uint8
    survey = survey_store(store, "fail", statistics=False)
    assert (
        store.num_bytes == survey.num_bytes == 70 * 32 * 32 * 3
    )  # a byte a value, not a float's four
    rows = load_rows(survey.train, columns, survey.names)
    expected = np.stack([plain(data) for data in picture_table(70)["image"].to_pylist()])
    assert rows.features_BD.dtype == torch.uint8
    np.testing.assert_array_equal(rows.features_BD.numpy(), expected)
    names = survey.names.to_pylist()
    assert [[names[t] for t in row] for row in rows.tags.tolist()] == picture_table(70)[
        "tags"
    ].to_pylist()


@pytest.mark.parametrize("resident", [True, False])
def test_every_picture_of_an_epoch_once_over_three_ranks(tmp_path: Path, resident: bool) -> None:
    store, columns = open_store(write_pictures(tmp_path / "a.parquet", 70))
    survey = survey_store(store, "fail", statistics=False)
    whole = load_rows(survey.train, columns, survey.names).features_BD
    seen = []
    for rank in range(3):
        reader = ShardReader(
            shard(survey.train, 3, rank),
            EpochPlan.make(70, 3, 16),
            rank,
            0,
            inline_blocks(columns, survey.names),
            resident,
            20,
        )
        seen += [batch.features_BD for batch in reader.epoch(1)]
    key = sorted(row.numpy().tobytes() for row in torch.cat(seen))
    assert key == sorted(row.numpy().tobytes() for row in whole)


def test_paths_give_the_same_pixels_as_bytes(tmp_path: Path) -> None:
    table = picture_table(6)
    paths = []
    for row, data in enumerate(table["image"].to_pylist()):
        paths.append(str(tmp_path / f"{row}.png"))
        Path(paths[-1]).write_bytes(data)
    both = []
    for name, content in (("a", table), ("b", table.drop("image").append_column("path", [paths]))):
        pq.write_table(content, tmp_path / f"{name}.parquet")
        store, columns = open_store(tmp_path / f"{name}.parquet")
        survey = survey_store(store, "fail", statistics=False)
        both.append(load_rows(survey.train, columns, survey.names).features_BD)
    assert torch.equal(*both)


def test_a_struct_of_bytes_and_path_gives_the_same_pixels(tmp_path: Path) -> None:
    """As Hugging Face datasets writes pictures: bytes, or the path of a file, or both."""
    table = picture_table(6)
    data = table["image"].to_pylist()
    (tmp_path / "5.png").write_bytes(data[5])
    structs = [{"bytes": one, "path": f"{row}.png"} for row, one in enumerate(data[:5])]
    structs[1]["path"] = None
    structs.append({"bytes": None, "path": str(tmp_path / "5.png")})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.set_column(1, "image", pa.array(structs)), tmp_path / "b.parquet")
    both = []
    for name in "ab":
        store, columns = open_store(tmp_path / f"{name}.parquet")
        survey = survey_store(store, "fail", statistics=False)
        both.append(load_rows(survey.train, columns, survey.names).features_BD)
    assert torch.equal(*both)
    assert store_content(store, columns).keys() == {"b.parquet", "pictures"}
    gone = [*structs[:4], {"bytes": None, "path": None}, None]
    pq.write_table(table.set_column(1, "image", pa.array(gone)), tmp_path / "c.parquet")
    store, _ = open_store(tmp_path / "c.parquet")
    skipped = survey_store(store, "skip", statistics=False).skipped
    assert [(row, text) for _, row, text in skipped] == [
        (4, "the picture is null"),
        (5, "the picture is null"),
    ]


@pytest.mark.parametrize("name", ["single/train-00000-of-00001", "objects"])
def test_pictures_as_datasets_wrote_them_are_read(name: str, tmp_path: Path) -> None:
    """With ids and tags of their own, which a store has and datasets has not."""
    table = pq.read_table(OTHERS / "hugging_face" / f"{name}.parquet", columns=["image"])
    rows = len(table)
    tags = [["left" if row % 2 else "right"] for row in range(rows)]
    table = table.append_column("image_id", pa.array(map(str, range(rows)))).append_column(
        "tags", pa.array(tags)
    )
    pq.write_table(table, tmp_path / "a.parquet")
    store, columns = open_store(tmp_path / "a.parquet")
    survey = survey_store(store, "fail", statistics=False)
    found = load_rows(survey.train, columns, survey.names).features_BD.numpy()
    data = [one["bytes"] for one in table["image"].to_pylist()]
    np.testing.assert_array_equal(found, np.stack([plain(one) for one in data]))


def bad_store(tmp_path: Path) -> Path:
    good = encoded(["red"], 0)
    data = [good, good[: len(good) // 2], None, b"", b"no picture", encoded(["blue"], 1, "JPEG")]
    table = pa.table(
        {"image_id": list("abcdef"), "image": pa.array(data, pa.binary()), "tags": [["x"]] * 6}
    )
    pq.write_table(table, tmp_path / "bad.parquet")
    return tmp_path / "bad.parquet"


def test_a_bad_picture_ends_the_run_with_file_and_row(tmp_path: Path) -> None:
    store, _ = open_store(bad_store(tmp_path))
    with pytest.raises(InputError) as caught:
        survey_store(store, "fail", statistics=False)
    for word in ("bad.parquet: row 1", "unusable", "3 more", "on_bad_row skip"):
        assert word in str(caught.value)


def test_bad_pictures_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    store, columns = open_store(bad_store(tmp_path))
    survey = survey_store(store, "skip", statistics=False)
    assert [row for _, row, _ in survey.skipped] == [1, 2, 3, 4]
    reasons = [text for *_, text in survey.skipped]
    assert "null" in reasons[1] and "0 bytes" in reasons[2] and "not a picture" in reasons[3]
    rows = load_rows(survey.train, columns, survey.names)
    np.testing.assert_array_equal(rows.features_BD[0].numpy(), plain(encoded(["red"], 0)))
    assert len(rows) == 2


def test_a_missing_file_is_a_bad_row(tmp_path: Path) -> None:
    table = pa.table({"image_id": ["a"], "path": [str(tmp_path / "gone.jpg")], "tags": [["x"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    store, _ = open_store(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"row 0: .*gone\.jpg cannot be read"):
        survey_store(store, "fail", statistics=False)


def test_a_picture_that_cannot_be_read_now_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_WAITS", (0.01,))
    tries: list[str] = []

    def flaky(path: str) -> bytes:
        tries.append(path)
        if len(tries) in (1, 3, 4):
            raise OSError(5, "Input/output error")
        return encoded(["red"], 0)

    monkeypatch.setattr(reading, "read_bytes", flaky)
    table = pa.table({"image_id": ["a"], "path": ["/a.jpg"], "tags": [["x"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    store, _ = open_store(tmp_path / "a.parquet")
    assert survey_store(store, "skip", statistics=False).skipped == []
    with pytest.raises(InputError, match=r"/a\.jpg: cannot be read .*; repeat the command"):
        survey_store(store, "skip", statistics=False)
    assert len(tries) == 4


def test_a_store_without_pictures_is_told_apart(tmp_path: Path) -> None:
    pq.write_table(picture_table(3).drop("image"), tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"no column 'image'.*no 'path'.*data\.columns\.image"):
        open_store(tmp_path / "none.parquet")
    numbers = picture_table(3).set_column(1, "image", pa.array([1, 2, 3]))
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    with pytest.raises(
        InputError, match=r"int64; it must be binary .* or a struct of bytes and path"
    ):
        open_store(tmp_path / "numbers.parquet")


def test_a_bundle_of_features_reads_features() -> None:
    columns = Columns(features="f")
    assert bundle_columns(BundleInfo("svm"), "nowhere", columns, "--data") is columns
