"""What files hold, without reading them: a mark of each that is another when the file was written again.

Files are found as sources find them: behind links as well, hidden ones left out.

Of a local file its bytes and when it was last written, of one on S3 its ETag.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from distributed.storage.files import one_line, resolve
from distributed.storage.listing import is_hidden, list_tree
from distributed.storage.resume import digest
from drel_core.errors import InputError

_NAMED = 1000  # files that are named one by one
_THREADS = 16


def content_of(inputs: Iterable[str], apart: Iterable[str] = ()) -> dict[str, str]:
    """A mark of each file at or below some addresses, by its name from there on; hidden files do not count.

    Of more than a thousand files it is one mark of all, with their number and the one that was written last.

    Args:
        inputs: files and folders; what is not there has no mark.
        apart: local folders that are no part of them, though they may lie there.

    Raises:
        InputError: an address cannot be listed.
    """
    left_out = {os.path.abspath(folder) for folder in apart}
    found: list[tuple[str, str, float]] = []
    for address in inputs:
        try:
            filesystem, root = resolve(address)
            local = isinstance(filesystem, pafs.LocalFileSystem)
            found += _local(root, left_out) if local else _remote(filesystem, root)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{address}: cannot be listed ({one_line(error)})") from error
    if len(found) <= _NAMED:
        marks: dict[str, str] = {}
        for name, mark, _ in found:  # two inputs may have a file of one name
            marks[name] = f"{marks[name]}, {mark}" if name in marks else mark
        return marks
    last = max(found, key=lambda file: file[2])
    whole = digest(*(f"{name} {mark}\n".encode() for name, mark, _ in sorted(found)))
    return {f"{len(found)} files": f"{whole}, last written: {last[0]}"}


def _local(root: str, left_out: set[str]) -> list[tuple[str, str, float]]:
    """(name, mark, time) of a file, or of all below a folder. What a file holds whose name is no text does
    not matter: no source reads it."""
    if os.path.isfile(root):
        return [_stat(Path(root).name, root)]
    if not os.path.isdir(root):
        return []
    listing = list_tree(pafs.LocalFileSystem(), root)
    cut = len(root.rstrip("/")) + 1
    found = [
        _stat(path[cut:], path)
        for path, _ in listing.files
        if not is_hidden(path[cut:]) and not any(path.startswith(f"{one}/") for one in left_out)
    ]
    odd = [name[cut:] for name in listing.unreadable if not is_hidden(name[cut:])]
    return found + [(name, "no text by its name", 0.0) for name in odd]


def _stat(name: str, path: str) -> tuple[str, str, float]:
    state = os.stat(path)
    return name, f"{state.st_size} bytes of {state.st_mtime_ns}", state.st_mtime


def _remote(filesystem: pafs.FileSystem, root: str) -> list[tuple[str, str, float]]:
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        return []
    single = info.type == pafs.FileType.File
    listed = [info] if single else filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    files = [one for one in listed if one.is_file]

    def mark(one: pafs.FileInfo) -> str:
        if len(files) > _NAMED:  # a request each would take longer than reading them
            return f"{one.size} bytes of {one.mtime_ns}"
        with filesystem.open_input_stream(one.path) as stream:
            known = stream.metadata() or {}
        return (
            str(known.get("ETag", b""), "utf-8").strip('"') or f"{one.size} bytes of {one.mtime_ns}"
        )

    with ThreadPoolExecutor(_THREADS) as threads:
        marks = list(threads.map(mark, files))
    start = len(root) - len(info.base_name) if single else len(root)
    return [
        (one.path[start:].lstrip("/"), text, float(one.mtime_ns or 0))
        for one, text in zip(files, marks, strict=True)
    ]
