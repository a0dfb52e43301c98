"""Local working folders: copies of bundles, and files that grow while the output is on S3."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
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
