"""--out of every verb: one run at a time, and one line where it cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distributed.storage.files import write_bytes
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from tests.conftest import Job
from tests.helpers.bad_disks import fill, plain_user, read_only, small_disk
from tests.helpers.bundles import write_drel
from tests.helpers.commands import ROOT
from tests.helpers.s3_server import Bucket
from tests.helpers.stores import write_planted

D = 8
VERBS = ("train", "annotate", "update", "compare", "tune", "ingest", "export")
HELD = {"ingest": "out.partial", "export": ".out.partial"}
"""Folders that are held where it is not --out itself, which appears by a rename."""


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, list[Any]]:
    """The arguments of every verb that writes to --out, but that one."""
    store = write_planted(tmp_path / "store.parquet", 30, dim=D)
    model = write_drel(tmp_path / "model")
    table = tmp_path / "store.parquet"
    return {
        "train": ["--data.train", store, "--method", "popularity"],
        "annotate": ["--model", model, "--data", store],
        "update": ["--model", model, "--data", store],
        "compare": ["--data.train", store, "--data.test", store, "--methods", "popularity"],
        "tune": ["--data.train", store, "--trials", "1"],
        "ingest": ["--source", "table", "--input", table],
        "export": ["--model", model, "--format", "both"],
    }


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_run_ends_and_says_who_works_there(
    tmp_path: Path, job: Job, inputs: dict[str, list[Any]], verb: str
) -> None:
    out = tmp_path / "out"
    with owned(Folder(str(out.with_name(HELD.get(verb, "out"))))):
        done = job(verb, *inputs[verb], "--out", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert f"error: {out}: another run works there: process {os.getpid()} on" in done.stderr


@pytest.mark.parametrize("verb", ["train", "annotate", "ingest", "export"])
def test_a_second_run_on_s3_ends_and_says_who_works_there(
    s3: Bucket, job: Job, inputs: dict[str, list[Any]], verb: str
) -> None:
    out = s3.at("out")
    with owned(Folder.of(f"{out}.partial" if verb == "ingest" else out)):
        done = job(verb, *inputs[verb], "--out", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {out}: another run works there: process {os.getpid()} on" in done.stderr
    assert Folder.of(out).files() == {}


HOLD = """
import sys, time
from contextlib import ExitStack
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
with ExitStack() as held:
    for folder in sys.argv[1:]:
        held.enter_context(owned(Folder(folder)))
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_next_run_takes_over_from_one_that_was_killed(
    tmp_path: Path, job: Job, inputs: dict[str, list[Any]]
) -> None:
    """Of the verbs that need no Ray; the others hold their folder in the same way."""
    verbs = ("train", "annotate", "export")
    held = [str(tmp_path / verb / HELD.get(verb, "out")) for verb in verbs]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, *held], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    for verb in verbs:
        refused = job(verb, *inputs[verb], "--out", tmp_path / verb / "out")
        assert refused.returncode == 2 and f"process {holder.pid} on" in refused.stderr
    holder.kill()
    holder.wait()
    for verb in verbs:
        done = job(verb, *inputs[verb], "--out", tmp_path / verb / "out")
        assert done.returncode == 0, done.stderr
        assert f"out: taken over from process {holder.pid} on" in done.stdout
        assert not list((tmp_path / verb).rglob(".lock"))


RUN_ALL = """
import json, sys
from tests.helpers.commands import run_here
for verb, arguments in json.load(sys.stdin):
    print(f"== {verb}", file=sys.stderr, flush=True)
    print(f"{verb} {run_here(verb, *arguments)}", flush=True)
"""


def run_all(commands: list[tuple[str, list[str]]], *before: str) -> tuple[list[str], list[str]]:
    """Jobs one after another in one process, which imports everything once.

    Returns:
        of each what it said on stderr; lines of verb and exit code.
    """
    done = subprocess.run(
        [*before, sys.executable, "-c", RUN_ALL],
        cwd=ROOT,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    codes = [
        line for line in done.stdout.splitlines() if line.split()[0] in {v for v, _ in commands}
    ]
    return done.stderr.split("== ")[1:], codes


def in_folder(inputs: dict[str, list[Any]], folder: Path) -> list[tuple[str, list[str]]]:
    return [(verb, [*map(str, inputs[verb]), "--out", str(folder / verb)]) for verb in VERBS]


def test_an_out_that_may_not_be_written_is_one_line(
    tmp_path: Path, inputs: dict[str, list[Any]]
) -> None:
    with read_only(tmp_path / "locked") as folder:
        commands = in_folder(inputs, folder)
        said, codes = run_all(commands, *plain_user())
        assert not list(folder.iterdir())
    assert codes == [f"{verb} 2" for verb, _ in commands]
    for text, (verb, _) in zip(said, commands, strict=True):
        (_, line) = text.strip().split("\n")
        assert line.startswith(f"error: {folder}/{verb}"), line
        assert "--out cannot be written (Permission denied)" in line


def test_a_full_disk_is_one_line_and_nothing_is_left(
    tmp_path: Path, inputs: dict[str, list[Any]]
) -> None:
    with small_disk(tmp_path / "small", 64) as folder:
        fill(folder)
        commands = in_folder(inputs, folder)
        said, codes = run_all(commands)
        assert [path.name for path in folder.iterdir()] == ["filler"]
    assert codes == [f"{verb} 2" for verb, _ in commands]
    for text, (verb, _) in zip(said, commands, strict=True):
        (_, line) = text.strip().split("\n")
        assert line.startswith(f"error: {folder}/{verb}") and "No space left on device" in line


def test_a_disk_that_fills_later_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, inputs: dict[str, list[Any]]
) -> None:
    """There is room for the first files, and for no more."""
    with small_disk(tmp_path / "small", 256) as folder:
        for verb in ("train", "annotate", "export"):
            filler = fill(folder, left=12 << 10)
            command = (verb, [*map(str, inputs[verb]), "--out", str(folder / verb)])
            (text,), codes = run_all([command])
            assert codes == [f"{verb} 2"]
            (_, line) = text.strip().split("\n")
            assert "No space left on device" in line and str(folder) in line
            assert "damaged" not in line
            files = [path for path in folder.rglob("*") if path.is_file()]
            empty = [path for path in files if not path.stat().st_size]
            assert all(".partial" in str(path) for path in empty)  # which the next run removes
            filler.unlink()
            (text,), codes = run_all([command])
            assert codes == [f"{verb} 0"], text
            shutil.rmtree(folder / verb)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not there")
def test_a_limit_of_file_sizes_is_one_line(tmp_path: Path, inputs: dict[str, list[Any]]) -> None:
    """As a quota: a write fails though the disk has room."""
    for verb in ("train", "annotate", "export"):
        command = (verb, [*map(str, inputs[verb]), "--out", str(tmp_path / verb)])
        (text,), codes = run_all([command], "prlimit", "--fsize=1000")
        assert codes == [f"{verb} 2"]
        (_, line) = text.strip().split("\n")
        assert line.startswith("error: ") and "File too large" in line and str(tmp_path) in line


def test_a_file_is_there_whole_or_not_at_all_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64) as folder:
        write_bytes(str(folder / "kept"), b"before")
        filler = fill(folder)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left on device") as refused:
                write_bytes(str(folder / "kept"), bytes(9000), durable=True)
            assert refused.value.filename == str(folder / "kept")
        filler.unlink()
        assert [path.name for path in folder.iterdir()] == ["kept"]
        assert (folder / "kept").read_bytes() == b"before"
