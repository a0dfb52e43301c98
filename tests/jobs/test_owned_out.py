"""--out of every verb: one run at a time, and one line where it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from tests.conftest import Job
from tests.helpers.bundles import write_drel
from tests.helpers.stores import write_planted

D = 8
VERBS = ("train", "annotate", "update", "compare", "tune", "ingest")


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
    }


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_run_ends_and_says_who_works_there(
    tmp_path: Path, job: Job, inputs: dict[str, list[Any]], verb: str
) -> None:
    out = tmp_path / "out"
    with owned(Folder(str(out.with_name("out.partial") if verb == "ingest" else out))):
        done = job(verb, *inputs[verb], "--out", out)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert f"another run works there: process {os.getpid()} on" in done.stderr


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    folder.chmod(0o555)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
