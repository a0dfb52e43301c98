"""Memory and end of a process and all below it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.processes import PeakMemory, descendants, stop_tree

# A process that holds 200 MB, below one that holds little; neither minds Ctrl-C.
HOLDS = "held = bytearray(b'x') * 200_000_000"
TREE = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "{HOLDS}; print(1, flush=True); import time; time.sleep(60)"])
time.sleep(60)
"""


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_is_below_a_process_counts_and_ends_with_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TREE], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        with PeakMemory(process.pid) as peak:
            time.sleep(0.1)
        assert 200e6 < peak.bytes < 300e6
        (below,) = descendants(process.pid)
    finally:
        stop_tree(process, patience=0.3)
    until = time.monotonic() + 10
    while alive(below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(below) and process.returncode == -9
    assert alive(os.getpid())
