"""Lines of parts that take long: what, how far, how long still; nothing of short ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from distributed.data.blocks import inline_blocks
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver import train
from distributed.driver.in_process import launch
from distributed.inference.evaluate import evaluate_store
from distributed.runtime import progress
from distributed.runtime.progress import Progress, TimeLeft, saying, size_of
from distributed.training.build import build_drel_learner, make_reader
from distributed.training.kernel_fit import fit_kernel
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.kernel import KernelConfig
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config, surveyed


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part takes long."""
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "_PACE_SECONDS", 0.0)


def test_a_short_part_says_nothing() -> None:
    said: list[str] = []
    short = Progress(said.append, "survey", 10, "rows")
    for _ in range(10):
        short.step()
    with saying(said.append, "solving"):
        pass
    assert said == []


def test_a_long_part_says_how_far_it_is_and_how_long_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    long = Progress(said.append, "survey", 40_000, "rows")
    for _ in range(4):
        now[0] += 4.0
        long.step(10_000)
    assert said == [
        "survey  20,000/40,000 rows  left 0:08",
        "survey  40,000/40,000 rows  left 0:00",
    ]


def test_the_time_left_is_told_by_the_pace_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    left = TimeLeft(1000)
    said = []
    # Half a minute until processes run; the pieces of two workers come together.
    for seconds, done in ((30, 10), (30.1, 20), (31, 110), (35, 510), (40, 1000)):
        now[0] = float(seconds)
        said.append(left.text(done))
    assert said == ["", "", "  left 0:08", "  left 0:04", "  left 0:00"]
    assert TimeLeft(1).text(1) == "  left 0:00"
    assert TimeLeft(5).text(0) == ""


def test_what_has_no_steps_says_how_long_it_takes_so_far(impatient: None) -> None:
    said: list[str] = []
    with saying(said.append, "solving"):
        until = time.monotonic() + 10
        while not said and time.monotonic() < until:
            time.sleep(0.01)
    assert said[0] == "solving, 0:00 so far"
    with pytest.raises(ZeroDivisionError), saying(said.append, "failing"):
        raise ZeroDivisionError
    with saying(None, "another rank"):
        pass


def test_survey_and_scoring_say_how_far_they_are(tmp_path: Path, impatient: None) -> None:
    store = FeatureStore.open(str(write_planted(tmp_path / "a.parquet", 150)))
    said: list[str] = []
    survey = survey_store(store, "fail", log=said.append)
    assert f"looking at {store.path}:  128/150 rows  left 0:00" in said
    vocabulary = Vocabulary(tuple(survey.names.to_pylist()), survey.count_T)
    said.clear()
    popular = PopularityAnnotator(vocabulary)
    evaluate_store(popular, vocabulary, survey, Columns(), 5, log=said.append)
    assert [line.split("  left")[0] for line in said if line.startswith("scoring")] == [
        f"scoring  {rows}/150 rows" for rows in (64, 128, 150)
    ]


def test_kernel_and_calibration_say_how_far_they_are(tmp_path: Path, impatient: None) -> None:
    config, survey = surveyed(tmp_path, 150)
    learner = build_drel_learner(config, survey, torch.device("cpu"))
    blocks = inline_blocks(config.data.columns, survey.names)
    reader = make_reader(config, survey, survey.train, blocks, False)
    said: list[str] = []
    kernel, count_T = KernelConfig(landmarks=50), torch.tensor(survey.count_T)
    fit_kernel(kernel, learner.model, reader, count_T, 0, log=said.append)
    assert "kernel  96/150 rows of this worker  left 0:00" in said
    said.clear()
    train.run(
        small_config(tmp_path / "train.parquet", tmp_path / "o"), said.append, launcher=launch
    )
    steps = 6 * -(-120 // 16)
    assert f"calibration  {steps}/{steps} steps  left 0:00" in said


def test_bytes_as_a_person_reads_them() -> None:
    assert [size_of(count) for count in (500, 2_500_000, 48.25e9)] == ["0 kB", "2.5 MB", "48.2 GB"]
