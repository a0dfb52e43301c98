"""Stores and searches on s3://, with 5% of the requests spoiled: they equal the local ones.

Both run on one Ray, in a process of its own: workers must know the endpoint when they start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.parquet_files import WRITING
from distributed.storage.folder import Folder
from drel_core.errors import InputError
from tests.helpers.commands import ROOT, run_here
from tests.helpers.s3_jobs import SCRIPT, Command, ingest, manifest, tune, write_sources
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import planted_table


def jobs_on_one_ray(*commands: Command) -> str:
    """What the jobs print, one after another."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_stores_and_searches_on_s3_equal_local_ones(s3: Bucket, tmp_path: Path) -> None:
    local, remote = Folder.of(tmp_path / "here"), Folder.of(s3.at("there"))
    for at in (local, remote):
        write_sources(at)
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 0.001, high: 0.01, log: true}\n")
    s3.proxy.rate = 0.05
    said = jobs_on_one_ray(
        ingest(local), ingest(remote), ingest(remote), tune(local, space), tune(remote, space)
    )
    assert s3.proxy.injected.total() > 5
    assert f"{remote / 'store'} is there already" in said

    one, other = manifest(local), manifest(remote)
    for name in ("rows", "D", "columns", "T", "rejected", "files", "features"):
        assert one[name] == other[name], name  # files with their hashes
    assert one["rows"] == {"train": 14, "test": 5} and one["rejected"] == 1
    names = set((remote / "store").files())
    assert names == set((local / "store").files()) and "codebook.npz" in names
    assert not set((remote / "store.partial").files()) - {".lock"}
    for part in ("train", "test"):
        columns = Columns(features="cnn,lowlevel")
        stores = [FeatureStore.open(at.file(f"store/{part}"), columns) for at in (local, remote)]
        assert stores[0].num_rows == stores[1].num_rows == one["rows"][part]
    with (remote / "store").local("rejected.parquet") as path:
        (gone,) = pq.read_table(path).to_pylist()
    assert gone["image_id"] == "p07" and gone["where"] == remote.file("pics/p07.png")

    trials = [json.loads((at / "search").read("trials.json") or b"") for at in (local, remote)]
    assert trials[0] == trials[1] and len(trials[0]) == 2
    best = [yaml.safe_load((at / "search").read("best.yaml") or b"") for at in (local, remote)]
    assert best[0] == best[1]
    assert any("tfevents" in name for name in (remote / "search").files())


def test_a_store_that_is_being_written_is_not_read(s3: Bucket, tmp_path: Path) -> None:
    out = Folder.of(s3.at("deep/store"))
    with (out / "train").writing("part-00000.parquet") as path:
        pq.write_table(planted_table(20), path)
    assert FeatureStore.open(out.file("train")).num_rows == 20
    out.write(WRITING, b"{}")
    for address in (out.file("train"), out.address):
        with pytest.raises(InputError, match="is writing this store"):
            FeatureStore.open(address)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("s3://no-such-bucket/x", "no bucket 'no-such-bucket'"),
        ("s3://{}", "names no folder in the bucket"),
        ("s3://{}/full", "exists and is no feature store"),
    ],
)
def test_a_wrong_out_of_ingest_is_one_line(
    out: str, words: str, s3: Bucket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    local = Folder.of(tmp_path / "here")
    write_sources(local)
    Folder.of(s3.at("full")).write("mine.txt", b"mine")
    verb, arguments = ingest(local)
    given = [*arguments[:-1], out.format(s3.name)]
    assert run_here(verb, *given) == 2
    complained = capfd.readouterr().err
    assert complained.count("\n") == 1 and words in complained
    assert Folder.of(s3.at("full")).files() == {"mine.txt": 4}
