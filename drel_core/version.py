"""Which version of this code it is: what bundles, checkpoints and metrics say of who wrote them."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

VERSION = "0.1.0.dev0"
"""As in pyproject.toml; the folders run from a checkout, where no package metadata need be installed."""


@lru_cache(maxsize=1)
def written_by() -> str:
    """``drel 0.1.0.dev0 (git abc1234)``, with ``-dirty`` where tracked files are changed; without the part
    in brackets where the code lies in no git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # a copy of the code, perhaps inside some other checkout
        return f"drel {VERSION}"
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
            env={
                **os.environ,
                "GIT_OPTIONAL_LOCKS": "0",
            },  # a look, which must hinder nobody's commit
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or it refuses this owner's folder
        return f"drel {VERSION}"
    return f"drel {VERSION} (git {found.stdout.strip()})"
