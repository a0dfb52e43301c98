from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from drel_core.bundle.format import read_info, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.version import VERSION, written_by
from tests.helpers.bundles import write_drel

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION


def test_without_git_the_version_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    written_by.cache_clear()
    try:
        assert written_by() == f"drel {VERSION}"
    finally:
        written_by.cache_clear()


def test_a_bundle_says_who_wrote_it_and_one_of_before_reads_as_well(tmp_path: Path) -> None:
    folder = write_drel(tmp_path / "model")
    info = read_info(folder)
    assert info.written_by is not None and info.written_by.startswith(f"drel {VERSION}")
    before = {key: value for key, value in info.content.items() if key != "written_by"}
    (folder / "config.json").write_text(json.dumps(before), encoding="utf-8")
    assert read_info(folder).content == before and read_info(folder).written_by is None


def test_who_wrote_it_is_no_part_of_a_bundles_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = Vocabulary(("a", "b"), [2, 1])
    versions = []
    for writer in ("drel 0.1", "drel 7 (git 1234567)"):
        monkeypatch.setattr("drel_core.bundle.format.written_by", lambda writer=writer: writer)
        versions.append(write_bundle(tmp_path, "popularity", vocabulary, {"image_dim": 1}))
        assert json.loads((tmp_path / "config.json").read_text())["written_by"] == writer
    assert versions[0] == versions[1]
