"""Packages that only sources of text vectors need: extras of this project."""

from __future__ import annotations

import importlib
from typing import Any

from drel_core.errors import InputError


def needed(module: str, source: str) -> Any:
    """The module of a package that a source of text vectors needs.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"text vectors {source} need a package that is not installed: pip install "
            f"{module.replace('_', '-')}"
        ) from None
