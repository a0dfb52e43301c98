"""How a long run tells a person how far it is."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str], object]
