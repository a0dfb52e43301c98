"""Everything from s3:// with 5% of the requests spoiled: what comes out equals the local result."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load

from distributed.data.feedback import read_feedback
from distributed.storage.folder import Folder
from drel_core.annotators.load import load_bundle
from tests.helpers.commands import ROOT, SMALL, command
from tests.helpers.fault_proxy import KINDS, FaultProxy
from tests.helpers.s3_server import Bucket, bucket_environment, make_bucket, s3_server
from tests.helpers.server import start
from tests.helpers.stores import planted_table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
RATE = 0.05
TRAIN = ("--workers", 2, "--epochs", 30, "--checkpoint.every", 33, *SMALL)
VALIDATED = (
    "--workers",
    2,
    "--epochs",
    12,
    "--checkpoint.every",
    3,
    "--data.validation",
    0.2,
    "--patience",
    2,
    *SMALL,
)


@dataclass
class Places:
    """The same stores locally and in a bucket, and folders for what comes out."""

    local: Folder
    remote: Folder
    bucket: Bucket

    @property
    def both(self) -> tuple[Folder, Folder]:
        return self.local, self.remote


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("s3")
    with (
        s3_server(folder / "log") as port,
        FaultProxy(port) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        make_bucket(port, "story")
        for name, value in bucket_environment(proxy.url, folder).items():
            patch.setenv(name, value)
        found = Places(
            Folder.of(folder / "local-run"), Folder("s3://story"), Bucket("story", proxy)
        )
        for at in found.both:
            write_stores(at)
        proxy.rate = RATE
        yield found
        print(
            f"\n{proxy.injected.total()} of {len(proxy.requests)} requests spoiled: "
            f"{dict(proxy.injected)}"
        )
        if len(proxy.requests) > 1000:  # not when one test runs alone
            assert set(proxy.injected) == set(KINDS)
            assert 0.03 < proxy.injected.total() / len(proxy.requests) < 0.07


def write_stores(at: Folder) -> None:
    def write(name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=64, write_page_checksum=True)
        at.write(name, buffer.getvalue())

    planted = planted_table(301)
    write("data/train/a.parquet", planted.slice(0, 150))
    write("data/train/b.parquet", planted.slice(150))
    write("data/test/a.parquet", planted_table(60, seed=1, first=1000))
    new = planted_table(90, tags=13, seed=2, first=5000)
    write("data/new/a.parquet", new)
    rows = 200_000
    flat = np.random.default_rng(0).normal(size=rows * 16).astype(np.float32)
    many = pa.table(
        {
            "image_id": np.arange(rows).astype(str),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(flat), 16),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(many, buffer, row_group_size=8192)
    at.write("data/many/a.parquet", buffer.getvalue())


def run(verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(verb, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test-secret" not in done.stdout + done.stderr
    return done


def kill_when(true: Callable[[], bool], log: Path, verb: str, *arguments: object) -> None:
    """kill -9 of a job's driver as soon as something holds."""
    with open(log, "w") as out:
        driver = subprocess.Popen(
            command(verb, *arguments), cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + 200
    while not true():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # its Ray notices and ends


def train_arguments(at: Folder, out: str, *options: object) -> list[object]:
    return [
        "--data.train",
        at / "data/train",
        "--data.test",
        at / "data/test",
        "--out",
        at / out,
        *options,
    ]


def first_version(places: Places) -> None:
    """``versions/v1`` on both sides, where the first test has not left it."""
    local, remote = (at / "versions/v1" for at in places.both)
    if not local.has("model/config.json"):
        run("train", *train_arguments(places.local, "versions/v1", *TRAIN))
    if not remote.has("model/config.json"):
        for name in (local / "model").files():
            (remote / "model").put(name, (local / "model").path / name)


def tensors(model: Folder) -> dict[str, torch.Tensor]:
    found = {}
    for name in model.files():
        if name.endswith(".safetensors"):
            held = load(model.read(name) or b"")
            found |= {f"{name}:{key}": value for key, value in held.items()}
    return found


def assert_equal_models(one: Folder, other: Folder) -> None:
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys() and mine
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def figures(at: Folder, name: str) -> dict[str, Any]:
    """Metrics without the times."""
    found = json.loads(at.read(name) or b"")
    return {key: value for key, value in found.items() if key not in ("score", "train")}


def assert_whole(at: Folder) -> None:
    """Every file below a folder can be read to its end."""
    for name in at.files():
        data = at.read(name)
        assert data is not None
        if name.endswith(".json"):
            json.loads(data)
        elif name.endswith(".parquet"):
            pq.read_table(io.BytesIO(data))
        elif name.endswith(".safetensors"):
            load(data)


def listed_checkpoints(out: Folder) -> list[str]:
    """Names that Ray Train would take a run up from."""
    listed = json.loads(out.read("checkpoints/checkpoint_manager_snapshot.json") or b"{}")
    return [one["checkpoint_dir_name"] for one in listed.get("checkpoint_results", [])]


def test_train_killed_and_resumed_equals_an_undisturbed_local_run(
    places: Places, tmp_path: Path
) -> None:
    local, remote = places.both
    run("train", *train_arguments(local, "versions/v1", *TRAIN))
    out = remote / "versions/v1"
    arguments = train_arguments(remote, "versions/v1", *TRAIN)
    kill_when(lambda: bool(listed_checkpoints(out)), tmp_path / "log", "train", *arguments)
    assert not out.has("model/config.json")
    files = out.files()
    for name in listed_checkpoints(out):
        held = {file.rpartition("/")[2] for file in files if f"/{name}/" in file}
        assert held == {".metadata", "__0_0.distcp", "__1_0.distcp", "drel.json"}
    assert_whole(out)
    again = run("train", *arguments)
    assert "resuming at epoch" in again.stdout
    assert_equal_models(local / "versions/v1/model", out / "model")
    assert figures(local / "versions/v1", "metrics.json") == figures(out, "metrics.json")
    assert_whole(out)
    names = set(out.files())
    assert {"config.yaml", "fingerprint.json", "progress.log"} <= names
    assert any("tfevents" in name for name in names)
    before = len(places.bucket.proxy.requests)
    assert "is trained already" in run("train", *arguments).stdout
    puts = [path for method, path in places.bucket.proxy.requests[before:] if method == "PUT"]
    assert not [path for path in puts if "/model/" in path or "/checkpoints/" in path]


def test_the_best_epoch_is_recalled_from_s3(places: Places) -> None:
    """Early stopping keeps the epoch with the best F1: its checkpoint comes back from the bucket."""
    for at in places.both:
        run("train", *train_arguments(at, "validated", *VALIDATED))
    one, other = (at / "validated" for at in places.both)
    assert_equal_models(one / "model", other / "model")
    assert figures(one, "metrics.json") == figures(other, "metrics.json")


def test_evaluate_and_annotate_killed_and_run_again(places: Places, tmp_path: Path) -> None:
    local, remote = places.both
    first_version(places)
    for at in places.both:
        run(
            "evaluate",
            "--model",
            at / "versions/v1",
            "--data",
            at / "data/test",
            "--json",
            at / "evaluated.json",
        )
    assert figures(local, "evaluated.json") == figures(remote, "evaluated.json")

    def arguments(at: Folder) -> list[object]:
        return ["--model", at / "versions/v1", "--data", at / "data/many", "--out", at / "tags"]

    def parts() -> list[str]:
        return [name for name in (remote / "tags").files() if name.startswith("part-")]

    run("annotate", *arguments(local))
    kill_when(lambda: len(parts()) >= 2, tmp_path / "log", "annotate", *arguments(remote))
    assert not (remote / "tags").has("_done.json")
    assert_whole(remote / "tags")
    kept = len(parts())
    again = run("annotate", *arguments(remote))
    assert f"{kept} of 7 files are there already" in again.stdout
    assert (remote / "tags").files().keys() == (local / "tags").files().keys()
    for name in parts():
        with (local / "tags").local(name) as one, (remote / "tags").local(name) as other:
            assert pq.read_table(one).equals(pq.read_table(other)), name


def test_serve_follows_an_update_that_is_published_in_the_bucket(places: Places) -> None:
    local, remote = places.both
    first_version(places)
    (remote / "versions").write("latest", b"v1\n")
    server = start(remote / "versions", "--poll_seconds", "0.5")  # type: ignore[arg-type]
    try:
        rows_BD = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)

        def check(model: Folder) -> None:
            annotator = load_bundle(model.path)
            score_Bk, tag_Bk = annotator.annotate(torch.from_numpy(rows_BD), 5)
            status, answer, _ = server.ask("/v1/annotate", {"features": rows_BD.tolist(), "k": 5})
            assert (status, answer["model"]) == (200, annotator.info.version)
            for row, result in enumerate(answer["results"]):
                names = [annotator.vocabulary.names[tag] for tag in tag_Bk[row].tolist()]
                assert [one["tag"] for one in result["tags"]] == names
                scores = [one["score"] for one in result["tags"]]
                assert scores == pytest.approx(score_Bk[row].tolist(), abs=1e-5)

        check(local / "versions/v1/model")
        word = {"image_id": "x", "features": rows_BD[0].tolist(), "add": ["tag-01"]}
        assert server.ask("/v1/feedback", word)[0] == 200
        kept = read_feedback((remote / "versions/feedback").address, 16)
        assert kept.column("image_id").to_pylist() == ["x"]
        for at in places.both:
            run(
                "update",
                "--model",
                at / "versions/v1",
                "--data",
                at / "data/new",
                "--data.test",
                at / "data/test",
                "--out",
                at / "versions/v2",
                "--epochs",
                3,
                "--workers",
                2,
                "--publish",
                "true",
            )
        one, other = (at / "versions/v2" for at in places.both)
        assert_equal_models(one / "model", other / "model")
        assert figures(one, "metrics.json") == figures(other, "metrics.json")
        version = load_bundle((one / "model").path).info.version
        deadline = time.monotonic() + 60
        while server.ask("/v1/model")[1]["version"] != version:
            assert time.monotonic() < deadline
            time.sleep(0.3)
        check(one / "model")
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    assert server.process.returncode == 0
    assert_whole(remote)
