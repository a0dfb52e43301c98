"""`distributed` is Dask's name as well: the jobs use this checkout's or stop with one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder that holds another package called ``distributed``."""
    package = tmp_path / "site" / "distributed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '2026.1'\n")
    return package.parent


def run(code: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line_and_2(done: subprocess.CompletedProcess[str], wrong: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: `distributed`")
    assert wrong in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("from_root", [True, False])
def test_the_checkout_wins_over_an_earlier_one_on_the_path(
    foreign: Path, tmp_path: Path, from_root: bool
) -> None:
    code = "import jobs, distributed, sys; print(distributed.__file__, sys.path[0], sep='\\n')"
    done = run(code, [foreign, ROOT], ROOT if from_root else tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(ROOT / "distributed" / "__init__.py"), str(ROOT)]


def test_one_that_is_imported_already_is_named(foreign: Path, tmp_path: Path) -> None:
    done = run("import distributed, jobs; print('on')", [foreign, ROOT], tmp_path)
    assert_one_line_and_2(done, str(foreign / "distributed"))


def test_one_that_stands_in_for_a_missing_folder_is_named(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "cut" / "jobs").mkdir(parents=True)
    shutil.copy(ROOT / "jobs" / "__init__.py", tmp_path / "cut" / "jobs")
    done = run("import jobs; print('on')", [foreign], tmp_path / "cut")
    assert_one_line_and_2(done, str(foreign / "distributed"))


def test_none_at_all_is_said(tmp_path: Path) -> None:
    (tmp_path / "cut" / "jobs").mkdir(parents=True)
    shutil.copy(ROOT / "jobs" / "__init__.py", tmp_path / "cut" / "jobs")
    done = run("import jobs; print('on')", [], tmp_path / "cut")
    assert_one_line_and_2(done, "Python finds none")


def test_a_single_module_of_that_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("")
    done = run("import distributed, jobs; print('on')", [tmp_path, ROOT], tmp_path)
    assert_one_line_and_2(done, str(tmp_path / "distributed.py"))
