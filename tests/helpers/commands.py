"""Jobs as a person runs them: ``python -m jobs.VERB`` in a process of its own."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from jobs.cli import run_job

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--model.image_hidden",
    "32",
    "--model.tag_dim",
    "16",
    "--model.tag_hidden",
    "16",
    "--model.latent",
    "16",
    "--batch_size",
    "32",
)
"""Options of a model that trains in seconds."""


def command(verb: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"jobs.{verb}", *map(str, arguments)]


def run_here(verb: str, *arguments: object) -> int:
    """What `python -m jobs.VERB` does, in this process; its exit code."""
    before, terminated = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [f"jobs.{verb}", *map(str, arguments)]
    try:
        run_job(importlib.import_module(f"jobs.{verb}").main)
    except SystemExit as ended:
        return int(str(ended.code or 0))
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, terminated)
    return 0


def start(
    verb: str, *arguments: object, new_session: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """A job whose output goes to pipes; it starts its own Ray where it needs one.

    Args:
        new_session: a signal to its process group reaches all that it starts.
    """
    return subprocess.Popen(
        command(verb, *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
    )


def run(
    verb: str, *arguments: object, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    with start(verb, *arguments, **environment) as process:
        try:
            out, complained = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, complained)
