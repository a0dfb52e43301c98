"""Which part of a data set a file is, by its name or that of a folder it lies in: ``train-00000.parquet``,
``test/part-0.parquet``, ``split=validation/part-0.parquet``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drel_core.errors import InputError

_VALIDATION = re.compile(r"(val|valid|validation|dev)(?![a-z])")


def split_of(name: str) -> str | None:
    """train, test or validation; None where the name says none of them. What lies in ``test/`` is test rows,
    whatever else its name begins with.

    Args:
        name: below the folder of the data set.
    """
    # split=train, as Spark and Hive name folders
    values = [part.rpartition("=")[2].lower() for part in reversed(name.split("/"))]
    for value in values:
        for split in ("train", "test"):
            if value.startswith(split):
                return split
    return "validation" if any(map(_VALIDATION.match, values)) else None


def named_part(path: str, option: str, part: str, names: Sequence[str]) -> list[bool]:
    """Which files of a folder belong to a part. All of them, where names tell no two parts apart.

    Args:
        part: train or test.
        names: of the files, below the folder.

    Raises:
        InputError: there are other parts and not this one, or files of which nobody knows.
    """
    splits = [split_of(name) for name in names]
    there = sorted({split for split in splits if split})
    if len(there) < 2:
        return [True] * len(names)
    files = ", ".join(names[splits.index(split)] for split in there)
    if part not in there:
        raise InputError(
            f"{path}: no {part} part: its files are named {' and '.join(there)} ({files}); give {option} the "
            "file or folder that is meant"
        )
    if None in splits:
        raise InputError(
            f"{path}: has parts ({files}), and {names[splits.index(None)]}, which may belong to any; give "
            f"{option} the file or folder that is meant"
        )
    return [split == part for split in splits]
