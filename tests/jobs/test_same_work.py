"""What lies in --out is taken up only where it is the same work: options and content of the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Job
from tests.helpers.bundles import write_drel
from tests.helpers.stores import planted_table, write_planted

D = 8


def table_input(folder: Path) -> list[Any]:
    """A tags file and an array of features, as `--source table` takes them."""
    folder.mkdir(exist_ok=True)
    (folder / "tags.csv").write_text("image_id,tags\n1,cat;dog\n2,dog\n3,sky\n")
    np.save(folder / "f.npy", np.eye(3, D, dtype=np.float32))
    return [
        "--source",
        "table",
        "--input",
        folder / "tags.csv",
        "--features_file",
        folder / "f.npy",
    ]


def vocabulary(store: Path) -> list[str]:
    return pq.read_table(store / "vocabulary.parquet").column("tag").to_pylist()


def test_a_store_of_another_separator_tags_file_or_array_is_not_taken_for_it(
    tmp_path: Path, ray_job: Job
) -> None:
    given = table_input(tmp_path / "in")
    out = tmp_path / "store"
    options = [*given, "--out", out, "--separator", ";"]
    assert ray_job("ingest", *options).returncode == 0
    assert vocabulary(out) == ["cat", "dog", "sky"]
    assert "is there already" in ray_job("ingest", *options).stdout
    refused = ray_job("ingest", *given, "--out", out, "--separator", "|")
    assert refused.returncode == 2 and "separator ; before, | now" in refused.stderr
    (tmp_path / "in" / "tags.csv").write_text("image_id,tags\n1,cat;dog\n2,dog;sky\n3,sun\n")
    refused = ray_job("ingest", *options)
    assert refused.returncode == 2 and "content.tags.csv" in refused.stderr
    assert refused.stderr.count("\n") == 1 and "f.npy" not in refused.stderr
    table_input(tmp_path / "in")
    np.save(tmp_path / "in" / "f.npy", np.ones((3, D), dtype=np.float32))
    refused = ray_job("ingest", *options)
    assert refused.returncode == 2 and "content.f.npy" in refused.stderr


def test_a_split_that_was_too_large_is_mended_without_doing_the_work_again(
    tmp_path: Path, ray_job: Job
) -> None:
    given = table_input(tmp_path / "in")
    (tmp_path / "in" / "tags.csv").write_text("image_id,tags\n1,cat\n2,\n3,\n")
    options = [*given, "--out", tmp_path / "store"]
    soon = ray_job("ingest", *options, "--split", "random:3")
    assert soon.returncode == 2 and "the input has 3 rows; use a smaller N" in soon.stderr
    assert not (tmp_path / "store.partial").exists()
    late = ray_job("ingest", *options, "--split", "random:2")
    assert late.returncode == 2 and "only 1 rows are usable" in late.stderr
    other = ray_job("ingest", *options, "--lowercase", "true")
    assert other.returncode == 2 and "options.lowercase False before, True now" in other.stderr
    mended = ray_job("ingest", *options, "--min_tag_count", "1", "--file_mib", "64")
    assert mended.returncode == 0, mended.stderr
    assert "going on with another options.split, options.file_mib" in mended.stdout
    assert "1 part, 1 there already" in mended.stdout
    assert vocabulary(tmp_path / "store") == ["cat"]


def test_a_store_that_was_written_again_is_annotated_again_elsewhere(
    tmp_path: Path, job: Job
) -> None:
    model = write_drel(tmp_path / "model")
    table = planted_table(20, dim=D).rename_columns(["key", "features", "tags"])
    data = tmp_path / "a.parquet"
    pq.write_table(table, data)
    options = ["--model", model, "--data", data, "--out", tmp_path / "out"]
    named = [*options, "--columns.image_id", "key"]
    assert job("annotate", *named).returncode == 0
    assert "is there already" in job("annotate", *named).stdout
    again = table.append_column("image_id", pa.array([f"other-{n}" for n in range(20)]))
    pq.write_table(again, data)
    refused = job("annotate", *named)
    assert refused.returncode == 2 and "another content.a.parquet (" in refused.stderr
    refused = job("annotate", *options)  # another column of ids
    assert refused.returncode == 2 and "columns.image_id key before, image_id now" in refused.stderr


@pytest.mark.parametrize("which", ["train", "test"])
def test_a_comparison_is_of_one_pair_of_stores(tmp_path: Path, job: Job, which: str) -> None:
    for name, seed in (("train", 0), ("test", 1)):
        write_planted(tmp_path / f"{name}.parquet", 30, seed=seed, first=100 * seed)
    options = ["--data.train", tmp_path / "train.parquet", "--data.test", tmp_path / "test.parquet"]
    options += ["--out", tmp_path / "out", "--methods", "popularity"]
    assert job("compare", *options).returncode == 0
    assert job("compare", *options, "--seeds", "2").returncode == 0  # more of the same
    results = (tmp_path / "out" / "results.json").read_text()
    write_planted(tmp_path / f"{which}.parquet", 30, seed=5, first=200)
    refused = job("compare", *options)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    name = "content.train.parquet" if which == "train" else "content.test: test.parquet"
    assert name in refused.stderr
    assert (tmp_path / "out" / "results.json").read_text() == results
