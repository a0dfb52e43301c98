"""Ray's core, started so that it writes no false alarm to the terminal."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from distributed.runtime.ray_session import start_ray

_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_TOLD = re.compile(rb"Set ray log level from environment variable")


def start_quiet_ray(workers: int) -> None:
    """``start_ray``, where a pool of actors follows.

    For every such pool Ray's core writes an error that is none: the actors' code lies in the object store,
    whose owner, this process, outlives them (ray-project/ray#53727). So the core of this process writes fatal
    errors alone, unless the user set a level, and the line by which it says so is left out.
    """
    if os.environ.get(_LEVEL):
        start_ray(workers)
        return
    os.environ[_LEVEL] = "fatal"
    try:
        with stderr_without(_TOLD):
            start_ray(workers)
    finally:
        del os.environ[_LEVEL]


@contextmanager
def stderr_without(known: re.Pattern[bytes]) -> Iterator[None]:
    """What is written to stderr inside, also by native code, appears at the end, without lines that hold
    ``known``. Nothing is held where there is no stderr (``2>&-``)."""
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if not known.search(line):
                    os.write(2, line)
