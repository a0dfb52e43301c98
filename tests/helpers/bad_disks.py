"""Folders that take nothing: a small file system that is full, and one that may not be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of its own of so many KiB; the test is skipped where it cannot be mounted."""
    folder.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """A file that leaves so many bytes of its disk; remove it to make room."""
    path = folder / "filler"
    size = shutil.disk_usage(folder).free - left
    # What else writes there meanwhile may leave less room than there was: the disk is full all the same.
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        file.write(bytes(size))
    return path


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that nobody may write to but who may override it: see ``plain_user``."""
    folder.mkdir()
    folder.chmod(0o555)
    try:
        yield folder
    finally:
        folder.chmod(0o755)


def plain_user() -> list[str]:
    """What a command begins with so that permissions hold for it, also where the tests run as root."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("the tests run as root, and setpriv is not there to give that up")
    away = "-dac_override,-dac_read_search,-fowner"
    return ["setpriv", f"--bounding-set={away}", f"--inh-caps={away}"]
