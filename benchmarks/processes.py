"""What runs below a process, as Linux tells it: ids, command lines, memory, CPU time; and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _state(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def command_line(process: int) -> str:
    """With spaces between its words; empty where the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def private_bytes(process: int) -> int:
    """Memory that it shares with none; 0 where it has ended."""
    return _mapped(process, "Private")


def proportional_bytes(process: int) -> int:
    """Its memory, and its part of what it shares (PSS): sums count nothing twice. 0 where it has ended."""
    return _mapped(process, "Pss:")


def _mapped(process: int, kind: str) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(kind))


class PeakMemory:
    """While the block runs: the most that a process and all below it hold, looked at often at first, then
    every other second."""

    def __init__(self, process: int) -> None:
        self.process, self.bytes = process, 0
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        pause = 0.05
        while True:
            tree = [self.process, *descendants(self.process)]
            self.bytes = max(self.bytes, sum(map(proportional_bytes, tree)))
            if self._end.wait(pause):
                return
            pause = min(2.0, 1.5 * pause)

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watcher.join()


def stop_tree(process: subprocess.Popen[Any], patience: float = 60.0) -> None:
    """Ask a process to stop, as Ctrl-C does, and end it and all below it that is left after ``patience``
    seconds."""
    below = set(descendants(process.pid))
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + patience
    try:
        while process.poll() is None and time.monotonic() < until:
            below |= set(descendants(process.pid))
            time.sleep(0.2)
    finally:  # also where we are asked once more
        for left in [process.pid] * (process.poll() is None) + sorted(below):
            with contextlib.suppress(OSError):
                os.kill(left, signal.SIGKILL)
        process.wait()


def cpu_seconds(process: int) -> float:
    """CPU time that it has taken; 0 where it has ended."""
    fields = _state(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _state(process: int) -> list[str]:
    """The fields of its ``stat`` from the third on; none where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return []
