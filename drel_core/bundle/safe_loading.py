"""Reading a bundle as if a stranger had made it: nothing in it runs, and what does not fit is refused in one
line before it costs memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from drel_core.bundle.tensor_files import read_tensors
from drel_core.errors import InputError

JSON_BYTES = {"config.json": 16 << 20, "vocabulary.json": 2 << 30}
"""Largest files that are parsed; ten million tags take about 300 MB."""
_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def check_files(folder: Path) -> None:
    """A bundle is one folder of plain files: no link leads out of it.

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
    """A text that will be parsed.

    Raises:
        InputError: it is too large for that.
        OSError, UnicodeDecodeError: as reading raises.
    """
    size, largest = path.stat().st_size, JSON_BYTES[path.name]
    if size > largest:
        raise InputError(f"{path}: {size} bytes; at most {largest} are read")
    return path.read_text(encoding="utf-8")


def is_finite(tensor: Tensor) -> bool:
    """The two ends are NaN where any value is, so that no tensor of flags is made beside a large table."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(end) for end in torch.stack(torch.aminmax(tensor)).tolist())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Its header is bounded by the format's own reader.

    Raises:
        InputError: a tensor holds NaN or Inf, or is of a type that no model here has.
        Exception: what reading a damaged file raises.
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
