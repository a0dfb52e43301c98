"""Ray Train's list of checkpoints, kept readable: a disk that fills while it is written leaves 0 bytes of it.

Without the list Ray Train would begin anew, and with a broken one it does not begin at all, though the
checkpoints are there.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import ray

from distributed.runtime.progress import Log
from distributed.storage.folder import Folder

LIST = "checkpoint_manager_snapshot.json"
_COPY = "checkpoint_manager_snapshot.last.json"
_FOLDER = re.compile(r"(epoch-(\d+)-step-(\d+)-of-(\d+)-\w+)/(.+)")


def keep_copy(checkpoints: Folder) -> None:
    """Keep a copy of the list as it is now, if it is one."""
    data = checkpoints.read(LIST)
    if data is not None and _parsed(data) is not None:
        with suppress(OSError):  # a full disk: the one before stays
            checkpoints.write(_COPY, data)


def steps_done(checkpoints: Folder) -> int:
    """Steps of the whole run that its last checkpoint holds; 0 where there is none."""
    last = (_parsed(checkpoints.read(LIST)) or {}).get("latest_checkpoint_result") or {}
    return int((last.get("metrics") or {}).get("done", 0))


def mend(checkpoints: Folder, log: Log) -> None:
    """Make the list anew where it is there and cannot be read: of the last good one and of whole folders.

    Args:
        checkpoints: ``OUT/checkpoints``.
        log: takes a line where it was made anew.
    """
    data = checkpoints.read(LIST)
    if data is None or _parsed(data) is not None:
        return
    found = _whole(checkpoints)
    known = (_parsed(checkpoints.read(_COPY)) or {}).get("checkpoint_results", [])
    metrics = {one["checkpoint_dir_name"]: one["metrics"] for one in known}
    entries = [
        {"version": 0, "checkpoint_dir_name": name, "metrics": metrics.get(name, place)}
        for name, place in found.items()
    ]
    if entries:
        checkpoints.write(LIST, json.dumps(_listed(entries)).encode())
    else:
        checkpoints.remove([LIST])
    log(
        f"{checkpoints.file(LIST)}: the list of checkpoints is no JSON ({len(data)} bytes: a full disk?); "
        f"made anew from {len(entries)} whole checkpoint{'s' * (len(entries) != 1)}"
    )


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        content = json.loads(data or b"")
    except ValueError:
        return None
    return content if isinstance(content, dict) and "checkpoint_results" in content else None


def _listed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The file as Ray Train 2.60 writes it, the last checkpoint last; Ray orders by ``score`` later on."""
    by_score = sorted(entries, key=lambda entry: entry["metrics"]["score"])
    order = {id(entry): place for place, entry in enumerate(entries)}
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": by_score,
        "checkpoint_report_indices": [order[id(entry)] for entry in by_score],
        "latest_checkpoint_result": entries[-1],
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(entries),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def _whole(checkpoints: Folder) -> dict[str, dict[str, Any]]:
    """Folders of whole checkpoints, the last one last, with what Ray Train's list says of them."""
    files: dict[str, dict[str, int]] = {}
    places: dict[str, tuple[int, int, int]] = {}
    for path, size in checkpoints.files().items():
        if found := _FOLDER.fullmatch(path):
            files.setdefault(found[1], {})[found[5]] = size
            places[found[1]] = (int(found[2]), int(found[3]), int(found[4]))
    whole = {}
    for name in sorted(files, key=lambda name: places[name]):
        epoch, step, ranks = places[name]
        about = _about(checkpoints / name)
        if about is None or not _complete(checkpoints / name, files[name], ranks):
            continue
        cursor = about["cursor"]
        best = cursor["best_epoch"] == epoch - 1 and not step
        older = {"score": cursor["best_f1"] if best else -1.0, "done": 0}
        whole[name] = {"epoch": epoch, "step": step} | (about.get("metrics") or older)
    return whole


def _about(folder: Folder) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(folder.read("drel.json") or b"")
    except ValueError:
        return None
    return content


def _complete(folder: Folder, sizes: dict[str, int], ranks: int) -> bool:
    """Whether all ranks' files are there, to their last byte."""
    if ".metadata" not in sizes or any(
        not any(name.startswith(f"__{rank}_") for name in sizes) for rank in range(ranks)
    ):
        return False
    if folder.remote:  # an object is there whole or not at all
        return True
    import torch.distributed.checkpoint as dcp  # not in Ray Train's controller, which keeps the copy

    try:
        stored = dcp.FileSystemReader(folder.path).read_metadata().storage_data.values()
    except Exception:  # cut off: unpickling fails in any way
        return False
    return all(sizes.get(one.relative_path, -1) >= one.offset + one.length for one in stored)
