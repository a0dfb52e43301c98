"""Exceptions that jobs show as one line: the user's input is wrong, a training came to nothing, or this
machine is too busy; and what an error says of a disk."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Libraries in C++ and Rust, and errors that have come through another process, keep the words alone.
_WORDS = re.compile(
    "No space left on device|Disk quota exceeded|File too large|Read-only file system"
)
# torch's, of a file of which the disk has taken only a part.
_PART = re.compile(
    r"inline_container\.cc:\d+\] \. unexpected pos|PytorchStreamWriter failed writing file"
)


class InputError(ValueError):
    """Bad input from the user: jobs print it as one line on stderr and exit with code 2.

    The message says what was given, what is allowed and what to change.
    """


class TooLargeError(InputError):
    """A method cannot do this store here: it would need more memory than there is, or more time than allowed.
    jobs.compare leaves the method out and goes on.
    """


class NoRowsError(InputError):
    """No row of a store can be used."""


class Diverged(RuntimeError):
    """Training ended in values that are no numbers: jobs print it as one line and exit with code 1.

    The message says what to change. Trying again from a checkpoint does not help.
    """


class MachineBusy(RuntimeError):
    """This machine did not get something ready in time: jobs print it as one line and exit with code 1.

    The same command may do later.
    """


def disk_fault(error: BaseException) -> OSError | None:
    """The error of a disk that takes nothing (full, quota, largest file, read-only), if that is what is
    behind an error; ``filename`` where it is known."""
    every = list(behind(error))
    for one in every:
        if isinstance(one, OSError) and one.errno in _NO_ROOM:
            return OSError(one.errno, os.strerror(one.errno), one.filename)
    for one in every:
        if found := _WORDS.search(str(one)):
            return OSError(errno.ENOSPC, found[0])
    if any(_PART.search(str(one)) for one in every):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def behind(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, also in another process: Ray's ``cause`` and ``worker_failures``,
    torch.distributed.checkpoint's ``failures``."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        several = [
            *(getattr(one, "worker_failures", None) or {}).values(),
            *(getattr(one, "failures", None) or {}).values(),
        ]
        several = [entry[0] if isinstance(entry, tuple) else entry for entry in several]
        more = [one.__cause__, one.__context__, getattr(one, "cause", None), *several]
        left += [entry for entry in more if isinstance(entry, BaseException)]
