"""Local working folders: copies of bundles, and files that grow while the output is on S3."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from distributed.storage.folder import Folder
from drel_core.errors import InputError


def cache_dir(*names: str) -> Path:
    """A folder below DREL_SCRATCH or the system's temporary folder that belongs to this user alone; made if
    need be.

    Raises:
        InputError: another user has made it.
    """
    base = os.environ.get("DREL_SCRATCH") or tempfile.gettempdir()
    root = Path(base) / f"drel-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid() or root.is_symlink():
        raise InputError(
            f"{root}: belongs to another user; set DREL_SCRATCH to a folder of your own"
        )
    folder = root.joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_key(address: str) -> str:
    """Short and the same on every machine: names a folder by an address."""
    return hashlib.sha256(address.encode()).hexdigest()[:12]


def remove_unused(
    folder: Path, days: float, most: int | None = None, making: str | None = None
) -> None:
    """Make room: of the folders in ``folder`` those go that nobody has touched for so many days. A process
    that has mapped a file of theirs keeps it.

    Args:
        most: so many stay, the last touched; None: there is no limit.
        making: suffix of folders that are not finished. They go by their age alone.
    """
    places = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes as well
            if path.is_dir():
                places.append((path.stat().st_mtime, path))
    places.sort(reverse=True)
    whole = [path for _, path in places if path.suffix != making]
    too_many = [] if most is None else whole[most:]
    long_ago = time.time() - days * 86400
    for touched, path in places:
        if touched < long_ago or path in too_many:
            shutil.rmtree(path, ignore_errors=True)


class RunFolder:
    """Where a run writes files that grow (progress, event files): its output folder, or for one on S3 a
    local folder whose changed files ``push`` copies there. Every process on a machine means the same one.

    Attributes:
        folder: the local folder.
    """

    def __init__(self, out: Folder) -> None:
        self.out = out
        self.folder = cache_dir("runs", cache_key(out.address)) if out.remote else out.path
        self._pushed: dict[Path, tuple[int, int]] = {}

    def begin(self) -> None:
        """For a new run: forget what one that has since been removed from S3 left here."""
        if self.out.remote:
            shutil.rmtree(self.folder)
            self.folder.mkdir()

    def take_up(self, name: str) -> None:
        """Begin with what an earlier run, on another machine, left in a file."""
        if self.out.remote and not (self.folder / name).exists():
            before = self.out.read(name)
            if before is not None:
                (self.folder / name).write_bytes(before)

    def push(self) -> None:
        """Copy what has changed since the last call; nothing to do for a local output.

        Raises:
            OSError: S3 does not take it.
        """
        if not self.out.remote:
            return
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file():
                continue
            found = path.stat()
            state = (found.st_size, found.st_mtime_ns)
            if self._pushed.get(path) != state:
                self.out.put(path.relative_to(self.folder).as_posix(), path)
                self._pushed[path] = state
