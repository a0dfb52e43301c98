"""What a training says before it runs: true, refused where the run would be, and without a trace."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from distributed.driver import dry_run as module
from distributed.driver import look, train
from distributed.driver.checkpoint_list import LIST
from distributed.driver.dry_run import Estimate, dry_run
from distributed.driver.in_process import launch
from distributed.driver.pace import Pace, measure
from distributed.driver.sizes import (
    bundle_bytes,
    checkpoint_bytes,
    rank_bytes,
    table_bytes,
    tower_parameters,
)
from distributed.runtime.worker_range import Workers
from distributed.training.build import build_drel_learner
from distributed.training.config import TrainConfig
from distributed.training.size_rule import DataSize
from drel_core.auto import AUTO
from drel_core.decision.kernel import KernelConfig
from drel_core.errors import InputError
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config, surveyed


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    store = write_planted(tmp_path / "store" / "train.parquet", 150)
    test = write_planted(tmp_path / "store" / "test.parquet", 40, first=1000)
    config = small_config(store, tmp_path / "out")
    return replace(config, data=replace(config.data, test=str(test)))


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Pace:
    config, survey = surveyed(tmp_path_factory.mktemp("pace"), 150)
    return measure(replace(config, threads=1), survey, 1, 2)


@pytest.fixture
def measured(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start once for all tests that do not ask how fast they are."""
    monkeypatch.setattr(module, "measure", lambda *_: pace)


