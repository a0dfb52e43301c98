"""`jobs.ingest --check`: what would be made of an input, and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from drel_core.errors import InputError
from jobs import ingest
from jobs.cli import OneLineParser


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says; it must leave its folder as it was."""
    ingest.main(["--check", *map(str, arguments)])
    return capsys.readouterr().out


def parquet(path: Path, rows: int, **columns: object) -> Path:
    generator = np.random.default_rng(0)
    value = generator.normal(size=rows * 4).astype(np.float32)
    table = {
        "image_id": [f"i{row}" for row in range(rows)],
        "features": pa.FixedSizeListArray.from_arrays(pa.array(value), 4),
        "tags": [["cat", "dog"][: 1 + row % 2] for row in range(rows)],
        **columns,
    }
    pq.write_table(pa.table(table), path)
    return path


def test_a_table_with_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = parquet(tmp_path / "t.parquet", 1000)
    text = said(capsys, "--source", "table", "--input", file)
    assert f"table: {file}" in text
    assert "rows      1000; read for this look: 232, of them usable: 232" in text  # 3 x 64 and 40
    assert "D = 4" in text and "0 are the same" in text
    assert "2 different ones, 1.5 an image; most often: 'cat' (232), 'dog' (116)" in text
    assert "image 'i0': ['cat']" in text and "image 'i999': ['cat', 'dog']" in text
    assert "rejected  none" in text and "names no test part" in text
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_what_would_be_rejected_is_said_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = [[], ["cat"], ["cat"], []]
    ids = ["a", "b", "", "d"]
    file = parquet(tmp_path / "t.parquet", 4, image_id=ids, tags=tags)
    text = said(capsys, "--source", "table", "--input", file)
    assert "usable: 1" in text and "rejected  3 of these rows:" in text
    assert "2 x no tags (image 'a'" in text and "1 x image_id is" in text


def test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pics"
    pictures.mkdir()
    for number in range(3):
        Image.new("RGB", (40 + number, 30)).save(pictures / f"{number}.png")
    (pictures / "9.png").write_text("no picture")
    tags = tmp_path / "tags.csv"
    tags.write_text("image_id,tags\n0,Cat;dog\n1,dog;sky\n2,sun;Sky\n9,cat;sky\n")
    before = sorted(tmp_path.rglob("*"))
    text = said(
        capsys,
        *("--source", "images", "--input", pictures, "--tags", tags, "--separator", ";"),
        *("--features", "lowlevel", "--lowercase"),
    )
    assert "features  lowlevel, of pictures of 40 x 30 to 42 x 30 pixels" in text
    assert "4 different ones, 2.0 an image; most often: 'dog' (2), 'sky' (2), 'cat' (1)" in text
    assert "rejected  1 of these rows:" in text and f"(image '9', {pictures}/9.png)" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = parquet(tmp_path / "t.parquet", 2, tags=[[], []])
    text = said(capsys, "--source", "table", "--input", file)
    assert "usable: 0" in text and "features" not in text.splitlines()[-1]


def test_a_tags_file_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", 3)
    with pytest.raises(InputError, match="--source table has its tags in --input; leave --tags"):
        ingest.main(
            [
                "--check",
                "--source",
                "table",
                "--input",
                str(file),
                "--tags",
                str(tmp_path / "t.csv"),
            ]
        )


def test_a_flag_needs_no_value() -> None:
    parser = OneLineParser()
    parser.add_class_arguments(ingest.IngestConfig)
    base = ["--source", "table", "--input", "x"]
    for given, expected in (
        (["--check"], True),
        (["--check", "--seed", "3"], True),
        (["--check", "false"], False),
        (["--check=false"], False),
        ([], False),
    ):
        assert parser.parse_args([*base, *given]).check is expected


def test_tags_are_those_that_a_vocabulary_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = [["Dogs", "dog"], ["cat"], ["nsfw"]] * 100
    file = parquet(tmp_path / "t.parquet", 300, tags=tags)
    rules = tmp_path / "vocabulary.yaml"
    rules.write_text("aliases: {dogs: dog}\nimplies: {dog: animal, cat: animal}\nblocked: nsfw")
    asked = ("--source", "table", "--input", file, "--vocabulary", rules)
    text = said(capsys, *asked, "--lowercase")
    assert "3 different ones, 2.0 an image; most often: 'animal' (" in text
    assert "image 'i0': ['dog', 'animal']" in text and "x no tags" in text
    assert "'Dogs' (" in said(capsys, *asked)  # a spelling has its case
    rules.write_text("aliases: {dogs: dogs}")
    with pytest.raises(InputError, match=r"vocabulary.yaml line 1: aliases: dogs"):
        said(capsys, *asked)
