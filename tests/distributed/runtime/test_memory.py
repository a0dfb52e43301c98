"""Free memory, as machine and container say."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.runtime.memory import available_bytes


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:    2000 kB\n")
    return tmp_path


def group(folder: Path, most: str) -> Path:
    folder.mkdir()
    (folder / "memory.max").write_text(most)
    (folder / "memory.current").write_text("600000\n")
    (folder / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")
    return folder


def test_the_least_of_machine_and_container_counts(proc: Path, tmp_path: Path) -> None:
    assert available_bytes(proc, tmp_path / "none") == 2000 << 10
    assert available_bytes(proc, group(tmp_path / "all", "max\n")) == 2000 << 10
    assert available_bytes(proc, group(tmp_path / "large", "99000000\n")) == 2000 << 10
    assert available_bytes(proc, group(tmp_path / "small", "1000000\n")) == 1000000 - 100000


def test_this_machine_has_some() -> None:
    assert available_bytes() > 1 << 20
