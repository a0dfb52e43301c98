"""Files that are there whole or not at all."""

from __future__ import annotations

import os

import pyarrow.fs as pafs

from distributed.s3 import denied
from distributed.store_files import resolve


def write_bytes(path: str, data: bytes, durable: bool = False) -> None:
    """Write a file under its name only when it is whole; folders above it are made.

    An object store does so by itself; elsewhere it is written beside and renamed.

    Args:
        durable: return only when a local disk holds it, whatever happens to the power.
    """
    filesystem, name = resolve(path)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with denied(path), filesystem.open_output_stream(name) as stream:
            stream.write(data)
        return
    folder = os.path.dirname(name)
    os.makedirs(folder, exist_ok=True)
    with open(f"{name}.tmp", "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(f"{name}.tmp", name)
    if durable:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
