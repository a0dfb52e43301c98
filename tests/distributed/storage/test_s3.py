"""Stores, files and bundles on S3, against a server process, with requests that go wrong."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles.locate import find_bundle, local_bundle, publish
from distributed.bundles.write import BundleWriter
from distributed.data.blocks import inline_blocks
from distributed.data.check_rows import Validation
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, read_table, read_unit
from distributed.data.parquet_files import list_files
from distributed.data.survey import survey_store
from distributed.driver.train import with_power
from distributed.serving.model import ServedModel
from distributed.storage import s3 as storage
from distributed.storage.files import read_bytes
from distributed.storage.folder import Folder
from distributed.storage.local_cache import RunFolder
from distributed.storage.s3 import keep_s3, open_s3
from distributed.training.build import build_learner
from distributed.training.model_trainer import ModelTrainer
from distributed.training.run_spec import RunSpec
from distributed.training.size_rule import DataSize, apply_size_rule
from drel_core.annotators.load import load_bundle
from drel_core.bundle.card import CARD
from drel_core.decision.decider import DECISION
from drel_core.errors import InputError
from jobs.annotate import main as annotate
from jobs.compare import main as compare
from jobs.evaluate import main as evaluate
from jobs.train import parse
from tests.conftest import Job
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import ROOT, SMALL
from tests.helpers.fault_proxy import KINDS, FaultProxy
from tests.helpers.ranks import spawn_ranks
from tests.helpers.s3_server import Bucket, bucket_environment, make_bucket, s3_server
from tests.helpers.shared_folder_io import SharedFolderIO
from tests.helpers.store_checks import read_back, survey, table
from tests.helpers.stores import planted_table


def put_store(bucket: Bucket, key: str, content: pa.Table, path: Path, files: int = 3) -> str:
    """A table as a store of several files."""
    step = -(-len(content) // files)
    for file in range(files):
        pq.write_table(content.slice(file * step, step), path, row_group_size=64)
        Folder.of(bucket.at(key)).put(f"{file}.parquet", path)
    return bucket.at(key)


def test_a_store_reads_as_it_does_locally_with_every_kind_of_fault(
    s3: Bucket, tmp_path: Path
) -> None:
    content = planted_table(600)
    at = put_store(s3, "data/train", content, tmp_path / "part")
    for kind in KINDS:
        s3.proxy.kinds, s3.proxy.rate = (kind,), 0.3
        found = read_back(survey(FeatureStore.open(at)).train)
        assert s3.proxy.injected[kind] >= 3
        assert found.column("image_id").to_pylist() == content.column("image_id").to_pylist()
        flat = content.column("features").combine_chunks().flatten().to_numpy()
        np.testing.assert_array_equal(np.array(found.column("features").to_pylist()).ravel(), flat)
        assert found.column("tags").to_pylist() == content.column("tags").to_pylist()


def test_addresses_keep_options_and_odd_names(s3: Bucket, tmp_path: Path) -> None:
    """What a worker opens is an address made from the store's own."""
    pq.write_table(table(), tmp_path / "x")
    Folder.of(s3.at("st")).put("a b#1%.parquet", tmp_path / "x")
    options = f"?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:{s3.proxy.port}"
    store = FeatureStore.open(f"{s3.at('st/')}{options}")
    assert [unit.path for unit in store.units] == [
        f"s3://{s3.name}/st/a%20b%231%25.parquet{options}"
    ]
    assert survey(store).train_rows == 6
    folder = Folder.of(s3.at("st") + options)
    assert (folder / "deep").file("a b") == f"{s3.at('st/deep/a%20b')}{options}"
    assert Folder.of(s3.at("st/") + options) == folder
    assert (folder / "deep").parent == folder and folder.name == "st"
    folder.remove(["a b#1%.parquet"])
    with pytest.raises(InputError, match="the file is gone"):
        survey(store)
    with pytest.raises(InputError, match="no such file"):
        FeatureStore.open(s3.at("other"))


