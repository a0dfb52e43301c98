"""What files hold, without reading all of it: a mark of each that is another when the file was written again.

Files are found as sources find them: behind links as well, hidden ones left out.

Of a local file its bytes, when it was last written, and a hash, since a copy may keep the time (``cp -p``):
of all of it, or of pieces of a large one; where there are more than a thousand, of both ends. Of a file on S3
its ETag.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from distributed.storage.files import one_line, resolve
from distributed.storage.listing import is_hidden, list_tree
from distributed.storage.resume import digest
from distributed.storage.s3 import is_s3
from distributed.storage.s3_objects import list_objects
from drel_core.errors import InputError

_NAMED = 1000  # files that are named one by one
_THREADS = 16
_WHOLE = 1 << 20  # bytes of a file that is hashed whole
_PIECE, _PIECES = 1 << 16, 17  # of a larger one, from its first bytes to its last
_END = 1 << 12  # bytes of each end, of one of many files


@dataclass(frozen=True)
class _File:
    """
    Attributes:
        name: below the address that was asked for.
        mark: without a hash.
        time: when it was last written.
        path: of a local file.
    """

    name: str
    mark: str
    time: float
    path: str = ""


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
    found: list[_File] = []
    for address in inputs:
        try:
            found += _files(address, left_out)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{address}: cannot be listed ({one_line(error)})") from error
    return _marks(found)


def content_of_each(addresses: Iterable[str]) -> dict[str, str]:
    """The same of single files, many of which may lie in one folder: a folder on S3 is listed once. What
    lies in one that must not be listed has no mark.

    Raises:
        InputError: S3 does not answer.
    """
    found: list[_File] = []
    folders: dict[str, dict[str, str]] = {}  # addresses by name
    for address in addresses:
        if is_s3(address):
            base, mark, options = address.partition("?")
            folder, _, name = base.rpartition("/")
            folders.setdefault(f"{folder}{mark}{options}", {})[unquote(name)] = address
        elif "://" not in address and os.path.isfile(address):
            found.append(_local_file(address, address))

    def inside(folder: str) -> list[_File]:
        try:
            listed = list_objects(folder, below=False)
        except InputError:  # it may be read all the same
            return []
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({one_line(error)})") from error
        return [
            _File(folders[folder][one.name], one.etag, one.time)
            for one in listed
            if one.name in folders[folder]
        ]

    with ThreadPoolExecutor(_THREADS) as threads:
        for files in threads.map(inside, folders):
            found += files
    return _marks(found)


def _marks(found: list[_File]) -> dict[str, str]:
    named = len(found) <= _NAMED
    with ThreadPoolExecutor(_THREADS) as threads:
        whole = list(threads.map(_hashed if named else _hashed_at_ends, found))
    if named:
        marks: dict[str, str] = {}
        for file, mark in zip(found, whole, strict=True):  # two inputs may have a file of one name
            marks[file.name] = f"{marks[file.name]}, {mark}" if file.name in marks else mark
        return marks
    last = max(found, key=lambda file: file.time)
    every = sorted(f"{file.name} {mark}\n" for file, mark in zip(found, whole, strict=True))
    return {f"{len(found)} files": f"{digest(*map(str.encode, every))}, last written: {last.name}"}


def _files(address: str, left_out: set[str]) -> list[_File]:
    if is_s3(address):
        return [
            _File(one.name, one.etag, one.time)
            for one in list_objects(address)
            if not is_hidden(one.name)
        ]
    filesystem, root = resolve(address)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _local(root, left_out)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        return []
    single = info.type == pafs.FileType.File
    listed = [info] if single else filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    start = len(root) - len(info.base_name) if single else len(root)
    return [
        _File(
            one.path[start:].lstrip("/"),
            f"{one.size} bytes of {one.mtime_ns}",
            float(one.mtime_ns or 0),
        )
        for one in listed
        if one.is_file
    ]


def _local(root: str, left_out: set[str]) -> list[_File]:
    """A file, or all below a folder. What a file holds whose name is no text does not matter: no source reads
    it."""
    if os.path.isfile(root):
        return [_local_file(Path(root).name, root)]
    if not os.path.isdir(root):
        return []
    listing = list_tree(pafs.LocalFileSystem(), root)
    cut = len(root.rstrip("/")) + 1
    found = [
        _local_file(path[cut:], path)
        for path, _ in listing.files
        if not is_hidden(path[cut:]) and not any(path.startswith(f"{one}/") for one in left_out)
    ]
    odd = [name[cut:] for name in listing.unreadable if not is_hidden(name[cut:])]
    return found + [_File(name, "no text by its name", 0.0) for name in odd]


def _local_file(name: str, path: str) -> _File:
    state = os.stat(path)
    return _File(name, f"{state.st_size} bytes of {state.st_mtime_ns}", state.st_mtime, path)


def _hashed(file: _File) -> str:
    """The mark with a hash of the file, where it is a local one.

    Raises:
        InputError: the file cannot be read.
    """
    return _with_hash(file, _WHOLE, _PIECE, _PIECES)


def _hashed_at_ends(file: _File) -> str:
    return _with_hash(file, 2 * _END, _END, 2)


def _with_hash(file: _File, whole: int, piece: int, pieces: int) -> str:
    """
    Args:
        whole: bytes of a file that is hashed whole.
        piece, pieces: bytes of a piece of a larger one, and how many, from its first bytes to its last.
    """
    if not file.path:
        return file.mark
    state = hashlib.sha256()
    try:
        with open(file.path, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size <= whole:
                state.update(source.read(size))
            else:
                for place in range(pieces):
                    source.seek((size - piece) * place // (pieces - 1))
                    state.update(source.read(piece))
    except PermissionError:  # whoever needs it says so
        return file.mark
    except OSError as error:
        raise InputError(f"{file.path}: cannot be read ({error.strerror or error})") from None
    return f"{file.mark}, {state.hexdigest()[:16]}"
