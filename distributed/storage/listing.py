"""All files below a folder, local or on ``s3://``, whatever their names and wherever links lead."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow.fs as pafs


@dataclass(frozen=True)
class Listing:
    """
    Attributes:
        files: path in the file system and bytes of each file, sorted by path.
        unreadable: local paths that are not UTF-8, as they can be printed. No Arrow reader takes such a path.
    """

    files: list[tuple[str, int]]
    unreadable: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file, named relative to the folder that was listed, or a folder of it begins with a dot:
    it is no input. Editors, desktops and this project leave such files."""
    return any(part[:1] == "." for part in name.split("/"))


def list_tree(filesystem: pafs.FileSystem, root: str, missing_ok: bool = False) -> Listing:
    """Every file below a folder. A link to a folder is followed, but no folder is listed twice.

    Args:
        missing_ok: a folder that is not there is an empty one.

    Raises:
        OSError: a folder cannot be listed.
    """
    if isinstance(filesystem, pafs.LocalFileSystem):
        return Listing([], []) if missing_ok and not os.path.exists(root) else _local(root)
    selector = pafs.FileSelector(root, allow_not_found=missing_ok, recursive=True)
    found = filesystem.get_file_info(selector)
    return Listing(sorted((one.path, one.size or 0) for one in found if one.is_file), [])


def _local(root: str) -> Listing:
    """Arrow's own listing fails on a name that is not UTF-8, and follows a link to its folder 40 times."""
    files: list[tuple[str, int]] = []
    unreadable: list[str] = []
    seen = {_identity(os.stat(root))}
    folders: list[str] = [root]
    links: list[str] = []
    while folders or links:  # links last: a file keeps the name of its own folder
        if not folders:
            link = links.pop(0)
            identity = _identity(os.stat(link))
            if identity in seen:
                continue
            seen.add(identity)
            folders.append(link)
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            if folder == root:
                raise
            continue  # removed since
        for entry in inside:
            try:
                status = entry.stat()
            except FileNotFoundError:  # a link to nothing, or removed since
                continue
            except OSError:
                if entry.is_symlink():  # a link to itself
                    continue
                raise
            if entry.is_dir() and entry.is_symlink():
                links.append(entry.path)
            elif entry.is_dir():
                seen.add(_identity(status))
                folders.append(entry.path)
            elif entry.is_file():
                if _is_utf8(entry.path):
                    files.append((entry.path, status.st_size))
                else:
                    unreadable.append(os.fsencode(entry.path).decode("utf-8", "backslashreplace"))
    return Listing(sorted(files), sorted(unreadable))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
