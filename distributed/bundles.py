"""Model bundles wherever they lie: found, brought to this machine, written, published.

Loading maps tensors from local files, so a bundle on S3 is copied once a machine, and kept there as long as
it is used. S3 has no rename: a bundle there is whole when its config.json is, which is written last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed.storage.folder import Folder
from distributed.storage.local_cache import cache_dir, cache_key
from drel_core.bundle.format import (
    LATEST,
    bundle_folder,
    bundle_place,
    content_version,
    parse_about,
    read_about,
)
from drel_core.errors import InputError

CONFIG = "config.json"
_UNUSED_DAYS = 7


def find_bundle(model: str | Path) -> tuple[Folder, str]:
    """Folder and version of the bundle that a bundle, training folder or folder of versions means now.

    Raises:
        InputError: there is none, or its config.json is damaged.
    """
    at = Folder.of(model)
    if not at.remote:
        local = bundle_folder(at.path)
        return Folder(str(local)), str(read_about(local)["version"])
    seen: dict[str, str] = {}

    def read(name: str) -> str | None:
        data = at.read(name)
        if data is None:
            return None
        seen[name] = data.decode("utf-8", errors="replace")
        return seen[name]

    place = bundle_place(read, str(at))
    folder = at / place if place else at
    about = parse_about(seen[f"{place}/{CONFIG}".lstrip("/")], str(folder))
    return folder, str(about["version"])


def local_bundle(model: str | Path) -> Path:
    """A local folder with the bundle that ``model`` means; copied here first where it is on S3.

    Raises:
        InputError: there is none, it is damaged, or S3 cannot be reached.
    """
    folder, version = find_bundle(model)
    if not folder.remote:
        return folder.path
    place = _kept(folder, version)
    with _lock(place):  # one process of a machine copies, the others wait for it
        if not (place / CONFIG).is_file():
            _fetch(folder, version, place)
    os.utime(place)
    return place


def _kept(folder: Folder, version: str) -> Path:
    # The version is what a file in the bucket says: it must not become a path.
    return cache_dir("bundles") / cache_key(f"{folder.address} {version}")


def _fetch(folder: Folder, version: str, place: Path) -> None:
    for old in place.parent.iterdir():
        if old.is_dir() and time.time() - old.stat().st_mtime > _UNUSED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix="fetch-", dir=place.parent))
    try:
        for name in folder.files():
            folder.fetch(name, partial)
        if content_version(partial) != version:
            raise InputError(
                f"{folder}: the model bundle is damaged (its files are not those of version {version})"
            )
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    with open(f"{place}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def publish(versions: str | Path, name: str) -> None:
    """Let ``latest`` of a folder of versions name one of them; who follows it sees the old or the new.

    Raises:
        InputError: there is no bundle of that name.
    """
    folder = Folder.of(versions)
    find_bundle((folder / name).address)
    folder.write(LATEST, f"{name}\n".encode())


class Draft:
    """A bundle while it is written, by one process or by all ranks; readers see it when ``finish`` is done.

    Args:
        final: where it shall be.

    Attributes:
        folder: where this process writes its files.
    """

    def __init__(self, final: Folder) -> None:
        self.final = final
        if final.remote:
            self.folder = Path(tempfile.mkdtemp(prefix="draft-", dir=cache_dir("bundles")))
        else:
            self.folder = final.path.with_name(f".{final.name}.partial")

    def clear(self) -> None:
        """One process, before anybody writes: remove what a stopped run has left."""
        if self.final.remote:
            # config.json first: without it nobody takes the rest for a bundle.
            self.final.remove(sorted(self.final.files(), key=lambda name: name != CONFIG))
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def hand_in(self) -> None:
        """Make this process's files so far seen by the one that finishes."""
        if self.final.remote:
            for path in sorted(self.folder.iterdir()):
                self.final.put(path.name, path)

    def gather(self) -> None:
        """The process that finishes, when all others have handed in: get their files."""
        if self.final.remote:
            for name in self.final.files().keys() - {path.name for path in self.folder.iterdir()}:
                self.final.fetch(name, self.folder)

    def finish(self, version: str) -> None:
        """All files are in ``folder``: give the bundle its name."""
        if not self.final.remote:
            if self.final.has(CONFIG):  # by this run, before one of its workers died
                shutil.rmtree(self.folder)
            else:
                self.folder.rename(self.final.path)
            return
        there = self.final.files()
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == CONFIG):
            if path.name not in there or path.name == CONFIG:
                self.final.put(path.name, path)
        place = _kept(self.final, version)
        with _lock(place):  # what was made here need not be fetched
            if place.exists():
                shutil.rmtree(self.folder)
            else:
                self.folder.rename(place)

    def drop(self) -> None:
        """A process that does not finish: remove its local files."""
        if self.final.remote:
            shutil.rmtree(self.folder, ignore_errors=True)
