"""Model bundles wherever they lie: found, brought to this machine, written, published.

Loading maps tensors from local files, so a bundle on S3 is copied once a machine, and kept there as long as
it is used. S3 has no rename: a bundle there is whole when its config.json is, which is written last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed.storage.folder import Folder
from distributed.storage.local_cache import cache_dir, cache_key, remove_unused
from distributed.storage.s3 import find_endpoint, unreachable
from drel_core.bundle.format import (
    LATEST,
    bundle_folder,
    bundle_place,
    content_version,
    parse_info,
    read_info,
)
from drel_core.errors import InputError

CONFIG = "config.json"
_UNUSED_DAYS = 7


def find_bundle(model: str | Path) -> tuple[Folder, str]:
    """Folder and version of the bundle that a bundle, training folder or folder of versions means now.

    Raises:
        InputError: there is none, its config.json is damaged, or S3 cannot be reached.
    """
    at = Folder.of(model)
    if not at.remote:
        local = bundle_folder(at.path)
        return Folder(str(local)), read_info(local).version
    find_endpoint(at.address)
    seen: dict[str, str] = {}

    def read(name: str) -> str | None:
        data = at.read(name)
        if data is None:
            return None
        seen[name] = data.decode("utf-8", errors="replace")
        return seen[name]

    with unreachable(str(at)):
        place = bundle_place(read, str(at))
    folder = at / place if place else at
    info = parse_info(seen[f"{place}/{CONFIG}".lstrip("/")], str(folder))
    return folder, info.version


def local_bundle(model: str | Path) -> Path:
    """A local folder with the bundle that ``model`` means; copied here first where it is on S3.

    Raises:
        InputError: there is none, it is damaged, or S3 cannot be reached.
    """
    folder, version = find_bundle(model)
    if not folder.remote:
        return folder.path
    place = cached_folder(folder, version)
    with file_lock(place):  # one process of a machine copies, the others wait for it
        if not (place / CONFIG).is_file():
            with unreachable(str(folder)):
                _fetch(folder, version, place)
    os.utime(place)
    return place


def cached_folder(folder: Folder, version: str) -> Path:
    # The version is what a file in the bucket says: it must not become a path.
    return cache_dir("bundles") / cache_key(f"{folder.address} {version}")


def _fetch(folder: Folder, version: str, place: Path) -> None:
    remove_unused(place.parent, _UNUSED_DAYS)
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
def file_lock(place: Path) -> Iterator[None]:
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
