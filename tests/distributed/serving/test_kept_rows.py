"""Rows of training and their pictures, as the scorer shows them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distributed.data.replay_buffer import RESERVOIR
from distributed.serving.kept_rows import KeptRows
from distributed.serving.model import ServedModel
from distributed.serving.picture_folder import SIDE, PictureFolder
from drel_core.annotators.drel import DRELAnnotator
from drel_core.errors import InputError
from tests.helpers.bundles import write_drel

ROWS, D = 40, 8
TAGS = [["tag-00"] if row % 4 == 0 else ["tag-01", "unknown"] for row in range(ROWS - 1)] + [[]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    bundle = write_drel(tmp_path_factory.mktemp("kept") / "bundle", dim=D)
    rows = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)
    rows[7, 2] = np.nan
    ids = [f"image {row}" for row in range(ROWS)]
    table = pa.table({"image_id": ids, "tags": TAGS, "features": rows.tolist()})
    pq.write_table(table, bundle / RESERVOIR, row_group_size=16)
    return ServedModel(str(bundle))


def naive_latents(served: ServedModel) -> np.ndarray:
    rows = pq.read_table(served.folder / RESERVOIR).column("features").to_pylist()
    assert isinstance(served.annotator, DRELAnnotator)
    latent_NL = served.annotator.latents(torch.tensor(rows)).numpy()
    found: np.ndarray = latent_NL / np.linalg.norm(latent_NL, axis=1, keepdims=True)
    return found


def test_similar_rows_are_the_nearest_by_their_latents(served: ServedModel) -> None:
    asked_D = np.asarray(
        pq.read_table(served.folder / RESERVOIR)["features"][3].as_py(), np.float32
    )
    found = served.kept_rows.similar(asked_D, 5)
    latent_NL = naive_latents(served)
    cosine_N = np.nan_to_num(latent_NL @ latent_NL[3], nan=-2.0)
    order_k = np.argsort(-cosine_N)[:5]
    assert [one["image_id"] for one in found] == [f"image {row}" for row in order_k]
    assert found[0]["image_id"] == "image 3" and found[0]["tags"] == ["tag-01", "unknown"]
    assert [one["score"] for one in found] == pytest.approx(cosine_N[order_k], abs=1e-5)
    assert len(served.kept_rows.similar(asked_D, 50)) == ROWS


def test_rows_with_a_tag_come_in_the_order_of_its_score(served: ServedModel) -> None:
    assert isinstance(served.annotator, DRELAnnotator)
    score_N = naive_latents(served) @ served.annotator.tag_TL[0].numpy()
    order = sorted(range(0, ROWS - 1, 4), key=lambda row: -score_N[row])
    assert served.images_with("tag-00", 3, lambda _: True) == [f"image {row}" for row in order[:3]]
    others = served.images_with("tag-00", 3, lambda name: name != f"image {order[1]}")
    assert others == [f"image {row}" for row in (order[0], *order[2:4])]
    assert served.images_with("tag-05", 3, lambda _: True) == []


def test_features_that_are_too_large_are_like_no_row(served: ServedModel) -> None:
    huge_D = np.full(served.image_dim, 3e38, np.float32)
    with pytest.raises(InputError, match="too large for this model"):
        served.kept_rows.similar(huge_D, 3)


def test_only_bundles_that_keep_rows_have_some(served: ServedModel, tmp_path: Path) -> None:
    assert "image 3" in served.kept_rows and "image 99" not in served.kept_rows
    none = KeptRows(tmp_path, served.annotator)
    assert not none.are_there and "image 3" not in none


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shown" / "deep").mkdir(parents=True)
    secret = Image.new("RGB", (30, 20))
    for name in ("secret.png", "shown/one.jpg", "shown/deep/two.PNG", "shown/whole.jpeg"):
        secret.save(tmp_path / name)
    (tmp_path / "shown" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "shown" / "circle.png").symlink_to("circle.png")
    (tmp_path / "shown" / "up").symlink_to(tmp_path, target_is_directory=True)
    return tmp_path / "shown"


@pytest.mark.parametrize("image_id", ["one", "one.jpg", "deep/two", "deep/two.PNG", "whole.jpeg"])
def test_a_picture_is_found_by_its_id(folder: Path, image_id: str) -> None:
    found = PictureFolder(str(folder)).find(image_id)
    assert found is not None and found.is_relative_to(folder)


@pytest.mark.parametrize(
    "image_id",
    [
        *("../secret", "../secret.png", "deep/../../secret.png", "up/secret", "out", "out.png"),
        *("circle", "deep", "", ".", "..", "one\0.jpg", "./one", "deep//two", "x" * 5000, "\ud800"),
        *("..\\secret.png", "%2e%2e/secret.png"),
    ],
)
def test_no_id_leads_out_of_the_folder(folder: Path, image_id: str) -> None:
    found = PictureFolder(str(folder))
    assert found.find(image_id) is None and found.small(image_id) is None
    assert found.find(str(folder.parent / "secret.png")) is None


def test_a_copy_is_small_and_holds_nothing_but_pixels(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (900, 300), (10, 200, 30)).save(folder / "large.jpg", exif=exif)
    assert b"where I live" in (folder / "large.jpg").read_bytes()
    small = PictureFolder(str(folder)).small("large")
    assert small is not None and b"where I live" not in small
    with Image.open(io.BytesIO(small)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE // 3))
    (folder / "page.png").write_text("<script>alert(1)</script>")
    assert PictureFolder(str(folder)).small("page") is None


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        PictureFolder(str(tmp_path / "nowhere"))
