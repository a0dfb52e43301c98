"""Files of tensors (safetensors). The package is imported when a file is read or written, and here alone:
a model trains and scores where it is not installed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors, with ``metadata`` in the file's header."""
    from safetensors.torch import save_file

    save_file(tensors, path, metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unchecked: ``safe_loading.load_tensors`` looks at what a stranger wrote.

    Raises:
        Exception: what reading a damaged file raises.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def open_tensors(path: Path) -> AbstractContextManager[Any]:
    """An open file, of which tensors or parts of them are read (``safetensors.safe_open``)."""
    from safetensors import safe_open

    opened: AbstractContextManager[Any] = safe_open(path, "pt")
    return opened


def tensor_file_error() -> type[Exception]:
    """What reading a damaged file raises beside the errors of Python."""
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error
