"""`python -m jobs.ingest --features lowlevel`: the codebook is made once, kept, and used again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.data.columns import Columns
from distributed.data.manifest import check_same_features, features_of
from distributed.ingest.parts import matrix
from drel_core.errors import InputError
from drel_core.images.backbone import load_backbone
from drel_core.images.lowlevel import Codebook, lowlevel
from tests.conftest import Job
from tests.helpers.pictures import tiny_network


def write_pictures(path: Path, numbers: range) -> dict[str, Image.Image]:
    """Parquet of small pictures with corners, so that SIFT finds points in them."""
    path.mkdir(parents=True)
    pictures, encoded = {}, []
    for number in numbers:
        blocks = np.random.default_rng(number).integers(0, 255, (8, 10, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((120, 96), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
        pictures[f"i{number:02d}"] = picture
    tags = [["all", f"t{number % 3}"] for number in numbers]
    table = pa.table({"image_id": list(pictures), "image": encoded, "tags": tags})
    pq.write_table(table, path / "part.parquet")
    return pictures


def test_the_codebook_is_kept_and_decides_the_features(tmp_path: Path, ray_job: Job) -> None:
    pictures = write_pictures(tmp_path / "in", range(40))
    common = [
        "--source",
        "images",
        "--input",
        str(tmp_path / "in"),
        "--features",
        "lowlevel",
        "--chunk_rows",
        "16",
    ]
    own = ["--lowlevel.words", "12", "--lowlevel.sample", "20"]
    done = ray_job("ingest", *common, *own, "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    codebook = Codebook.load(tmp_path / "a" / "codebook.npz")
    assert codebook.word_K128.shape == (12, 128)
    features = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))["features"]
    assert features["codebook_sha256"] == codebook.sha256
    assert features["blocks"]["bag_of_words"] == 12

    train = pq.read_table(tmp_path / "a" / "train")
    got_BD = matrix(train)
    assert got_BD.shape == (40, 646)
    for row in (0, 17, 39):
        image_id = train.column("image_id")[row].as_py()
        expected = lowlevel(np.asarray(pictures[image_id]), codebook)
        np.testing.assert_array_equal(got_BD[row], expected)
    assert got_BD[:, -12:].sum() > 400

    write_pictures(tmp_path / "in" / "more", range(40, 50))
    again = ray_job(
        "ingest",
        *common,
        "--lowlevel.codebook",
        str(tmp_path / "a" / "codebook.npz"),
        "--out",
        str(tmp_path / "b"),
    )
    assert again.returncode == 0, again.stderr
    both = pq.read_table(tmp_path / "b" / "train").sort_by("image_id")
    np.testing.assert_array_equal(matrix(both)[:40], matrix(train.sort_by("image_id")))
    one, other = (features_of(str(tmp_path / name / "train")) for name in "ab")
    assert one == other
    other = {**one, "codebook_sha256": "00"} if one else None
    with pytest.raises(InputError, match="hold different features"):
        check_same_features(one, "a", other, "b")

    few = ray_job("ingest", *common, "--lowlevel.words", "9000", "--out", str(tmp_path / "c"))
    assert few.returncode == 2
    assert "sample more pictures" in few.stderr
    wrong = ray_job(
        "ingest",
        *common,
        "--lowlevel.codebook",
        str(tmp_path / "none.npz"),
        "--out",
        str(tmp_path / "d"),
    )
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_a_network_and_descriptors_are_columns_of_one_store(tmp_path: Path, ray_job: Job) -> None:
    pictures = write_pictures(tmp_path / "in", range(20))
    network = tiny_network(tmp_path / "network.pt")
    done = ray_job(
        "ingest",
        *["--source", "images", "--input", str(tmp_path / "in"), "--features", "lowlevel,cnn"],
        *["--cnn.backbone", network, "--lowlevel.words", "12", "--chunk_rows", "8"],
        *["--out", str(tmp_path / "a"), "--split", "random:4"],
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    backbone = load_backbone(network)
    dim = manifest["columns"]["cnn"]
    assert manifest["columns"] == {"lowlevel": 646, "cnn": dim} and manifest["D"] == 646 + dim
    assert list(manifest["features"]["columns"]) == ["lowlevel", "cnn"]
    assert (
        f"D = {646 + dim} (lowlevel 646, cnn {dim})" in (tmp_path / "a" / "report.md").read_text()
    )
    codebook = Codebook.load(tmp_path / "a" / "codebook.npz")
    table = pq.read_table(tmp_path / "a" / "train")
    assert table.column_names == ["image_id", "lowlevel", "cnn", "tags", "image_hash"]
    for row in (0, 9, 15):
        picture = pictures[table["image_id"][row].as_py()]
        low_D = np.array(table["lowlevel"][row].as_py(), np.float32)
        np.testing.assert_array_equal(low_D, lowlevel(np.asarray(picture), codebook))
        pixels = backbone.preprocessing.squares([picture], lambda given: given)
        expected_D = backbone(pixels)[0]
        np.testing.assert_allclose(table["cnn"][row].as_py(), expected_D, rtol=1e-4, atol=1e-5)
    about = features_of(str(tmp_path / "a" / "train"), Columns(features="cnn,lowlevel"))
    assert about is not None and list(about["columns"]) == ["cnn", "lowlevel"]
    assert about["columns"]["cnn"]["kind"] == "cnn"
