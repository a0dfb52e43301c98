"""--dry_run of every verb: exit code 0 and nothing written, or what the command itself would refuse."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distributed.driver import dry_run as training
from distributed.driver.pace import Pace
from jobs.cli import NOTHING
from jobs.parsers import parser_of
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.commands import run_here
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config

ALL = (
    *("train", "tune", "compare", "update", "annotate"),
    *("evaluate", "export", "ingest", "report", "serve"),
)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Arguments of each verb. How fast steps are is not asked here: tests of the driver measure it."""
    pace = Pace(step=0.01, pool=12, score=1e-4, read=1e-5, multiply=1e10, held=10**8)
    monkeypatch.setattr(training, "measure", lambda *_: pace)
    monkeypatch.setenv("DREL_SCRATCH", str(tmp_path.parent / f"{tmp_path.name}-scratch"))
    store = write_planted(tmp_path / "train.parquet", 60)
    test = write_planted(tmp_path / "test.parquet", 30, first=500)
    config = asdict(small_config(store, tmp_path / "v1"))
    model = write_drel(tmp_path / "v1", dim=16, decider=random_decider(12), config=config)
    trained: list[Any] = ["--data.train", store, "--out", tmp_path / "out"]
    return {
        "train": [*trained, "--data.test", test],
        "tune": [*trained, "--trials", 3],
        "compare": [*trained, "--data.test", test, "--methods", "knn,drel", "--seeds", 2],
        "update": ["--model", model, "--data", store, "--out", tmp_path / "out"],
        "annotate": ["--model", model, "--data", test, "--out", tmp_path / "out"],
        "evaluate": ["--model", model, "--data", test, "--json", tmp_path / "m.json"],
        "export": ["--model", model, "--out", tmp_path / "out"],
        "ingest": ["--source", "table", "--input", store, "--out", tmp_path / "out"],
        "report": ["--model", model, "--data", test, "--out", tmp_path / "out" / "r.html"],
        "serve": ["--model", model, "--port", 0],
    }


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts one fails."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("a Ray was started"))


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", ALL)
def test_it_says_what_would_be_done_and_writes_nothing(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    before = files(tmp_path)
    assert run_here(verb, *given[verb], "--dry-run") == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.endswith(f"{NOTHING}\n")
    kinds = {line.split()[0] for line in said.out.splitlines() if line.strip()}
    assert ("where" in kinds and {"time", "all"} & kinds) or verb == "export"
    assert files(tmp_path) == before


@pytest.mark.parametrize("asked", [["--dry-run"], []])
def test_figures_that_cannot_be_written_are_refused_before_scoring(
    given: dict[str, list[Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
) -> None:
    for place, why in (("", "is a folder"), ("n" * 300, "cannot be written (File name too long)")):
        assert run_here("evaluate", *given["evaluate"], "--json", tmp_path / place, *asked) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and f"--json {why}" in said.err


def test_only_verbs_that_know_it_take_it() -> None:
    for verb in (*ALL, "demo", "completion"):
        takes = "dry_run" in {one.dest for one in parser_of(verb)._actions}
        assert takes == (verb in ALL), verb


@pytest.mark.parametrize(
    "verb", [verb for verb in ALL if verb not in ("evaluate", "report", "serve")]
)
def test_an_out_that_is_a_file_or_holds_something_else_is_refused_alike(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    arguments = given[verb]
    out = tmp_path / "out"
    if verb in ("train", "tune", "compare", "update"):
        out.touch()
    else:
        out.mkdir()
        (out / "letter.txt").write_text("mine")
    lines = set()
    for more in (["--dry_run"], []):
        assert run_here(verb, *arguments, *more) == 2
        lines.add(capsys.readouterr().err)
    assert len(lines) == 1 and lines.pop().startswith("error: ")


def test_a_begun_annotation_of_another_kind_is_refused_alike(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("annotate", *given["annotate"]) == 0
    capsys.readouterr()
    before = files(tmp_path)
    assert run_here("annotate", *given["annotate"], "--dry_run") == 0
    assert "resume   1 of 1 files are there already" in capsys.readouterr().out
    lines = set()
    for more in (["--dry_run"], []):
        assert run_here("annotate", *given["annotate"], "--k", 3, *more) == 2
        lines.add(capsys.readouterr().err)
    assert len(lines) == 1 and "begun with another k (k 5 before, 3 now)" in lines.pop()
    assert files(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("verb", ["annotate", "evaluate", "report", "update"])
def test_a_store_that_does_not_fit_the_model_is_refused_alike(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    other = write_planted(tmp_path / "d8.parquet", 20, dim=8)
    arguments = [*given[verb]]
    arguments[arguments.index("--data") + 1] = other
    lines = set()
    for more in (["--dry_run"], []):
        assert run_here(verb, *arguments, *more) == 2
        lines.add(capsys.readouterr().err)
    assert len(lines) == 1 and "features have D = 8, the model takes D = 16" in lines.pop()


def test_config_files_may_say_it_and_config_yaml_does_not(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("dry_run: true\nepochs: 7\n")
    assert run_here("train", *given["train"], "--config", tmp_path / "my.yaml") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{NOTHING}\n") and f"{7} steps of" in out
    assert not (tmp_path / "out").exists()


def test_compare_adds_its_entries_up_and_names_what_is_left_out(
    given: dict[str, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*given["compare"], "--methods", "drel,cnn-warp,popularity,knn", "--dry_run"]
    assert run_here("compare", *arguments) == 0
    out = capsys.readouterr().out
    assert "drel, 2 seeds\n" in out and "  left out: it takes pictures" in out
    assert out.splitlines()[-2].startswith("all      about ") and out.splitlines()[-2].endswith(
        "knn"
    )


def test_an_ingestion_that_is_there_needs_no_time(
    given: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"plan": {"source": {"kind": "other"}}}))
    assert run_here("ingest", *given["ingest"], "--dry_run") == 2
    assert "holds a feature store made from other input" in capsys.readouterr().err
