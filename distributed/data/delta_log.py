"""Which files of a Delta table count. Those that were written over may still lie beside them."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from drel_core.errors import InputError

_COMMIT = re.compile(r"_delta_log/(\d{20})\.json")
_CHECKPOINT = re.compile(r"_delta_log/(\d{20})\.checkpoint(\..+)?\.parquet")


def live_files(filesystem: pafs.FileSystem, root: str, names: list[str]) -> set[str] | None:
    """Names of the table's files, relative to its folder; None where the folder is no Delta table.

    Args:
        names: of all files below the folder, relative to it.

    Raises:
        InputError: its log is not whole, names a file that is not there, or leaves out rows of files.
    """
    commits = {int(found[1]): name for name in names if (found := _COMMIT.fullmatch(name))}
    if not commits:
        return None
    checkpoints: dict[int, list[str]] = {}
    for name in names:
        if found := _CHECKPOINT.fullmatch(name):
            checkpoints.setdefault(int(found[1]), []).append(name)
    base = root.rstrip("/")
    last = max(commits)
    start = max((version for version in checkpoints if version <= last), default=-1)
    live: dict[str, None] = {}
    for name in checkpoints.get(start, []):
        with filesystem.open_input_file(f"{base}/{name}") as source:
            for entry in pq.read_table(source, columns=["add"]).column("add").to_pylist():
                _apply(root, {"add": entry}, live)
    for version in range(start + 1, last + 1):
        if version not in commits:
            raise InputError(
                f"{root}: the log of this Delta table lacks version {version}; copy the whole table"
            )
        with filesystem.open_input_stream(f"{base}/{commits[version]}") as stream:
            for line in stream.read().splitlines():
                _apply(root, json.loads(line), live)
    lost = sorted(set(live) - set(names))
    if lost:
        raise InputError(f"{root}: this Delta table has no file {lost[0]}; copy the whole table")
    return set(live)


def _apply(root: str, action: dict[str, Any], live: dict[str, None]) -> None:
    if (gone := action.get("remove")) is not None:
        live.pop(unquote(gone["path"]), None)
    if (new := action.get("add")) is None:
        return
    if new.get("deletionVector"):
        raise InputError(
            f"{root}: this Delta table leaves out rows of its files (deletion vectors); write it again with "
            "REORG TABLE ... APPLY (PURGE)"
        )
    live[unquote(new["path"])] = None
