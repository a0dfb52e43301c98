"""Who may read a bundle: as the umask says; and what is said to who may not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.bad_disks import plain_user
from tests.helpers.bundles import write_drel
from tests.helpers.commands import ROOT


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_of_a_bundle_obey_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        model = write_drel(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in model.iterdir()}
    assert set(modes.values()) == {mode}, modes


@pytest.mark.parametrize(
    "name",
    ["", "config.json", "vocabulary.json", "towers.safetensors", "tags-00000-of-00001.safetensors"],
)
def test_what_may_not_be_read_is_neither_damaged_nor_missing(tmp_path: Path, name: str) -> None:
    model = write_drel(tmp_path / "model")
    if name.endswith(".safetensors"):
        name = sorted(path.name for path in model.glob("*.safetensors"))[name.startswith("tags")]
    (model / name).chmod(0)
    text = (
        "import sys; from distributed.bundles.open import open_annotator\n"
        "try: open_annotator(sys.argv[1])\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    command = [*plain_user(), sys.executable, "-c", text, str(model)]
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    finally:
        (model / name).chmod(0o755)
    assert "InputError" in said and "may not be read by this user" in said, said
    assert name in said and "damaged" not in said and said.count("\n") == 1
