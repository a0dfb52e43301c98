"""What this machine does with bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch


def fast_bf16(kind: str) -> bool:
    """Whether devices of a kind, "cpu" or "cuda", have instructions that multiply bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = set(Path("/proc/cpuinfo").read_text("ascii", "replace").split())
    except OSError:  # no Linux
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})
