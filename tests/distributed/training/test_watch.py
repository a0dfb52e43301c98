"""What is seen of a model while it learns: which rows, when, the same at any world size; what ends badly."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distributed.data.blocks import inline_blocks
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import StoreSurvey, WatchPlan, survey_store
from distributed.training import collectives
from distributed.training.build import build_learner
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.divergence import LossCourse, check_finite
from distributed.training.model_trainer import ModelTrainer
from distributed.training.optim import OptimConfig
from distributed.training.run_spec import RunSpec
from distributed.training.watch import LookPace, watch_plan
from drel_core.errors import Diverged
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from tests.helpers.ranks import spawn_ranks
from tests.helpers.shared_folder_io import SharedFolderIO
from tests.helpers.stores import write_planted


def rows_of(survey: StoreSurvey, name: str) -> set[tuple[str, int]]:
    return {(s.unit.path, int(row)) for s in getattr(survey, name) for row in s.rows()}


def settings(path: Path, out: Path, optim: OptimConfig | None = None) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(train=str(path)),
        out=str(out),
        batch_size=32,
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8, normalise=True),
        table=TableConfig(lr=0.1),
        loss=LossConfig(kind="smooth"),
        optim=optim or OptimConfig(optimiser="adamw", lr=0.01),
        epochs=6,
    )


# ---- which rows


def test_the_size_of_a_store_decides_whether_rows_are_held_out() -> None:
    config = TrainConfig(data=DataConfig(train="x"), out="y")
    assert watch_plan(config, 500) == WatchPlan(500, False, 0)
    assert watch_plan(config, 19_999) == WatchPlan(1000, False, 0)
    assert watch_plan(config, 20_000) == WatchPlan(400, True, 0)
    assert watch_plan(config, 10**7) == WatchPlan(1000, True, 0)
    assert watch_plan(replace(config, method="cnn-warp"), 10**7) == WatchPlan(200, True, 0)
    assert watch_plan(replace(config, method="knn"), 10**7) is None
    config.data.validation = 0.1
    assert watch_plan(config, 10**7) is None


@pytest.mark.parametrize("held_out", [False, True])
def test_watched_rows_come_from_some_units_and_no_tag_is_lost(
    tmp_path: Path, held_out: bool
) -> None:
    path = write_planted(tmp_path / "train.parquet", 6_000, row_group=25)
    store = FeatureStore.open(str(path))
    plain = survey_store(store, "fail")
    found = survey_store(store, "fail", watch=WatchPlan(30, held_out, 3))
    watched, train = rows_of(found, "watch"), rows_of(found, "train")
    assert 8 < len(watched) == found.watch_rows < 60
    assert len({s.unit.file_row for s in found.watch}) <= 120 < len(store.units)
    spread = sorted(s.unit.file_row for s in found.watch)
    assert spread[0] < 1500 and spread[-1] > 4500
    assert (watched & train == set()) == held_out == found.watch_held_out
    assert watched | train == rows_of(plain, "train")
    assert found.names == plain.names and (found.count_T == plain.count_T).all()
    np.testing.assert_array_equal(found.mean_D, plain.mean_D)
    assert found.train_rows == 6_000 - (len(watched) if held_out else 0)


# ---- when


def test_looks_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def looks(cost: float, total: int = 200, first: int = 0) -> list[int]:
        now[0] = 0.0
        pace, taken = LookPace(first, total, torch.device("cpu")), []
        for step in range(first + 1, total + 1):
            now[0] += 1.0
            if pace.due(step):
                taken.append(step)
                now[0] += cost
                pace.looked(cost)
        return taken

    assert looks(0.3) == [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]
    assert looks(50) == [20, 200]
    assert looks(1.5)[:2] == [20, 40] and looks(1.5)[-1] == 200 and len(looks(1.5)) < 7
    assert looks(0.3, first=130) == [140, 160, 180, 200]
    assert looks(0.001, total=3) == [1, 2, 3]


# ---- the same at any number of ranks


def trainer_of(folder: str, optim: OptimConfig | None = None) -> ModelTrainer:
    """This rank's part of a run of all ranks together."""
    out = Path(folder) / f"out-{collectives.world_size()}"
    config = settings(Path(folder) / "train.parquet", out, optim)
    store = FeatureStore.open(config.data.train)
    survey = survey_store(store, "fail", watch=WatchPlan(200, True, 0))
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})
    blocks = inline_blocks(config.data.columns, survey.names)
    learner = build_learner(spec, torch.device("cpu"))
    return ModelTrainer(spec, learner, blocks, SharedFolderIO(out / "kept"))


