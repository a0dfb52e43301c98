"""Pictures of training, for people to look at: those of rows that the model keeps, where jobs.serve is told
the folder in which they lie. Nobody gets a file as it is: a small copy is made, without what cameras write
into files.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture, small_jpeg

SIDE = 240
"""Pixels of the longer side of a copy."""
_LARGEST = 64 << 20
_ENDINGS = (
    "",
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".JPG", ".JPEG", ".PNG"),
)


class PictureFolder:
    """Finds pictures by image_id: a path below the folder, with or without its ending.

    Args:
        folder: a local one.

    Attributes:
        turn: whoever makes copies takes it: at most two at a time, so that scoring goes on.

    Raises:
        InputError: no such folder.
    """

    def __init__(self, folder: str) -> None:
        self._root = Path(folder).expanduser().resolve()
        if not self._root.is_dir():
            raise InputError(f"pictures {folder}: no such folder; give the one in which they lie")
        self.turn = asyncio.Semaphore(2)

    def find(self, image_id: str) -> Path | None:
        """The file of a picture; None where there is none, or only outside the folder.

        Args:
            image_id: others' words: it may try to lead anywhere.
        """
        parts = image_id.split("/")
        if "\0" in image_id or any(part in ("", ".", "..") for part in parts):
            return None
        for ending in _ENDINGS:
            try:
                file = (self._root / f"{image_id}{ending}").resolve(strict=True)
                if file.is_relative_to(self._root) and file.is_file():
                    return file
            except (OSError, ValueError, RuntimeError):  # none, a name too long, links in a circle
                continue
        return None

    def small(self, image_id: str) -> bytes | None:
        """A JPEG of at most SIDE pixels a side; None where there is no picture that can be read."""
        file = self.find(image_id)
        if file is None:
            return None
        try:
            told = file.stat()
            return _small(file, told.st_mtime_ns) if told.st_size <= _LARGEST else None
        except (OSError, BadPicture):
            return None


@functools.lru_cache(maxsize=512)
def _small(file: Path, _changed: int) -> bytes:
    return small_jpeg(file.read_bytes(), SIDE, quality=85)
