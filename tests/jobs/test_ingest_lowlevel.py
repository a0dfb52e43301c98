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

from distributed.data.manifest import check_same_features, features_of
from distributed.ingest.parts import matrix
from drel_core.errors import InputError
from drel_core.images.lowlevel import Codebook, lowlevel
from tests.conftest import Job


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
