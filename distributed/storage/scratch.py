"""Temporary folders of a process, which go however it ends: what was killed is removed by the next one."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from distributed.storage.local_cache import cache_dir

_LOCK = "lock"


def scratch_folder() -> Path:
    """A new, empty folder. Whoever takes it removes it; what is left goes with this process."""
    return Path(tempfile.mkdtemp(dir=_own_folder(cache_dir("scratch"), os.getpid())))


def fullest(out: str) -> str:
    """Of an output folder and those for temporary files the one with the least room."""
    places = [
        tempfile.gettempdir(),
        str(cache_dir("scratch")),
        *([out] if os.path.isdir(out) else []),
    ]
    return min(places, key=lambda place: shutil.disk_usage(place).free)


@cache
def _own_folder(root: Path, process: int) -> Path:
    """This process's folder. A file in it is locked as long as the process lives, so that others know."""
    with open(root.with_name("scratch.lock"), "a") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        _remove_ownerless(root)
        folder = Path(tempfile.mkdtemp(dir=root))
        file = open(folder / _LOCK, "a")  # noqa: SIM115  # open, and so locked, until the process ends
        fcntl.flock(file, fcntl.LOCK_EX)
    atexit.register(_remove, folder, file, process)
    return folder


def _remove_ownerless(root: Path) -> None:
    """Remove the folders of processes that have ended."""
    for folder in root.iterdir():
        try:
            with open(folder / _LOCK, "a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its process lives, or is just removing it
            continue


def _remove(folder: Path, file: Any, process: int) -> None:
    if os.getpid() == process:  # a fork must not remove its parent's
        shutil.rmtree(folder, ignore_errors=True)
    file.close()
