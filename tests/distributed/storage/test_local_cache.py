"""Folders that a machine keeps, and which of them go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from distributed.storage.local_cache import remove_unused


def folder_of(place: Path, **days: float) -> None:
    """Folders that were last touched so many days ago."""
    for name, ago in days.items():
        path = place / name.replace("_", ".")
        (path / "below").mkdir(parents=True)
        then = time.time() - ago * 86400
        os.utime(path, (then, then))


def left(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_what_was_not_touched_for_so_long_goes(tmp_path: Path) -> None:
    folder_of(tmp_path, old=2.1, new=1.9)
    (tmp_path / "a.lock").touch()
    os.utime(tmp_path / "a.lock", (0, 0))
    remove_unused(tmp_path, days=2)
    assert left(tmp_path) == {"new", "a.lock"}


def test_no_more_stay_than_asked_and_the_last_touched_do(tmp_path: Path) -> None:
    folder_of(tmp_path, a=0.4, b=0.1, c=0.3, d=0.2)
    remove_unused(tmp_path, days=1, most=2)
    assert left(tmp_path) == {"b", "d"}


def test_what_is_being_made_counts_by_its_age_alone(tmp_path: Path) -> None:
    folder_of(tmp_path, a=0.4, b=0.3, c_making=0.5, d_making=1.5)
    remove_unused(tmp_path, days=1, most=1, making=".making")
    assert left(tmp_path) == {"b", "c.making"}
