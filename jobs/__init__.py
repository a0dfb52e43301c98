"""One thin file a verb: ``python -m jobs.VERB``. Importing it makes sure of ``distributed``."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import FrameType


def end_at_once(signum: int, frame: FrameType | None = None) -> None:
    """The handler of SIGINT and SIGTERM until ``run_job`` has its own: imports take seconds, and an exception
    out of the middle of one would be a traceback."""
    os.write(2, b"stopped before anything was done\n")
    os._exit(128 + signum)


def _answer_signals() -> None:
    if sys.argv[:1] != ["-m"]:  # somebody else's process
        return
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as in a shell's background
            signal.signal(signum, end_at_once)


def _use_distributed_of_this_checkout() -> None:
    """Put the checkout first on the path; exit 2 with one line if ``distributed`` is not its own.

    ``distributed`` is the import name of Dask's scheduler as well. With the wrong one the first
    symptom would be a missing module somewhere deep inside a worker, so it is said here.
    """
    root = Path(__file__).resolve().parent.parent
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
    loaded = sys.modules.get("distributed")
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec("distributed")
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    found = next((Path(place).resolve() for place in places if place), None)
    if found == root / "distributed":
        return
    instead = f"finds {found}" if found else "finds none"
    print(
        f"error: `distributed` must be this project's folder {root / 'distributed'}, but Python "
        f"{instead} (Dask's scheduler has that name too); run from {root} in an environment "
        "without Dask's `distributed`",
        file=sys.stderr,
    )
    sys.exit(2)


_answer_signals()
_use_distributed_of_this_checkout()