def test_figures_are_the_same_at_any_world_size(tmp_path: Path) -> None:
    write_planted(tmp_path / "train.parquet", 700, tags=20)
    [(alone, trained)] = spawn_ranks(1, look_and_train, tmp_path, str(tmp_path))
    assert 150 < alone["images"] < 250 and alone["kind"] == "held-out rows"
    assert alone["F1"] > 0 and trained["F1"] > 2 * trained["floor"]["F1"] > 0
    for found, later in spawn_ranks(2, look_and_train, tmp_path, str(tmp_path)):
        assert found == alone
        # Each rank has an order of rows of its own: another model, as good.
        assert later["floor"] == trained["floor"] and later["F1"] > 2 * later["floor"]["F1"]


def look_and_train(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the model at its start, and of the trained one."""
    trainer = trainer_of(folder)
    assert trainer.watch is not None
    first = trainer.watch.look()
    assert trainer.run() and trainer.found is not None
    return first, trainer.found


def test_all_ranks_end_when_the_model_is_no_number(tmp_path: Path) -> None:
    write_planted(tmp_path / "train.parquet", 300)
    said = spawn_ranks(2, train_badly, tmp_path, str(tmp_path))
    assert said[0] == said[1] and "training diverged: after step" in said[0]
    assert "lower --optim.lr (now 1e+30)" in said[0]
    assert not (tmp_path / "out-2" / "model").exists()


def train_badly(folder: str) -> str:
    try:
        trainer_of(folder, OptimConfig(optimiser="sgd", lr=1e30)).run()
    except Diverged as error:
        return str(error)
    return "it went well"


# ---- what ends badly


@pytest.mark.parametrize(("spoil", "precision"), [("weight", "fp32"), ("gradient", "bf16")])
def test_nan_ends_a_run_with_what_to_change(tmp_path: Path, spoil: str, precision: Any) -> None:
    config = settings(tmp_path / "a", tmp_path / "b")
    config.optim.precision = precision
    spec = RunSpec(config=config, survey=None, features=None, fingerprint={})  # type: ignore[arg-type]
    model, norm = nn.Linear(3, 2), torch.tensor(1.0)
    check_finite(spec, model, norm, 7)
    if spoil == "weight":
        with torch.no_grad():
            model.weight[1, 2] = math.inf
    else:
        norm = torch.tensor(math.nan)
    with pytest.raises(Diverged, match=r"after step 7 the (model|gradient) holds NaN") as found:
        check_finite(spec, model, norm, 7)
    assert ("precision fp32" in str(found.value)) == (precision == "bf16")


def test_a_loss_that_stays_where_it_began_is_seen() -> None:
    def course(late: float, start: float | None = None, fresh: bool = True) -> LossCourse:
        found = LossCourse(1000, start, fresh)
        for step in range(1, 401):
            loss = 10.9 if step <= 10 else late
            found.step(torch.tensor([loss * 32, 32.0]))
            if step % 100 == 0:
                found.line(late, step)
                assert step >= 300 or found.unmoved is None, "too early to judge"
        return found

    assert course(10.89).unmoved == "the loss has not moved from its start (10.9000, now 10.8900)"
    assert course(12.0).unmoved is not None
    assert course(10.0).unmoved is None
    assert course(10.89, start=11.5, fresh=False).unmoved is None, "it moved before the restart"
    assert course(10.89, start=10.9, fresh=False).unmoved is not None
    assert course(10.89, fresh=False).unmoved is None, "where it began is not known"
