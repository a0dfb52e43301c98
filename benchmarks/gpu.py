"""What one GPU does with this project: is it right, and how fast. Prints one JSON document.

    python -m benchmarks.gpu [--device cuda|cpu] [--out FILE]      or: python benchmarks/gpu.py

Needs a checkout, Python 3.11, torch 2.11 or newer and numpy; no Ray, no network. Takes less than 8 minutes on
one GPU: a measurement that would begin too late is left out and named in ``cut``, one that takes too long is
ended. With ``--device cpu`` all sizes are small; that shows that the program works, not how fast anything is.
Progress goes to stderr. The exit code is 1 where a check failed or was cut, or a part ended in an error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(ROOT)

from benchmarks import device_rates  # noqa: E402
from benchmarks.device_checks import CHECKS, Checks, check_checkpoint, check_collectives  # noqa: E402

FORMAT = 1
MINUTES = 7.0
GRACE_SECONDS = 45  # for the measurement that began last


class Report:
    """The parts of the run so far: what each found, how long it took, how much memory it held.

    Args:
        seconds: from now on; no measurement begins later.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.deadline = device, time.perf_counter() + seconds
        self.checks = Checks()
        self.found: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self.cut: list[str] = []

    def has_time(self, name: str) -> bool:
        """Whether a measurement may begin; notes its name where it may not."""
        if time.perf_counter() < self.deadline:
            print(f"  {name}", file=sys.stderr, flush=True)
            return True
        self.cut.append(name)
        return False

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one part. An error ends the part, not the run."""
        if not self.has_time(name):
            return None
        device_rates.begin_peak(self.device)
        started = time.perf_counter()
        rows: list[dict[str, Any]] = []
        try:
            result = work()
            if result is not None:
                self.found[name] = result
            rows = result if isinstance(result, list) else []
            # A network that cannot be compiled here is a finding; all else that fails is an error.
            for row in rows:
                if "failed" in row and not row["compile"]:
                    self.errors[name] = row["failed"]
            return result
        except Exception as error:
            traceback.print_exc()
            self.errors[name] = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            return None
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 2)
            peaks = [row.get("peak_bytes", 0) for row in rows]  # each began to count anew
            self.peak_bytes[name] = max(device_rates.peak_bytes(self.device), *peaks, 0)
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def answer_of(command: list[str]) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure must be read with."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": answer_of(["git", "rev-parse", "HEAD"]),
        "changed_files": len((answer_of(["git", "status", "--porcelain"]) or "").splitlines()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found |= {
            "device": properties.name,
            "memory_bytes": properties.total_memory,
            "free_bytes": torch.cuda.mem_get_info(device)[0],
            "processors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "driver": (answer_of(query) or "").partition("\n")[0] or None,
        }
    return found


def free_bytes(device: torch.device) -> int:
    """Memory that a large table may take: what is free, less a tenth for what else a step holds."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.9)
    return 2 << 30


def measure(device: torch.device, seconds: float) -> dict[str, Any]:
    """The whole run; the document that is printed."""
    sizes = device_rates.FULL if device.type == "cuda" else device_rates.SMALL
    report = Report(device, seconds)
    checks = report.checks
    for check in CHECKS:
        report.part(check.__name__, partial(check, checks, device))
    report.part("check_checkpoint", lambda: check_checkpoint(checks, device, "checkpoint"))
    report.part("collectives", lambda: check_collectives(checks, device))
    checked = not report.cut
    matmul = report.part("matmul", lambda: device_rates.matmul_rates(device, sizes))
    memory = report.part("memory", lambda: device_rates.memory_rates(device, sizes))
    if matmul and memory:
        read, has_time = memory["read"], report.has_time
        free = free_bytes(device)
        parts: dict[str, Callable[[], Any]] = {
            "feed": lambda: device_rates.feed_rates(device, sizes),
            "scores": lambda: device_rates.score_rates(device, sizes),
            "table": lambda: list(device_rates.table_rates(device, sizes, free, has_time)),
            "topk": lambda: list(device_rates.topk_rates(device, sizes, free, read, has_time)),
            # Last, since compiling takes longest: what has no time left is cut.
            "steps": lambda: list(device_rates.step_rates(device, sizes, matmul, has_time)),
        }
        for name, work in parts.items():
            report.part(name, work)
    return {
        "benchmark": "gpu",
        "format": FORMAT,
        "sizes": sizes.name,
        "passed": checked and checks.passed and not report.errors,
        "environment": environment(device),
        "checks": checks.done,
        **report.found,
        "peak_bytes": report.peak_bytes,
        "seconds": report.seconds,
        "errors": report.errors,
        "cut": report.cut,
    }


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError("takes too long")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, help="write the document here as well")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="no measurement begins later"
    )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA device; --device cpu runs without one", file=sys.stderr)
        return 2
    if args.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # Threads that wait for each other on a busy machine take a hundred times as long as one.
        torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(int(args.minutes * 60) + GRACE_SECONDS)
    document = measure(device, args.minutes * 60)
    text = json.dumps(document, indent=1)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    return 0 if document["passed"] else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's own end: a thread of gloo may outlive its group and abort the process.
    os._exit(code)
