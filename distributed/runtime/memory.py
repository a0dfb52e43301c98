"""How much memory this machine, or the container that the process is in, can still give."""

from __future__ import annotations

from pathlib import Path

_GROUPS = (
    ("memory.max", "memory.current", "memory.stat"),  # cgroup v2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),  # v1
)


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be taken without swapping: the least of what machine and container say."""
    lines = (proc / "meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    for limit, used, stat in _GROUPS:
        try:
            most, taken = (int((cgroup / name).read_text()) for name in (limit, used))
            parts = dict(line.split() for line in (cgroup / stat).read_text().splitlines())
        except (OSError, ValueError):  # there is none, or it says `max`
            continue
        # Pages of files count as used but are given back.
        free = min(free, most - taken + int(parts.get("inactive_file", 0)))
    return max(free, 0)