def said_by(config: TrainConfig) -> tuple[list[str], Estimate | None]:
    lines: list[str] = []
    found = dry_run(config, lines.append)
    return [line for line in lines if not line.endswith("so far")], found  # a busy machine waits


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_says_what_would_run_and_writes_nothing(tmp_path: Path, config: TrainConfig) -> None:
    started = ray.is_initialized()  # another test's, where it is
    before = everything(tmp_path)
    config = replace(config, epochs=AUTO, workers=Workers(2))
    lines, found = said_by(config)
    assert everything(tmp_path) == before and ray.is_initialized() == started
    assert lines[0].endswith(": 150 training images, D = 16, 12 tags")
    assert (
        lines[1].startswith("settings for 150 rows, 12 tags and D = 16") and "epochs 30" in lines[1]
    )
    kinds = {line.split()[0] for line in lines[2:]}
    assert kinds == {"where", "time", "memory", "disk"}
    assert "2 workers" in next(line for line in lines if line.startswith("where"))
    steps = 30 * -(-150 // 16)
    assert f"{steps} steps of" in next(line for line in lines if line.startswith("time"))
    assert found is not None
    assert {"start", "calibration", "training", "scoring"} <= set(found.seconds)
    assert found.total == sum(found.seconds.values()) > found.seconds["training"] > 0


def test_bytes_are_those_of_what_is_built_and_written(tmp_path: Path, config: TrainConfig) -> None:
    config, survey = surveyed(tmp_path, 150)
    config = replace(config, kernel=KernelConfig(landmarks=100, dims=8))
    size = DataSize.of(survey)
    learner = build_drel_learner(config, survey, torch.device("cpu"))
    assert tower_parameters(config, 16) == sum(p.numel() for p in learner.model.parameters())
    kept = learner.table.state_dict()
    assert table_bytes(config, size.tags) == sum(part.nbytes for part in kept.values())
    state = checkpoint_bytes(config, size)
    held = sum(p.nbytes for p in learner.model.parameters())
    assert state == 3 * held + table_bytes(config, size.tags)  # AdamW has two moments

    config = replace(config, reservoir=replace(config.reservoir, rows=0))
    train.run(config, print, launcher=launch)
    bundle = Path(config.out) / "model"
    tensors = sum(path.stat().st_size for path in bundle.glob("*.safetensors"))
    decision = (bundle / "decision.safetensors").stat().st_size
    headers = 4096  # of four files
    assert abs(tensors - decision - bundle_bytes(config, size, 4, 6.0)) < headers


def test_memory_follows_workers_rows_and_kernel(tmp_path: Path) -> None:
    config, _ = surveyed(tmp_path)
    size = DataSize(1_000_000, 100_000, 256)
    one, two = (rank_bytes(config, size, 4, world, 2000) for world in (1, 2))
    assert two["tag table"] * 2 == one["tag table"] == table_bytes(config, 100_000)
    assert one["rows"] == 1_024_000_000 and two["rows"] * 2 == one["rows"]
    assert one["kernel"] == 0 and one["scores of a step"] == 16 * 2000 * 18
    small = replace(config, kernel=KernelConfig(landmarks=5000))
    assert rank_bytes(small, DataSize(4500, 371, 1280), 4, 2, 371)["kernel"] > 28 * 4500**2
    streamed = replace(config, data=replace(config.data, memory_gib=0.1))
    assert rank_bytes(streamed, size, 4, 1, 2000)["rows"] == 3 * 65_536 * 256 * 4


def test_what_the_run_refuses_the_dry_run_refuses_in_the_same_words(
    tmp_path: Path, config: TrainConfig
) -> None:
    def bad_row(config: TrainConfig) -> TrainConfig:
        write_planted(tmp_path / "bad" / "a.parquet", 20)
        write_planted(tmp_path / "bad" / "b.parquet", 20)
        return replace(config, data=replace(config.data, train=str(tmp_path / "bad")))

    def no_store(config: TrainConfig) -> TrainConfig:
        return replace(config, data=replace(config.data, train=str(tmp_path / "none")))

    def other_dim(config: TrainConfig) -> TrainConfig:
        other = write_planted(tmp_path / "d8.parquet", 20, dim=8)
        return replace(config, data=replace(config.data, test=str(other)))

    def shares(config: TrainConfig) -> TrainConfig:
        return replace(config, kernel=KernelConfig(landmarks=10, shares=[0.5, 0.5]))

    def out_is_a_file(config: TrainConfig) -> TrainConfig:
        (tmp_path / "file").touch()
        return replace(config, out=str(tmp_path / "file"))

    def gpus(config: TrainConfig) -> TrainConfig:
        return replace(config, device="cuda", workers=Workers(512))

    wrong: list[Callable[[TrainConfig], TrainConfig]]
    wrong = [bad_row, no_store, other_dim, shares, out_is_a_file]
    for make in wrong:
        changed = make(config)
        with pytest.raises(InputError) as dry:
            said_by(changed)
        with pytest.raises(InputError) as real:
            train.run(changed, print, launcher=launch)
        assert str(dry.value) == str(real.value), make
    with pytest.raises(
        InputError, match=r"device cuda with 512 workers, but the cluster has \d+ GPUs"
    ):
        said_by(gpus(config))


def test_an_out_where_another_works_or_worked_is_refused(
    tmp_path: Path, config: TrainConfig
) -> None:
    out = Path(config.out)
    out.mkdir()
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run works there"):
            said_by(config)
    (out / ".lock").unlink()
    train.run(replace(config, epochs=1), print, launcher=launch)
    lines, found = said_by(replace(config, epochs=1))
    assert found is None and lines[-1].endswith("is trained already: it would only be scored")
    with pytest.raises(InputError, match="model trained with another epochs"):
        said_by(config)


def test_a_run_that_was_stopped_goes_on_and_takes_less(measured: None, config: TrainConfig) -> None:
    """Ray Train's list as it writes it; the folder of its checkpoint need not be read."""
    whole = said_by(config)[1]
    checkpoints = Path(config.out) / "checkpoints"
    checkpoints.mkdir(parents=True)
    last = {"checkpoint_dir_name": "epoch-3-step-0-of-1-x", "metrics": {"done": 30, "score": 30.0}}
    (checkpoints / LIST).write_text(
        json.dumps({"checkpoint_results": [last], "latest_checkpoint_result": last})
    )
    lines, rest = said_by(config)
    assert "resume   goes on from step 30 of 60" in lines
    assert whole is not None and rest is not None
    assert rest.seconds["training"] < whole.seconds["training"]


@pytest.mark.parametrize("known", [None, 40])
def test_a_large_store_is_looked_at_in_part(
    measured: None,
    tmp_path: Path,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    known: int | None,
) -> None:
    """What may be a guess is called so; T is what the manifest says, where there is one."""
    monkeypatch.setattr(look, "INLINE_BYTES", 0)
    monkeypatch.setattr(look, "_ROWS", 10)
    config = replace(config, epochs=AUTO)
    if known:
        manifest = {"T": known, "features": None}
        (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    lines, found = said_by(config)
    assert found is not None and "(about, from 30 rows; T " in lines[0]
    assert (": 150 training images, D = 16, 40 tags" in lines[0]) == bool(known)
    assert ("by manifest.json" if known else "T is a guess: 12 seen") in lines[0]
    assert "not known before all rows are read: bad rows and repeated ids" in lines


@pytest.mark.parametrize("method", ["knn", "svm", "popularity"])
def test_other_methods_say_what_can_be_said(config: TrainConfig, method: str) -> None:
    lines, _ = said_by(replace(config, method=method))  # type: ignore[arg-type]
    wanted = {"svm": "12 SVMs take about", "knn": "not known", "popularity": "seconds"}[method]
    assert wanted in next(line for line in lines if line.startswith("time"))


def test_the_pace_is_that_of_the_steps_themselves(tmp_path: Path, pace: Pace) -> None:
    """More images take longer; all ranks end, and nothing of theirs is left."""
    config, survey = surveyed(tmp_path, 150)
    many = measure(replace(config, threads=1, batch_size=20_000), survey, 1, 2)
    assert 0 < pace.step < many.step and pace.pool == many.pool == 12
    assert pace.held > 50e6 and pace.multiply > 1e8
