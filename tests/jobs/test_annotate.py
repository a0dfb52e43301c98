"""jobs.annotate: every row once, as the scorer says, also after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, RowGroupSlice
from distributed.data.picture_columns import picture_columns
from distributed.inference import annotate
from distributed.inference.annotate import group_units, store_content
from distributed.storage.files import write_bytes
from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.load import load_bundle
from drel_core.decision.decider import Decide
from drel_core.images.backbone import Preprocessing
from jobs.annotate import main
from tests.conftest import Job
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import ROOT, command
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import planted_table

D = 8


def store(folder: Path, rows: int, files: int = 3, row_group: int = 50) -> pa.Table:
    """A store without tags, in several files."""
    table = planted_table(rows, dim=D).drop_columns(["tags"])
    folder.mkdir(parents=True)
    step = -(-rows // files)
    for file in range(files):
        part = table.slice(file * step, step)
        pq.write_table(part, folder / f"{file}.parquet", row_group_size=row_group)
    return table


def expected(model: Path, table: pa.Table, k: int) -> tuple[np.ndarray, np.ndarray]:
    features_BD = table.column("features").combine_chunks().flatten().to_numpy().reshape(-1, D)
    annotator = load_bundle(model)
    score_Bk, tag_Bk = annotator.annotate(torch.from_numpy(features_BD.copy()), k)
    return score_Bk.numpy(), np.array(annotator.vocabulary.names)[tag_Bk.numpy()]


def read(out: Path) -> pa.Table:
    return pq.ParquetDataset(sorted(out.glob("part-*.parquet"))).read()


def check(out: Path, model: Path, table: pa.Table, k: int) -> None:
    score_Bk, names_Bk = expected(model, table, k)
    found = read(out)
    assert found.column("image_id").to_pylist() == table.column("image_id").to_pylist()
    assert found.column("tags").to_pylist() == names_Bk.tolist()
    scores = np.array(found.column("scores").to_pylist())
    np.testing.assert_allclose(scores, score_Bk, atol=1e-5)
    assert set(found.column("model").to_pylist()) == {load_bundle(model).info.version}


def test_every_row_is_annotated_as_the_scorer_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(annotate, "group_units", lambda units: group_units(units, 90))
    model, table = write_drel(tmp_path / "model"), store(tmp_path / "data", 400)
    arguments = [
        "--model",
        str(model),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--k",
        "4",
    ]
    main(arguments)
    check(tmp_path / "out", model, table, 4)
    assert len(list((tmp_path / "out").glob("part-*"))) > 3
    done = json.loads((tmp_path / "out" / "_done.json").read_text())
    assert done["rows"] == 400 and done["skipped"] == 0
    main(arguments)
    assert "is there already" in capsys.readouterr().out


def test_tags_by_name_alone_are_marked_as_the_scorer_does(tmp_path: Path) -> None:
    """In a column of their own, beside tags and scores; of other models files are as they were."""
    table = store(tmp_path / "data", 60)
    unseen = {"tag-03", "tag-07"}
    decider = random_decider(12)
    models = {
        "some": write_drel(tmp_path / "some", decider=decider, unseen=(3, 7)),
        "none": write_drel(tmp_path / "none", decider=decider),
    }
    for name, how in (("some", "top"), ("some", "threshold"), ("none", "top")):
        out = tmp_path / f"{name}-{how}"
        given = [
            "--model",
            models[name],
            "--data",
            tmp_path / "data",
            "--out",
            out,
            "--decide",
            how,
        ]
        main([*map(str, given)])
        found = read(out)
        if name == "none":
            assert found.column_names == ["image_id", "tags", "scores", "model"]
            continue
        assert found.column_names == ["image_id", "tags", "scores", "unseen", "model"]
        rows = found.to_pylist()
        marked = [[tag in unseen for tag in row["tags"]] for row in rows]
        assert [row["unseen"] for row in rows] == marked and any(map(any, marked))
        assert found.column("image_id").equals(table.column("image_id"))


def test_a_stopped_run_goes_on_with_the_missing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotate, "group_units", lambda units: group_units(units, 50))
    model, table = write_drel(tmp_path / "model"), store(tmp_path / "data", 400)
    out = tmp_path / "out"
    arguments = ["--model", str(model), "--data", str(tmp_path / "data"), "--out", str(out)]
    main(arguments)
    parts = sorted(out.glob("part-*"))
    (out / "_done.json").unlink()
    for part in parts[1::2]:
        part.unlink()
    (out / "part-0000001.parquet.tmp").write_bytes(b"half a file")
    before = {part: part.stat().st_ino for part in parts[::2]}
    main(arguments)
    assert {part: part.stat().st_ino for part in parts[::2]} == before
    check(out, model, table, 5)
    assert json.loads((out / "_done.json").read_text())["rows"] == 400


@pytest.mark.timeout(600)
def test_killed_on_ray_and_run_again_every_row_is_there_once(tmp_path: Path, ray_job: Job) -> None:
    """kill -9 of the driver of a store large enough for Ray Data."""
    rows, dim = 1_050_000, 64  # 269 MB of features: above what is done without Ray
    model = write_drel(tmp_path / "model", dim=dim)
    ids = pa.array(np.arange(rows).astype(str))
    flat = pa.array(np.random.default_rng(0).normal(size=rows * dim).astype(np.float32))
    table = pa.table({"image_id": ids, "features": pa.FixedSizeListArray.from_arrays(flat, dim)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet", row_group_size=8192, compression="none")
    out = tmp_path / "out"
    arguments = ("--model", model, "--data", tmp_path / "data", "--out", out, "--k", 2)
    line = command("annotate", *arguments)
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 250
    while len(list(out.glob("part-*.parquet"))) < 8:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(4)  # the workers of its Ray notice and end
    before = {part: part.stat().st_ino for part in out.glob("part-*.parquet")}
    assert not (out / "_done.json").exists() and 8 <= len(before) < 120
    done = ray_job("annotate", *arguments)
    assert done.returncode == 0, done.stderr
    assert "files are there already" in done.stdout
    assert {part: part.stat().st_ino for part in before} == before
    found = np.concatenate(
        [
            pq.read_table(part, columns=["image_id"]).column(0).to_numpy().astype(str)
            for part in sorted(out.glob("part-*.parquet"))
        ]
    )
    np.testing.assert_array_equal(found, np.arange(rows).astype(str))


def test_a_threshold_leaves_tags_out(tmp_path: Path) -> None:
    model = write_drel(tmp_path / "model")
    table = store(tmp_path / "data", 100)
    score_Bk, names_Bk = expected(model, table, 12)
    base = ["--model", str(model), "--data", str(tmp_path / "data"), "--k", "12"]
    main([*base, "--threshold", "0.7", "--out", str(tmp_path / "one")])
    kept = [n[s >= 0.7].tolist() for n, s in zip(names_Bk, score_Bk, strict=True)]
    assert read(tmp_path / "one").column("tags").to_pylist() == kept
    main([*base, "--threshold", "1000", "--out", str(tmp_path / "none")])
    assert read(tmp_path / "none").column("tags").to_pylist() == [[]] * 100


@pytest.mark.parametrize(
    ("options", "how", "precision", "k"),
    [
        ((), "top", None, 5),
        (("--k", "null"), "top", None, 5),
        (("--decide", "macro"), "macro", None, 5),
        (("--decide", "macro", "--k", "3"), "macro", None, 3),
        (("--decide", "threshold"), "threshold", None, 50),
        (("--decide", "threshold", "--k", "2"), "threshold", None, 2),
        (("--decide", "threshold", "--precision", "0.6"), "threshold", 0.6, 50),
    ],
)
def test_decisions_are_the_librarys(
    tmp_path: Path, options: tuple[str, ...], how: Decide, precision: float | None, k: int
) -> None:
    model = write_drel(tmp_path / "model", tags=80, decider=random_decider(80))
    table = store(tmp_path / "data", 100)
    features_BD = table.column("features").combine_chunks().flatten().to_numpy().reshape(-1, D)
    annotator = load_bundle(model)
    chosen = choose(
        annotator, torch.from_numpy(features_BD.copy()), k, decision_of(annotator, how, precision)
    )
    names = annotator.vocabulary.names
    kept = [[names[tag] for tag in row if tag >= 0] for row in chosen.ids.tolist()]
    assert len({len(row) for row in kept}) > 1 or how != "threshold" or k == 2
    paths = (
        "--model",
        str(model),
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
    )
    main([*paths, *options])
    found = read(tmp_path / "out")
    assert found.column("tags").to_pylist() == kept
    scores = found.column("scores").to_pylist()
    for row, wanted, said in zip(scores, chosen.probability_Bk.tolist(), kept, strict=True):
        assert row == pytest.approx(wanted[: len(said)], abs=1e-6)
        assert row == sorted(row, reverse=True)


def test_bad_rows_end_the_run_or_are_left_out(tmp_path: Path, job: Job) -> None:
    model = write_drel(tmp_path / "model")
    table = planted_table(40, dim=D).drop_columns(["tags"])
    features = table.column("features").to_pylist()
    features[7][3], features[21] = float("nan"), None
    ids = table.column("image_id").to_pylist()
    ids[30] = ""
    bad = pa.table(
        {"image_id": ids, "features": pa.array(features, table.schema.field("features").type)}
    )
    pq.write_table(bad, tmp_path / "bad.parquet", row_group_size=16)
    base = ["--model", str(model), "--data", str(tmp_path / "bad.parquet")]
    done = job("annotate", *base, "--out", tmp_path / "fail")
    assert done.returncode == 2
    assert "bad.parquet: row 7: features hold NaN at position 3" in done.stderr
    assert not list((tmp_path / "fail").glob("part-*"))
    said = job("annotate", *base, "--out", tmp_path / "skip", "--on_bad_row", "skip").stdout
    assert "3 bad rows left out" in said and "row 30: image_id is empty" in said
    kept = [image_id for row, image_id in enumerate(ids) if row not in (7, 21, 30)]
    assert read(tmp_path / "skip").column("image_id").to_pylist() == kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--k": "3"}, "another k"),
        ({"--model": "other"}, "another model"),
        ({"--data": "wide"}, "D = 9"),
        ({"--out": "model"}, "holds other files"),
        ({"--decide": "macro"}, "can only decide by top"),
        ({"--decide": "threshold"}, "can only decide by top"),
        ({"--decide": "best"}, "decide"),
        ({"--precision": "0.9"}, "precision needs decide threshold"),
        ({"--decide": "threshold", "--precision": "2"}, "precision is 2"),
        ({"--threshold": "nan"}, "threshold"),
        ({"--threshold": "0.5"}, "another threshold"),
        ({"--search": "exact"}, "another search"),
        ({"--data": "nowhere"}, "no such file"),
        ({"--k": "0"}, "k is 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, job: Job, change: dict[str, str], words: str
) -> None:
    write_drel(tmp_path / "model")
    write_drel(tmp_path / "other", seed=1)
    store(tmp_path / "data", 20, files=1)
    (tmp_path / "wide").mkdir()
    pq.write_table(planted_table(5, dim=9), tmp_path / "wide" / "a.parquet")

    def arguments(given: dict[str, str]) -> list[Any]:
        paths = ("--model", "--data", "--out")
        return [
            x
            for name, value in given.items()
            for x in (name, str(tmp_path / value) if name in paths else value)
        ]

    given = {"--model": "model", "--data": "data", "--out": "out"}
    main(arguments(given))
    done = job("annotate", *arguments({**given, **change}))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and words in done.stderr


def test_small_units_share_a_file() -> None:
    units = [
        RowGroupSlice("a", group, 0, rows, 0) for group, rows in enumerate((10, 20, 30, 100, 5))
    ]
    groups = group_units(units, 50)
    assert [[unit.rows for unit in group] for group in groups] == [[10, 20, 30], [100], [5]]
    assert group_units([], 50) == []


def test_a_row_that_overflows_is_a_bad_row(tmp_path: Path, job: Job) -> None:
    """With 3e38 in it a row has no scores: it is named, or left out, and the others are as without it."""
    model = write_drel(tmp_path / "model", decider=random_decider(12))
    table = planted_table(120, dim=D)
    flat = table.column("features").combine_chunks().flatten().to_numpy().copy()
    for row in (70, 90):
        flat[row * D : row * D + D] = [3e38, -3e38] * (D // 2)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), D)
    path = tmp_path / "rows.parquet"
    pq.write_table(table.set_column(1, "features", column), path, row_group_size=50)
    good = table.filter(pa.array([row not in (70, 90) for row in range(120)]))
    pq.write_table(good, tmp_path / "good.parquet", row_group_size=50)

    annotated = ("annotate", "--model", model, "--data", path, "--out", tmp_path / "tags")
    evaluated = ("evaluate", "--model", model, "--data", path, "--json", tmp_path / "out.json")
    for arguments in (annotated, evaluated):
        refused = job(*arguments)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert "rows.parquet: row 70: features are too large" in refused.stderr
    done = job(*annotated[:-1], tmp_path / "skip", "--on_bad_row", "skip")
    assert "rows.parquet: row 90: features are too large" in done.stdout
    check(tmp_path / "skip", model, good, 5)
    assert job(*evaluated, "--on_bad_row", "skip").returncode == 0
    found = json.loads((tmp_path / "out.json").read_text())
    job("evaluate", "--model", model, "--data", tmp_path / "good.parquet", "--json", tmp_path / "b")
    expected_figures = json.loads((tmp_path / "b").read_text())
    assert (found.pop("skipped_rows"), expected_figures.pop("skipped_rows")) == (2, 0)
    for figures in (found, expected_figures):
        del figures["score"]
    assert found == expected_figures


@pytest.mark.parametrize("place", ["here", "s3"])
def test_pictures_that_a_store_names_are_part_of_what_it_holds(
    place: str, s3: Bucket, tmp_path: Path
) -> None:
    """Also where size and time stay."""
    folder = str(tmp_path) if place == "here" else s3.at("pictures")
    paths = [f"{folder}/{name}.jpg" for name in "ab"]

    def write(path: str, data: bytes) -> None:
        write_bytes(path, data)
        if place == "here":
            os.utime(path, (1e9, 1e9))

    for path in paths:
        write(path, b"1")
    table = pa.table({"image_id": ["a", "b"], "path": paths})
    pq.write_table(table, tmp_path / "s.parquet")
    columns = picture_columns(str(tmp_path / "s.parquet"), Columns(), Preprocessing(size=32))
    opened = FeatureStore.open(str(tmp_path / "s.parquet"), columns, tags_needed=False)
    before = store_content(opened, columns)
    assert store_content(opened, columns) == before and set(before) == {"s.parquet", "pictures"}
    write(paths[1], b"2")
    after = store_content(opened, columns)
    assert {name for name in after if after[name] != before[name]} == {"pictures"}
