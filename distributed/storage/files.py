"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from distributed.storage.s3 import denied, is_s3, open_s3
from drel_core.errors import InputError

Result = TypeVar("Result")


def write_bytes(path: str, data: bytes, durable: bool = False) -> None:
    """Write a file under its name only when it is whole; folders above it are made.

    An object store does so by itself; elsewhere it is written beside and renamed. A device or a pipe, such as
    /dev/null or /dev/stdout, is written to: renaming would put a file in its place.

    Args:
        durable: return only when a local disk holds it, whatever happens to the power.
    """
    filesystem, name = resolve(path)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with denied(path), filesystem.open_output_stream(name) as stream:
            stream.write(data)
        return
    if _is_device(name):
        with open(name, "wb") as file:
            file.write(data)
        return
    folder = os.path.dirname(name)
    os.makedirs(folder, exist_ok=True)
    try:
        with open(f"{name}.tmp", "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(f"{name}.tmp", name)
    except BaseException as error:  # a full disk fills no further
        with suppress(OSError):
            os.unlink(f"{name}.tmp")
        if isinstance(error, OSError):
            error.filename = error.filename or name  # writing itself does not know it
        raise
    if durable:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_device(name: str) -> bool:
    """Whether a device, a pipe or a socket is there; /dev/stdout is one wherever it leads."""
    if os.path.dirname(name) in ("/dev", "/dev/fd"):
        return os.path.lexists(name)
    return os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name)


def write_text(path: str | Path, text: str) -> None:
    """Write a file, local or on s3://, whole or not at all."""
    write_bytes(str(path), text.encode())


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_bytes(path: str) -> bytes:
    """The content of a file, local or at a URI.

    Raises:
        OSError, ArrowException: see ``READ_ERRORS``.
    """
    filesystem, name = resolve(path)

    def read() -> bytes:
        with filesystem.open_input_stream(name) as stream:
            data: bytes = stream.read()
            return data

    return past_short_errors(read)


# What Arrow raises for files that are damaged (UnicodeDecodeError: a name in the footer), gone or
# out of reach. ArrowMemoryError is caught before them and passes through: running out of memory is
# not the file's fault.
READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)


_CUT_SHORT = "Failed to flush response stream"
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # seconds between attempts


def past_short_errors(read: Callable[[], Result]) -> Result:
    """What ``read`` gives. A range on S3 that is shorter than the text of an error ends with the first one,
    which the SDK does not repeat: it is repeated here.

    Raises:
        OSError, ArrowException: what ``read`` raised otherwise, or in the last attempt.
    """
    for wait in _WAITS:
        try:
            return read()
        except (OSError, InputError) as error:  # or in the words of who read
            if _CUT_SHORT not in str(error):
                raise
            time.sleep(wait)
    return read()


def cannot_be_read(error: Exception, otherwise: str) -> str:
    """What to say of a read that failed: S3's faults are none of the file.

    Args:
        otherwise: what to do where the file is at fault.
    """
    if "AWS Error" in str(error):
        return f"cannot be read now ({one_line(error)}); the same command goes on when S3 answers"
    return f"cannot be read ({one_line(error)}); {otherwise}"


def resolve(path: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a local path or URI. Endpoint and credentials come the standard way."""
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    if is_s3(path):
        return open_s3(path)
    try:
        return pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable location ({one_line(error)})") from error


def address_below(path: str, name: str) -> str:
    """The address of a file of a folder, in the folder's form: host, bucket and ``?options`` of a URI stay.

    Args:
        name: below the folder, as it is in the file system; odd characters are escaped where a URI needs it.
    """
    if "://" not in path:
        return f"{path.rstrip('/')}/{name}"
    base, mark, options = path.partition("?")
    return f"{base.rstrip('/')}/{quote(name)}{mark}{options}"


def name_below(address: str, path: str) -> str:
    """The name that ``address_below`` made an address of, also where the folder's path is relative; empty for
    the folder itself."""
    if "://" not in path:
        base = str(Path(path).expanduser().absolute())
        return address.removeprefix(base).lstrip("/") if address.startswith(base) else address
    base = path.partition("?")[0].rstrip("/")
    return unquote(address.partition("?")[0].removeprefix(base)).lstrip("/")


def one_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
