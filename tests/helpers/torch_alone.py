"""Runs a module or a file as if torch, numpy and what torch itself requires were all that is installed.

python tests/helpers/torch_alone.py MODULE_OR_FILE [ARGUMENT ...]
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
REQUIRED_BY_TORCH = {
    *("torch", "torchgen", "functorch", "numpy", "typing_extensions", "filelock", "fsspec"),
    *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "setuptools", "_distutils_hack"),
    *("triton", "nvidia", "cuda"),
}


class _WithoutOtherPackages:
    """Finds the standard library, the checkout, and of installed packages those on the list alone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or name.partition(".")[0] in REQUIRED_BY_TORCH:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return None if any("-packages" in place for place in places) else spec


def run_with_torch_alone(
    what: str, *arguments: object, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """A process of its own that runs a module, or a file whose name ends in ``.py``."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


if __name__ == "__main__":
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _WithoutOtherPackages()]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(ROOT)  # what `python -m` puts there
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
