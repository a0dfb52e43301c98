"""Files of tensors (safetensors). The package is imported when a file is read or written, and here alone:
a model trains and scores where it is not installed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from drel_core.errors import disk_fault


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write contiguous tensors, with ``metadata`` in the file's header.

    Raises:
        OSError: the disk does not take them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = (
        path.stat().st_mode
    )  # as the umask has it; the package's own files are their owner's alone
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        path.unlink(missing_ok=True)
        if (fault := disk_fault(error)) is not None:
            raise OSError(fault.errno, fault.strerror, str(path)) from error
        raise
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unchecked: ``safe_loading.load_tensors`` looks at what a stranger wrote.

    Raises:
        Exception: what reading a damaged file raises.
    """
    from safetensors.torch import load_file

    _check_access(path)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def open_tensors(path: Path) -> AbstractContextManager[Any]:
    """An open file, of which tensors or parts of them are read (``safetensors.safe_open``)."""
    from safetensors import safe_open

    _check_access(path)
    opened: AbstractContextManager[Any] = safe_open(path, "pt")
    return opened


def _check_access(path: Path) -> None:
    """
    Raises:
        OSError: why the file cannot be opened. The package says of any that it is not there.
    """
    with open(path, "rb"):
        pass


def tensor_file_error() -> type[Exception]:
    """What reading a damaged file raises beside the errors of Python."""
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error
