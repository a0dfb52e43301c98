"""What a killed scorer leaves for HAProxy goes with the next start; what is in use or not ours stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distributed.serving import ingress

_HOLDS = """
import sys, time
from distributed.serving import ingress
ingress._place = lambda: sys.argv[1]
folder = ingress._folder_of_its_own()
held = ingress._hold(folder)
print(folder, flush=True)
time.sleep(600)
"""


def test_folders_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "_place", lambda: str(tmp_path))
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            left = Path(process.stdout.readline().strip())
            (left / "haproxy.cfg").write_text("global")
            for_ray_start = Path(ingress._folder_of_its_own())
            (tmp_path / "drel-in-link").symlink_to(left)
            (tmp_path / "drel-in-file").touch()
            ingress._remove_ownerless()
            assert (left / "haproxy.cfg").exists()  # its process lives
        finally:
            process.kill()
    ingress._remove_ownerless()
    assert not left.exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {for_ray_start.name, "drel-in-link", "drel-in-file"}
