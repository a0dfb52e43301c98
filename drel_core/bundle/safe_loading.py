"""Checks for files that a stranger may have made: nothing in them runs, and what does not fit is refused in
one line before it costs memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from drel_core.bundle.tensor_files import read_tensors
from drel_core.errors import InputError

JSON_BYTES = {"config.json": 16 << 20, "vocabulary.json": 2 << 30}
"""Size in bytes above which a file is not parsed; ten million tags take about 300 MB."""
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def check_files(folder: Path) -> None:
    """A bundle must be one folder of plain files, and no link may lead out of it.

    Raises:
        InputError: names the file.
    """
    whole = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(whole):
            raise InputError(
                f"{path}: a link that leads out of the bundle; copy the file in its place"
            )
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{path}: not a plain file")


def read_text(path: Path) -> str:
    """The text of ``config.json`` or ``vocabulary.json``.

    Raises:
        InputError: it is larger than JSON_BYTES allows.
        OSError, UnicodeDecodeError: it cannot be read.
    """
    size, largest = path.stat().st_size, JSON_BYTES[path.name]
    if size > largest:
        raise InputError(f"{path}: {size} bytes; at most {largest} are read")
    return path.read_text(encoding="utf-8")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite.

    Minimum and maximum tell: one of them is NaN where any value is. So no tensor of flags is made beside a
    large table.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(end) for end in torch.stack(torch.aminmax(tensor)).tolist())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. The library itself limits the size of the header.

    Raises:
        InputError: a tensor holds NaN or Inf, or has a type that no model here has.
        Exception: the file is damaged.
    """
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise InputError(f"{path}: {name} is {tensor.dtype}, which no bundle holds")
        if not is_finite(tensor):
            raise InputError(
                f"{path}: {name} holds NaN or Inf: the training diverged or the file is damaged"
            )
    return tensors