def test_listing_takes_one_pass_and_a_footer_one_request(s3: Bucket, tmp_path: Path) -> None:
    """1100 files, in pages of 1000."""
    filesystem, root = open_s3(s3.at("many"))

    def make(number: int) -> None:
        with filesystem.open_output_stream(f"{root}/{number:05d}.parquet") as stream:
            stream.write(b"x")

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(1100)))
    s3.proxy.requests.clear()
    _, files = list_files(s3.at("many"), "--data")
    assert len(files) == 1100
    pages = [path for method, path in s3.proxy.requests if "max-keys=1000" in path]
    assert len(pages) == 2 and len(s3.proxy.requests) <= 8, s3.proxy.requests
    at = put_store(s3, "few", planted_table(100), tmp_path / "part", files=20)
    s3.proxy.requests.clear()
    store = FeatureStore.open(at)
    assert len(store.units) == 20
    assert len(s3.proxy.requests) <= 20 + 8, s3.proxy.requests
    s3.proxy.requests.clear()
    read_unit(survey(store).train[0], Columns())
    assert {method for method, _ in s3.proxy.requests} <= {"HEAD", "GET"}


def test_files_are_there_whole_or_not_at_all(s3: Bucket, tmp_path: Path) -> None:
    folder = Folder.of(s3.at("out"))
    folder.check("--out")
    assert folder.files() == {} and folder.read("x") is None and not folder.has("x")
    s3.proxy.rate = 0.2
    versions = [b"%d " % number * (3000 if number % 2 else 60_000) for number in range(20)]
    folder.write("x", versions[0])
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        writer = threads.submit(lambda: [folder.write("x", version) for version in versions])
        while not writer.done():
            assert folder.read("x") in versions
        writer.result()
    assert s3.proxy.injected.total() > 5
    large = np.random.default_rng(0).bytes(25 << 20)
    (tmp_path / "large").write_bytes(large)
    folder.put("deep/large", tmp_path / "large")  # in parts
    with folder.local("deep/large") as copy:
        assert copy.read_bytes() == large
    assert folder.files() == {"x": len(versions[-1]), "deep/large": len(large)}
    with pytest.raises(ZeroDivisionError), folder.writing("never") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert not folder.has("never")


def test_a_killed_upload_leaves_nothing(s3: Bucket, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(60 << 20))
    code = (
        "import sys; from pathlib import Path; from distributed.storage.folder import Folder\n"
        "Folder.of(sys.argv[1]).put('large', Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, s3.at("out"), str(tmp_path / "large")], cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not any("partNumber" in path for _, path in s3.proxy.requests):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not any(m == "POST" and "uploadId" in path for m, path in s3.proxy.requests)
    assert Folder.of(s3.at("out")).files() == {}


def write_by_two(final: Folder, tmp_path: Path) -> str:
    """A bundle whose files come from two processes, as ranks write it."""
    whole = write_drel(tmp_path / f"whole-{final.name}", decider=random_decider(12))
    one, other = BundleWriter(final), BundleWriter(final)
    one.clear()
    for path in whole.iterdir():
        mine = other if path.name.startswith("tag_embedding") else one
        (mine.folder / path.name).write_bytes(path.read_bytes())
    for draft in (one, other):
        if draft is one:
            (draft.folder / "config.json").rename(tmp_path / "config.json")
        draft.upload()
    other.discard()
    with pytest.raises(InputError, match="no model bundle"):
        find_bundle(final.address)
    one.download_parts()
    (tmp_path / "config.json").rename(one.folder / "config.json")
    version: str = json.loads((whole / "config.json").read_text())["version"]
    one.finish(version)
    return version


def test_bundles_are_written_found_loaded_and_published(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = Folder.of(s3.at("versions"))
    s3.proxy.rate = 0.1
    version = write_by_two(versions / "v1" / "model", tmp_path)
    puts = [path for method, path in s3.proxy.requests if method == "PUT"]
    assert puts[-1].endswith("model/config.json")
    publish(versions.address, "v1")
    assert find_bundle(versions.address) == (versions / "v1" / "model", version)
    with pytest.raises(InputError, match="no model bundle"):
        publish(versions.address, "v2")
    assert find_bundle(versions.address)[1] == version
    # Another machine: no local copy.
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path / "elsewhere"))
    held = ServedModel(versions.address)
    expected = load_bundle(tmp_path / "whole-model")
    batch_BD = torch.randn(5, expected.image_dim)
    assert torch.equal(held.annotator.scores(batch_BD), expected.scores(batch_BD))
    assert held.annotator.decider is not None
    s3.proxy.requests.clear()
    local_bundle(versions.address)  # there already: looked up, not fetched
    assert all("safetensors" not in path for _, path in s3.proxy.requests)
    write_drel(tmp_path / "v2", seed=1)
    for path in (tmp_path / "v2").iterdir():
        (versions / "v2").put(path.name, path)
    publish(versions.address, "v2")
    assert find_bundle(versions.address)[1] != version
    publish(versions.address, "v1")
    assert ServedModel(versions.address).version == version


