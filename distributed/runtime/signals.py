"""A job that is asked to stop: Ctrl-C (SIGINT), or SIGTERM as ``ray job stop`` sends it."""

from __future__ import annotations

import signal
import threading
from enum import IntEnum
from types import FrameType
from typing import Any


class LoopAction(IntEnum):
    GO_ON = 0
    CHECKPOINT = 1
    """write a checkpoint and go on: a node is about to be taken away"""
    STOP = 2
    """write a checkpoint and end"""


class Stopped(BaseException):
    """The job was asked to stop and did; not an error, and nothing that ``except Exception`` catches."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def stop_at_once(signum: int, frame: FrameType | None = None) -> None:
    """A signal handler for what has nothing to finish first."""
    raise Stopped(signum)


def wish_to_stop(error: BaseException | None) -> BaseException | None:
    """The signal behind an error: compiled code that a handler's exception passes through may make another
    of it (``ray.wait``: SystemError). None where there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (Stopped, KeyboardInterrupt)):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


class StopRequest:
    """While the block runs, the first signal is only noted in ``signum``; a second stops at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raises:
        Stopped: a signal came; for what has nothing to finish first.
        """
        if self.signum:
            raise Stopped(self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.check()
        self.signum = signum
