"""A model bundle while it is written: readers see it whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from distributed.bundles.locate import CONFIG, cached_folder, file_lock
from distributed.storage.folder import Folder
from distributed.storage.local_cache import cache_dir


class BundleWriter:
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

    def upload(self) -> None:
        """Make this process's files so far seen by the one that finishes."""
        if self.final.remote:
            for path in sorted(self.folder.iterdir()):
                self.final.put(path.name, path)

    def download_parts(self) -> None:
        """The process that finishes, when all others have uploaded: get their files."""
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
        place = cached_folder(self.final, version)
        with file_lock(place):  # what was made here need not be fetched
            if place.exists():
                shutil.rmtree(self.folder)
            else:
                self.folder.rename(place)

    def discard(self) -> None:
        """A process that does not finish: remove its local files."""
        if self.final.remote:
            shutil.rmtree(self.folder, ignore_errors=True)