def test_a_bundle_of_mixed_or_damaged_files_is_refused(s3: Bucket, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_drel(tmp_path / name, seed=seed)
    mixed = Folder.of(s3.at("mixed"))
    for path in (tmp_path / "a").iterdir():
        other = "b" if path.name == "model.safetensors" else "a"
        mixed.put(path.name, tmp_path / other / path.name)
    with pytest.raises(InputError, match="damaged"):
        local_bundle(mixed.address)
    mixed.write("config.json", b"{half")
    with pytest.raises(InputError, match="damaged"):
        find_bundle(mixed.address)
    assert not list((tmp_path / "local").rglob("config.json")), "no part of it stays here"


def test_a_bundle_cannot_write_outside_its_local_folder(s3: Bucket, tmp_path: Path) -> None:
    write_drel(tmp_path / "a")
    about = json.loads((tmp_path / "a" / "config.json").read_text())
    bad = Folder.of(s3.at("bad"))
    for path in (tmp_path / "a").iterdir():
        bad.put(path.name, path)
    key = "deep/../../../../out.safetensors"  # no client of ours writes such a key
    request = urllib.request.Request(
        f"{s3.proxy.url}/{s3.name}/bad/{quote(key, safe='')}", data=b"x", method="PUT"
    )
    urllib.request.urlopen(request, timeout=10).close()
    assert key in bad.files()
    with pytest.raises(InputError, match="holds a file named"):
        local_bundle(bad.address)
    bad.write("config.json", json.dumps({**about, "version": "../../../../x"}).encode())
    with pytest.raises(InputError):
        local_bundle(bad.address)
    local = tmp_path / "local"
    assert [path for path in local.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob("out*"))


def test_annotate_and_evaluate_wholly_on_s3_equal_local_ones(
    s3: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = planted_table(300, dim=8)
    at = put_store(s3, "data", content, tmp_path / "part")
    for name in Folder.of(
        at
    ).files():  # the same units: a matmul of another width may round otherwise
        Folder.of(at).fetch(name, tmp_path / "data")
    model = write_drel(tmp_path / "model")
    for path in model.iterdir():
        Folder.of(s3.at("v/model")).put(path.name, path)
    s3.proxy.rate = 0.05
    for model_at, data, out in (
        (str(model), str(tmp_path / "data"), str(tmp_path / "tags")),
        (s3.at("v"), at, s3.at("tags")),
    ):
        annotate(["--model", model_at, "--data", data, "--out", out])
        evaluate(["--model", model_at, "--data", data, "--json", f"{out}.json"])
    one = pq.read_table(tmp_path / "tags" / "part-0000000.parquet")
    with Folder.of(s3.at("tags")).local("part-0000000.parquet") as path:
        assert pq.read_table(path).equals(one)
    figures = [
        json.loads((tmp_path / "tags.json").read_bytes()),
        json.loads(Folder.of(s3.at("")).read("tags.json") or b""),
    ]
    for found in figures:
        del found["score"]  # speeds
    assert figures[0] == figures[1]
    capsys.readouterr()
    annotate(["--model", s3.at("v"), "--data", at, "--out", s3.at("tags")])
    assert "is there already" in capsys.readouterr().out


def test_compare_writes_its_tables_and_models_to_s3(
    s3: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that is fitted once (kNN, in two shards) goes through the same draft."""
    train_at = put_store(s3, "train", planted_table(90), tmp_path / "part")
    test_at = put_store(s3, "test", planted_table(30, seed=1, first=500), tmp_path / "part")
    s3.proxy.rate = 0.05
    arguments = [
        "--data.train",
        train_at,
        "--data.test",
        test_at,
        "--out",
        s3.at("out"),
        "--methods",
        "knn",
        "--workers",
        "2",
    ]
    compare(arguments)
    out = Folder.of(s3.at("out"))
    assert {"results.json", "table.md", "table.png", "knn/seed-0/model/config.json"} <= set(
        out.files()
    )
    assert (out.read("table.png") or b"").startswith(b"\x89PNG")
    first = json.loads(out.read("results.json") or b"")
    capsys.readouterr()
    compare(arguments)
    assert "is trained already" in capsys.readouterr().out
    again = json.loads(out.read("results.json") or b"")
    assert [m["mean"] for m in first["methods"]] == [m["mean"] for m in again["methods"]]


def train_as_a_rank(data: str, outs: list[str], folder: str) -> None:
    for number, out in enumerate(outs):
        train_once(data, out, f"{folder}/{number}")


def train_once(data: str, out: str, checkpoints: str) -> None:
    """The training loop, with its checkpoints in a folder that all ranks see."""
    config, _, _ = parse(
        [
            "--data.train",
            data,
            "--out",
            out,
            "--data.validation",
            "0.2",
            "--epochs",
            "6",
            "--patience",
            "2",
            "--checkpoint.every",
            "4",
            *SMALL,
        ]
    )
    store = FeatureStore.open(data)
    config = with_power(config, store)
    found = survey_store(store, "fail", Validation(0.2, config.seed), power=config.model.power)
    config, _ = apply_size_rule(config, DataSize.of(found))

    spec = RunSpec(config=config, survey=found, features=None, fingerprint={})
    learner = build_learner(spec, torch.device("cpu"))
    blocks = inline_blocks(config.data.columns, found.names)
    ModelTrainer(spec, learner, blocks, SharedFolderIO(Path(checkpoints))).run()


def test_two_ranks_leave_the_bundle_in_s3_that_they_leave_locally(
    s3: Bucket, tmp_path: Path
) -> None:
    pq.write_table(planted_table(200), tmp_path / "data.parquet", row_group_size=64)
    data = str(tmp_path / "data.parquet")
    outs = [Folder.of(tmp_path / "out"), Folder.of(s3.at("out"))]
    s3.proxy.rate = 0.05
    for out in outs:
        (out / "model").write("tag_embedding-00002-of-00003.safetensors", b"of a stopped run")
        if not out.remote:
            (out / "model").path.rename(out.path / ".model.partial")
    addresses = [out.address for out in outs]
    spawn_ranks(2, train_as_a_rank, tmp_path, data, addresses, str(tmp_path))
    one, other = (set((out / "model").files()) for out in outs)
    assert one == other and DECISION in one and "reservoir.parquet" in one
    for name in one - {"config.json", CARD}:  # they say how long it took
        first, second = ((out / "model").read(name) for out in outs)
        assert first == second, name
    versions = [find_bundle(out.address)[1] for out in outs]
    assert versions[0] == versions[1]
    assert any("tfevents" in name for name in outs[1].files())


def test_growing_files_are_copied_when_they_have_changed(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Folder.of(s3.at("out"))
    scratch = RunFolder(out)
    (scratch.folder / "progress.log").write_text("one\n")
    scratch.push()
    s3.proxy.requests.clear()
    scratch.push()
    assert not s3.proxy.requests
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path / "elsewhere"))
    moved = RunFolder(out)
    moved.take_up("progress.log")
    with open(moved.folder / "progress.log", "a") as file:
        file.write("two\n")
    moved.push()
    assert out.read("progress.log") == b"one\ntwo\n"


def test_settings_come_from_a_profile_and_travel_without_keys(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder.of(s3.at("x")).write("a", b"1")
    config = tmp_path / "aws-config"
    config.write_text(
        f"[profile team]\nregion = eu-west-3\nendpoint_url = {s3.proxy.url}\n"
        "aws_access_key_id = team-key\naws_secret_access_key = team-secret\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert Folder.of(s3.at("x")).read("a") == b"1"
    filesystem, _ = open_s3(s3.at("x"))
    assert filesystem.region == "eu-west-3"
    sent = pickle.dumps(filesystem)
    assert b"team-" not in sent and pickle.loads(sent) is filesystem
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="nobody"):
        open_s3(s3.at("x"))


def test_a_profile_may_take_a_role_by_another_profile(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As boto3 does: keys of source_profile get those of the role from STS (here the same server)."""
    Folder.of(s3.at("x")).write("a", b"1")
    (tmp_path / "aws-config").write_text(
        f"[profile team]\nregion = eu-west-3\nendpoint_url = {s3.proxy.url}\n"
        "role_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = base-key\naws_secret_access_key = base-secret\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    s3.proxy.requests.clear()
    assert Folder.of(s3.at("x")).read("a") == b"1"
    assert ("POST", "/") in s3.proxy.requests  # AssumeRole
    filesystem, _ = open_s3(s3.at("x"))
    sent = pickle.dumps(filesystem)
    assert b"secret" not in sent and pickle.loads(sent) is filesystem
    asked = s3.proxy.requests.count(("POST", "/"))
    assert Folder.of(s3.at("x")).files() == {"a": 1}
    assert s3.proxy.requests.count(("POST", "/")) == asked  # the keys are kept while they last
    kept, place = keep_s3(s3.at("x"))  # as Ray Train has it for days
    before = s3.proxy.key
    storage._role.cache_clear()  # the keys end, and STS gives others
    for number in range(20):
        (tmp_path / "checkpoint").mkdir(exist_ok=True)
        (tmp_path / "checkpoint" / str(number)).write_bytes(bytes(1 << 20))
    kept = pickle.loads(pickle.dumps(kept))
    pafs.copy_files(
        str(tmp_path / "checkpoint"), f"{place}/checkpoint", destination_filesystem=kept
    )
    assert s3.proxy.key != before and s3.proxy.key != "base-key"
    assert len(kept.get_file_info(pafs.FileSelector(f"{place}/checkpoint"))) == 20
    kept.delete_dir(f"{place}/checkpoint")
    assert kept.get_file_info(f"{place}/checkpoint/1").type == pafs.FileType.NotFound
    (tmp_path / "aws-config").write_text(
        f"[profile other]\nendpoint_url = {s3.proxy.url}\nrole_arn = arn:aws:iam::1:role/x\n"
        "source_profile = nobody\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(InputError, match="AWS profile other: its role cannot be taken"):
        open_s3(s3.at("x"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://no-such-bucket/x", "no bucket 'no-such-bucket'"),
        ("s3://key:secret@bucket/x", "keys in a URI"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/x?colour=red", "unknown option 'colour'"),
        ("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", "no S3 answers there"),
        ("gs://bucket/x", "neither a local path nor s3://"),
    ],
)
def test_what_cannot_be_reached_is_one_line_soon(s3: Bucket, address: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=words) as caught:
        Folder.of(address).check("--out")
    assert time.monotonic() - started < 10
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("verb", ["evaluate", "annotate", "serve", "update", "export"])
def test_a_model_at_a_dead_endpoint_is_one_line_soon(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    for name, value in bucket_environment("http://127.0.0.1:1", tmp_path).items():
        monkeypatch.setenv(name, value)
    pq.write_table(planted_table(10), tmp_path / "a.parquet")
    out = () if verb in ("serve", "evaluate") else ("--out", tmp_path / "out")
    data = () if verb in ("serve", "export") else ("--data", tmp_path / "a.parquet")
    started = time.monotonic()
    done = job(verb, "--model", "s3://bucket/model", *data, *out)
    assert time.monotonic() - started < 10
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "http://127.0.0.1:1: no S3 answers there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_to_s3_is_the_local_one_also_after_a_stop(
    s3: Bucket, tmp_path: Path, job: Job
) -> None:
    model = write_drel(tmp_path / "model", decider=random_decider(12))
    for path in model.iterdir():
        Folder.of(s3.at("v/model")).put(path.name, path)
    out = Folder.of(s3.at("deep/export"))
    assert job("export", "--model", model, "--out", tmp_path / "export").returncode == 0
    out.write("vocabulary.json", b"{half")  # an upload that was stopped: model.json comes last
    s3.proxy.rate = 0.05
    done = job("export", "--model", s3.at("v"), "--out", out)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    puts = [path for method, path in s3.proxy.requests if method == "PUT" and "export" in path]
    assert puts[-1].endswith("model.json")
    local = Folder.of(tmp_path / "export")
    assert local.files() == out.files()
    for name in local.files():
        # A program is not the same twice: it holds where it was made.
        assert local.read(name) == out.read(name) or name.endswith(".onnx"), name
    again = job("export", "--model", model, "--out", out)
    assert again.returncode == 2 and "holds files" in again.stderr
    other = Folder.of(s3.at("other"))
    other.write("mine.txt", b"mine")
    refused = job("export", "--model", model, "--out", other)
    assert refused.returncode == 2 and "holds mine.txt" in refused.stderr
    assert other.files() == {"mine.txt": 4}


def test_wrong_keys_end_a_job_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that checks signatures, once the two requests that start it are done."""
    monkeypatch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "2")
    with s3_server(tmp_path / "log") as port, FaultProxy(port) as proxy:
        make_bucket(port, "guarded")
        environment = os.environ | bucket_environment(proxy.url, tmp_path)
        pq.write_table(planted_table(10), tmp_path / "a.parquet")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "jobs.train",
                "--data.train",
                str(tmp_path / "a.parquet"),
                "--out",
                "s3://guarded/out",
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "S3 refuses access" in done.stderr
    assert "test-secret" not in done.stdout + done.stderr


def test_ranges_shorter_than_the_text_of_an_error_outlast_errors(s3: Bucket) -> None:
    at = Folder.of(s3.at("tiny"))
    table = planted_table(4, dim=2)
    with at.writing("a.parquet") as path:
        pq.write_table(table, path, compression="none", use_dictionary=False)
    s3.proxy.kinds, s3.proxy.rate = ("slow down", "internal error"), 0.3
    for _ in range(8):
        (unit,) = FeatureStore.open(at.address).units
        for column in ("tags", "features"):
            assert read_table(unit, [column]).column(0).equals(table.column(column))
    at.write("latest", b"v1")
    assert all(at.read("latest") == b"v1" == read_bytes(at.file("latest")) for _ in range(8))
    assert s3.proxy.injected.total() > 10


def test_a_store_on_an_s3_that_goes_away_is_not_called_damaged(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    at = Folder.of(s3.at("store"))
    with at.writing("a.parquet") as path:
        pq.write_table(planted_table(400), path)
    (unit,) = FeatureStore.open(at.address).units
    s3.proxy.kinds, s3.proxy.rate = ("slow down",), 1.0
    with pytest.raises(InputError, match=r"cannot be read now .* goes on when S3 answers") as said:
        read_table(unit, ["features"])
    assert "damaged" not in str(said.value)
