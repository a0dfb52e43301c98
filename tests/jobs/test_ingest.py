"""`python -m jobs.ingest` as a person runs it: folders, hostile files, stops, other options."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from tests.conftest import Job
from tests.helpers import nuswide_layout
from tests.helpers.commands import start
from tests.helpers.stores import planted_table

GOOD, HOSTILE = 34, 22


def read(store: Path, name: str) -> pa.Table:
    return pq.read_table(store / name)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claimed(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header names another size, with a right checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def picture(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pictures in odd formats, files that only look like pictures, and a tags file."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "sub folder").mkdir()
    lines = ["id,tags"]
    for number in range(30):
        kind = ("jpg", "png", "webp", "tif", "gif")[number % 5]
        name = f"sub folder/p{number}" if number % 2 else f"p{number}"
        picture(number).save(root / f"{name}.{kind}")
        lines.append(f'{name}.{kind},"Sky; sun ;tag{number % 3}"')
    jpeg = (root / "p0.jpg").read_bytes()
    hostile = {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header only.png": b"\x89PNG\r\n\x1a\n",
        "zeros.jpg": bytes(5000),
        "half.png": (root / "p6.png").read_bytes()[:900]
        if (root / "p6.png").is_file()
        else (root / "sub folder" / "p1.png").read_bytes()[:900],
        "html.gif": b"<html>not found</html>",
        "renamed.webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        "noise.tif": b"II*\x00" + os.urandom(300),
        "snow ☃.jpg": b"\xff\xd8\xff",
    }
    png = encoded(picture(95), "PNG")
    at = png.index(b"IDAT")
    hostile |= {
        "bad checksum.png": png[: at + 12] + bytes([png[at + 12] ^ 255]) + png[at + 13 :],
        "bomb.png": claimed(png, 100_000, 100_000),
        "no size.png": claimed(png, 0, 0),
        "no frame.gif": b"GIF89a\x00\x00\x00\x00\x00\x00\x00;",
        "negative.bmp": encoded(picture(95), "BMP")[:18] + b"\x00\x00\x00\x80" * 2 + bytes(400),
        "document.pdf.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "entries.ico": b"\x00\x00\x01\x00\xff\xff" + os.urandom(64),
        "cut.webp": encoded(picture(95), "WEBP")[:90],
        "stub.jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
        "offsets.tif": b"MM\x00*\xff\xff\xff\xf0",
    }
    good = {
        "one pixel.png": encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"),
        "cmyk.jpg": encoded(picture(96).convert("CMYK"), "JPEG"),
        "sixteen.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
        "moving.gif": encoded(picture(97), "GIF", save_all=True, append_images=[picture(98)]),
    }
    for name, data in good.items():
        (root / name).write_bytes(data)
        lines.append(f'{name},"Sky;sun;tag0"')
    (root / "folder.jpg").mkdir()
    for name, data in hostile.items():
        (root / name).write_bytes(data)
        lines.append(f'{name},"sky;bad"')
    Image.new("1", (30000, 20000)).save(root / "huge.png")
    lines.append('huge.png,"sky"')
    picture(90).save(root / "tagless.png")
    lines.append("tagless.png,")
    picture(91).save(root / "unknown to the tags file.png")
    lines.append('no such picture.png,"sky"')
    (root / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


OPTIONS = (
    "--separator",
    ";",
    "--chunk_rows",
    "8",
    "--split",
    "random:10",
    "--lowercase",
    "true",
    "--cnn.actors",
    "2",
)


def test_a_folder_with_hostile_files_becomes_a_store(
    folder: Path, tmp_path: Path, ray_job: Job
) -> None:
    out = tmp_path / "store"
    arguments = (
        "--source",
        "images",
        "--input",
        str(folder),
        "--tags",
        str(folder / "tags.csv"),
        "--out",
        str(out),
        *OPTIONS,
    )
    # Stopped by force after the first parts, then taken up again.
    process = start("ingest", *arguments)
    parts = tmp_path / "store.partial" / "parts"
    deadline = time.monotonic() + 120
    while not [p for p in parts.glob("chunk-*.parquet") if "rejected" not in p.name]:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()

    other = ray_job("ingest", *arguments, "--dtype", "float16")
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "unfinished ingestion" in other.stderr

    done = ray_job("ingest", *arguments)
    assert done.returncode == 0, done.stderr
    assert "there already" in done.stdout
    assert not (tmp_path / "store.partial").exists()

    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    train, test, gone = read(out, "train"), read(out, "test"), read(out, "rejected.parquet")
    assert manifest["rows"] == {"train": len(train), "test": len(test)}
    assert (len(train), len(test)) == (GOOD - 10, 10)
    ids = train.column("image_id").to_pylist() + test.column("image_id").to_pylist()
    assert len(set(ids)) == GOOD
    assert "sub folder/p1.png" in ids
    assert manifest["D"] == 1280
    assert manifest["features"]["weights_sha256"].startswith("57934424")
    assert train.column("tags")[0].as_py()[:2] == ["sky", "sun"]
    vocabulary = dict(zip(*read(out, "vocabulary.parquet").to_pydict().values(), strict=True))
    assert vocabulary["sky"] == len(train)
    assert set(vocabulary) == {"sky", "sun", "tag0", "tag1", "tag2"}

    reasons = {row["image_id"]: row["reason"] for row in gone.to_pylist()}
    # The hostile ones, the huge one, no tags, not in the tags file, not in the folder.
    assert len(gone) == HOSTILE + 4
    assert all(reasons.values())
    assert reasons["huge.png"] == "more than 64000000 pixels"
    assert "100000 x 100000" in reasons["bomb.png"] or "more than" in reasons["bomb.png"]
    assert {"one pixel.png", "cmyk.jpg", "sixteen.png", "moving.gif"} <= set(ids)
    assert reasons["empty.jpg"] == "empty (0 bytes)"
    assert "damaged" in reasons["truncated.jpg"]
    assert reasons["tagless.png"] == "no tags"
    assert reasons["no such picture.png"] == "named in the tags file, no picture"
    assert reasons["unknown to the tags file.png"] == "not in the tags file"
    report = (out / "report.md").read_text("utf-8")
    assert "more than 64000000 pixels" in report
    assert (out / "report.png").stat().st_size > 5000

    again = ray_job("ingest", *arguments)
    assert again.returncode == 0
    assert "is there already" in again.stdout
    third = ray_job("ingest", *arguments, "--seed", "1")
    assert third.returncode == 2
    assert "choose a new --out" in third.stderr


def test_picture_bytes_in_parquet(tmp_path: Path, ray_job: Job) -> None:
    source = tmp_path / "in"
    for part, numbers in (("train", range(12)), ("test", range(8, 16))):
        (source / part).mkdir(parents=True)
        rows = []
        for number in numbers:
            path = tmp_path / "one.png"
            picture(number).save(path)
            rows.append(path.read_bytes())
        ids = [f"{part}{n}" if n < 8 or part == "test" else f"test{n}" for n in numbers]
        tags = [["a", f"t{n % 5}"] if n else ["rare"] for n in numbers]
        pq.write_table(
            pa.table({"key": ids, "image": rows, "labels": tags}),
            source / part / "0.parquet",
            row_group_size=5,
        )
    out = tmp_path / "out"
    done = ray_job(
        "ingest",
        "--source",
        "images",
        "--input",
        str(source),
        "--out",
        str(out),
        "--min_tag_count",
        "2",
        "--dtype",
        "float16",
        "--chunk_rows",
        "7",
        "--cnn.actors",
        "1",
    )
    assert (done.returncode, done.stderr) == (0, "")  # nor an error of Ray's that is none
    train, test = read(out, "train"), read(out, "test")
    # test8..test11 come first in train's file under the same ids: the later rows are duplicates.
    gone = read(out, "rejected.parquet").column("reason").to_pylist()
    assert sorted(gone) == [
        "all its tags are below --min_tag_count",
        *["image_id occurs already"] * 4,
    ]
    assert len(train) + len(test) == 15
    assert train.schema.field("features").type.value_type == pa.float16()
    assert "rare" not in read(out, "vocabulary.parquet").column("tag").to_pylist()


def test_a_picture_that_cannot_be_read_ends_the_run_and_is_not_kept(
    tmp_path: Path, ray_job: Job
) -> None:
    pics, out = tmp_path / "pics", tmp_path / "out"
    pics.mkdir()
    for number in range(3):
        picture(number).save(pics / f"{number}.png")
    (pics / "3.png").symlink_to("/proc/self/mem")  # reading it is an input/output error
    (tmp_path / "tags.csv").write_text("id,tags\n0,x\n1,x\n2,x\n3,x\n")
    common = ("--source", "images", "--input", pics, "--tags", tmp_path / "tags.csv", "--out", out)
    for features in (("--chunk_rows", 2), ("--features", "lowlevel", "--lowlevel.words", 3)):
        ended = ray_job("ingest", *common, *features)
        assert ended.returncode == 2 and ended.stderr.count("error:") == 1
        assert "3.png: cannot be read" in ended.stderr and "Traceback" not in ended.stderr
        kept = sorted((tmp_path / "out.partial" / "parts").glob("*.parquet"))
        assert not [part for part in kept if "0000001" in part.name or features[0] == "--features"]
        shutil.rmtree(tmp_path / "out.partial")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "MISSING"], "no such file or folder"),
        (["--input", "EMPTY", "--tags", "TAGS", "--separator", ";"], "no picture in it"),
        (["--input", "EMPTY"], "needs --tags FILE"),
        (["--input", "PICTURES", "--tags", "NONE"], "no such file; give a CSV"),
        (["--input", "PICTURES", "--tags", "TAGS", "--tags_column", "x"], "no column 'x'"),
        (
            ["--input", "PICTURES", "--tags", "TAGS", "--separator", ";", "--cnn.backbone", "vgg"],
            "is unknown",
        ),
        (
            ["--input", "PICTURES", "--tags", "TAGS", "--separator", ";", "--split", "third"],
            "random:N with N",
        ),
        (["--input", "PICTURES", "--tags", "TAGS", "--chunk_rows", "0"], "must be 1 or more"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, job: Job, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {
        "MISSING": tmp_path / "missing",
        "EMPTY": tmp_path / "empty",
        "PICTURES": folder,
        "TAGS": folder / "tags.csv",
        "NONE": tmp_path / "none.csv",
    }
    given = [str(names.get(a, a)) for a in arguments]
    done = job("ingest", "--source", "images", *given, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr
    assert not (tmp_path / "out").exists()


def test_nus_wide_with_its_own_and_a_random_split(tmp_path: Path, ray_job: Job) -> None:
    layout = nuswide_layout.write_layout(tmp_path / "nus")
    tagged_B = layout.tags_BT.any(1)
    trains = nuswide_layout.PARTS["Train"]
    common = ["--source", "nuswide", "--input", str(layout.root), "--dtype", "float16"]
    done = ray_job("ingest", *common, "--out", str(tmp_path / "own"), "--split", "official")
    assert done.returncode == 0, done.stderr
    train, test = read(tmp_path / "own", "train"), read(tmp_path / "own", "test")
    assert (len(train), len(test)) == (tagged_B[:trains].sum(), tagged_B[trains:].sum())
    assert train.schema.field("features").type == pa.list_(pa.float16(), 1134)
    gone = read(tmp_path / "own", "rejected.parquet")
    assert set(gone.column("reason").to_pylist()) == {"no tags"}
    assert len(gone) == (~tagged_B).sum()

    done = ray_job(
        "ingest",
        *common,
        "--out",
        str(tmp_path / "random"),
        "--split",
        "random:40",
        "--seed",
        "3",
        "--min-tag-count=1",
    )
    assert done.returncode == 0, done.stderr
    test = read(tmp_path / "random", "test").column("image_id").to_pylist()
    assert len(test) == 40
    assert len(read(tmp_path / "random", "train")) == tagged_B.sum() - 40
    assert set(layout.ids[:trains]) & set(test)  # of both parts
    assert set(layout.ids[trains:]) & set(test)

    path = layout.root / "Low_Level_Features" / "Test_Normalized_WT.dat"
    os.truncate(path, path.stat().st_size // 2)
    done = ray_job("ingest", *common, "--out", str(tmp_path / "broken"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "Test_Normalized_WT.dat" in done.stderr


def test_the_training_part_of_a_random_split_can_be_split_again(
    tmp_path: Path, ray_job: Job
) -> None:
    pq.write_table(planted_table(2000), tmp_path / "t.parquet")
    done = ray_job(
        *("ingest", "--source", "table", "--input", tmp_path / "t.parquet"),
        *("--split", "random:400", "--out", tmp_path / "store"),
    )
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(str(tmp_path / "store" / "train"))
    found = survey_store(store, "fail", Validation(0.2, 0))
    assert found.train_rows + found.validation_rows == 1600
    assert found.validation_rows == pytest.approx(320, abs=65)  # four standard deviations
    assert found.shortfall(0.2) is None


def test_a_table_with_an_array_and_a_split_column(tmp_path: Path, ray_job: Job) -> None:
    rows = 50
    features = np.random.default_rng(0).random((rows, 6), dtype=np.float32)
    features[7, 2] = np.nan
    np.save(tmp_path / "f.npy", features)
    lines = ["image_id,tags,part"]
    for row in range(rows):
        lines.append(f'{row:04d},"red|t{row % 4}",{"test" if row % 5 == 0 else "train"}')
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", "utf-8")
    common = [
        "--source",
        "table",
        "--input",
        str(tmp_path / "t.csv"),
        "--features_file",
        str(tmp_path / "f.npy"),
        "--separator",
        "|",
    ]
    done = ray_job("ingest", *common, "--out", str(tmp_path / "out"), "--split", "column:part")
    assert done.returncode == 0, done.stderr
    train, test = read(tmp_path / "out", "train"), read(tmp_path / "out", "test")
    assert (len(train), len(test)) == (39, 10)
    assert test.column("image_id").to_pylist() == [f"{row:04d}" for row in range(0, rows, 5)]
    assert test.column("features")[1].as_py() == features[5].tolist()
    gone = read(tmp_path / "out", "rejected.parquet").to_pylist()
    assert [row["image_id"] for row in gone] == ["0007"]
    assert "NaN at position 2" in gone[0]["reason"]

    np.save(tmp_path / "f.npy", features[:49])
    done = ray_job("ingest", *common, "--out", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "50" in done.stderr
    assert "49" in done.stderr
