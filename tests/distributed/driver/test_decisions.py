"""Decisions from training over an update: learned where rows can say something, kept where none do."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import CheckpointConfig, DataConfig, TrainConfig
from distributed.training.optim import OptimConfig
from drel_core.annotators.cnn import CNNConfig
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.knn import KNNConfig
from drel_core.annotators.load import load_bundle
from drel_core.decision.decider import DECISION, Decider, DecisionConfig
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from drel_core.scoring.reliability import expected_calibration_error, reliability
from tests.helpers.pictures import tiny_network, write_pictures
from tests.helpers.stores import planted_table


def learn(
    folder: Path,
    table: pa.Table,
    method: str = "drel",
    validation: float = 0.2,
    held_out: float = 0.2,
    workers: str = "1",
    epochs: int = 3,
) -> list[str]:
    """Train into ``folder/v1``; the lines of progress."""
    pq.write_table(table, folder / "train.parquet")
    config = TrainConfig(
        data=DataConfig(train=str(folder / "train.parquet"), validation=validation),
        out=str(folder / "v1"),
        method=method,  # type: ignore[arg-type]
        workers=workers,  # type: ignore[arg-type]
        epochs=epochs,
        batch_size=32,
        checkpoint=CheckpointConfig(every=10**9),
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8),
        table=TableConfig(lr=0.05),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
        knn=KNNConfig(k=10),
        decision=DecisionConfig(held_out=held_out),
    )
    lines: list[str] = []
    train.run(config, lines.append, launcher=launch)
    return lines


def teach(
    folder: Path, table: pa.Table, validation: float = 0.0, replay_ratio: float = 1.0
) -> list[str]:
    """Update ``v1`` to ``v2``; the lines of progress."""
    pq.write_table(table, folder / "new.parquet")
    config = UpdateConfig(
        model=str(folder / "v1"),
        out=str(folder / "v2"),
        data=UpdateData(new=str(folder / "new.parquet"), validation=validation),
        epochs=2,
        replay_ratio=replay_ratio,
    )
    lines: list[str] = []
    update.run(config, lines.append, launcher=launch)
    return lines


def decider_of(folder: Path, version: str = "v1") -> Decider | None:
    return load_bundle(folder / version).decider


def known(folder: Path, version: str = "v1") -> Decider:
    decider = decider_of(folder, version)
    assert decider is not None
    return decider


def with_tags(table: pa.Table, tags: list[list[str]]) -> pa.Table:
    return table.set_column(2, "tags", pa.array(tags, pa.list_(pa.string())))


def calibration_error(folder: Path) -> float:
    """Of new images of the planted store."""
    annotator = load_bundle(folder / "v1")
    table = planted_table(300, seed=5, first=5000)
    features_BD = torch.tensor(table.column("features").to_pylist())
    probability_BT = annotator.scores(features_BD)
    assert probability_BT.min() >= 0 and probability_BT.max() <= 1
    names = annotator.vocabulary.names
    hit_BT = torch.tensor([[n in row for n in names] for row in table.column("tags").to_pylist()])
    return expected_calibration_error(reliability(probability_BT, hit_BT))


@pytest.mark.parametrize("method", ["drel", "knn", "popularity"])
def test_rows_that_say_nothing_leave_scores_as_they_are(tmp_path: Path, method: str) -> None:
    alone = with_tags(planted_table(200), [[f"only {row}"] for row in range(200)])
    lines = learn(tmp_path, alone, method)
    said = [line for line in lines if line.startswith("calibration: none of the held-out rows")]
    assert len(said) == (method != "popularity")
    assert decider_of(tmp_path) is None
    if method == "drel":
        more = with_tags(planted_table(60, first=500), [[f"new {row}"] for row in range(60)])
        lines = teach(tmp_path, more, validation=0.4, replay_ratio=0)
        assert any("rows are held out for validation" in line for line in lines)
        assert decider_of(tmp_path, "v2") is None
        assert load_bundle(tmp_path / "v2").num_tags > load_bundle(tmp_path / "v1").num_tags


@pytest.mark.parametrize("workers", ["1", "2"])
def test_neighbours_learn_decisions_without_validation(tmp_path: Path, workers: str) -> None:
    learn(tmp_path, planted_table(400), "knn", validation=0.0, workers=workers)
    assert len(known(tmp_path)) == 12
    assert calibration_error(tmp_path) < 0.08


def test_neighbours_learn_decisions_from_validation_rows(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400), "knn")
    assert calibration_error(tmp_path) < 0.08


def test_a_tag_on_every_image_leaves_neighbours_without_decisions(tmp_path: Path) -> None:
    alike = with_tags(planted_table(200), [["everywhere"]] * 200)
    lines = learn(tmp_path, alike, "knn", validation=0.0)
    assert any("rows left out say nothing" in line for line in lines)
    assert decider_of(tmp_path) is None


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_nothing_is_learned_where_nothing_is_asked_for(tmp_path: Path, validation: float) -> None:
    learn(tmp_path, planted_table(200), "knn", validation, held_out=0.0)
    assert not (tmp_path / "v1" / "model" / DECISION).exists()


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_networks_learn_decisions_from_validation_rows_alone(
    tmp_path: Path, validation: float
) -> None:
    write_pictures(tmp_path / "train.parquet", 120)
    tiny_network(tmp_path / "tiny.pt")
    config = TrainConfig(
        data=DataConfig(train=str(tmp_path / "train.parquet"), validation=validation),
        out=str(tmp_path / "v1"),
        method="cnn-softmax",
        epochs=2,
        batch_size=32,
        k=2,
        checkpoint=CheckpointConfig(every=10**9),
        cnn=CNNConfig(backbone=f"file:{tmp_path / 'tiny.pt'}", size=32),
    )
    lines: list[str] = []
    train.run(config, lines.append, launcher=launch)
    assert not any("calibration" in line for line in lines), lines
    decider = Decider.load(tmp_path / "v1" / "model", 4)
    assert (decider is not None) == bool(validation)


def test_popularity_has_no_probabilities(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(200), "popularity")
    assert decider_of(tmp_path) is None


@pytest.mark.usefixtures("shared_ray")
def test_machines_learn_decisions_from_their_folds(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400), "svm", validation=0.0)
    assert len(known(tmp_path)) == 12
    assert calibration_error(tmp_path) < 0.08


@pytest.mark.usefixtures("shared_ray")
def test_machines_learn_decisions_from_validation_rows(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400), "svm")
    assert len(known(tmp_path)) == 12
    assert calibration_error(tmp_path) < 0.08


def test_an_update_keeps_the_decisions_of_old_tags(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400))
    before = known(tmp_path)
    table = planted_table(60, seed=2, first=1000)
    tags = [[*row, "zebra"] for row in table.column("tags").to_pylist()]
    teach(tmp_path, with_tags(table, tags))
    after = known(tmp_path, "v2")
    assert load_bundle(tmp_path / "v2").vocabulary.names[12] == "zebra"
    assert torch.equal(after.calibration.link, before.calibration.link)
    # Scores lie elsewhere after an update, those of all tags together.
    moved_T = after.calibration.shift_T[:12] - before.calibration.shift_T
    torch.testing.assert_close(moved_T, moved_T[:1].expand(12), rtol=0, atol=1e-5)
    assert float(moved_T.abs().max()) < 0.1
    assert before.cut_T is not None and after.cut_T is not None
    for old_T, new_T in (
        (before.calibration.shift_T + moved_T, after.calibration.shift_T),
        (before.gain_T, after.gain_T),
        (before.offset_T, after.offset_T),
        (before.cut_T, after.cut_T),
    ):
        torch.testing.assert_close(new_T[:12], old_T, rtol=0, atol=1e-6)
        # Twelve tags are all of its neighbours in order of count.
        assert new_T[12] == pytest.approx(float(old_T.mean()))


def test_an_update_that_holds_rows_out_learns_decisions_anew(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400))
    before = known(tmp_path)
    teach(tmp_path, planted_table(300, seed=2, first=1000), validation=0.5)
    after = known(tmp_path, "v2")
    assert (after.calibration.shift_T != before.calibration.shift_T).all()
    assert (after.calibration.link != before.calibration.link).any()


def test_what_a_second_fit_taught_follows_where_the_finished_models_scores_lie(
    tmp_path: Path,
) -> None:
    learn(tmp_path, planted_table(600), validation=0.0, epochs=20)
    out = tmp_path / "v1"
    with safe_open(out / DECISION, "pt") as file:
        scores = json.loads(file.metadata()["score_moments"])
        learned_slope, learned_shift_T = file.get_tensor("slope"), file.get_tensor("shift_T")
    # Of all rows, where those of both fits are four fifths of them.
    annotator = load_bundle(out)
    assert isinstance(annotator, DRELAnnotator) and annotator.decider is not None
    table = pq.read_table(tmp_path / "train.parquet")
    features_ND = torch.tensor(table.column("features").to_pylist())
    image_NL = annotator.model.encode_images(features_ND, with_metric=False).detach()
    z_NT = image_NL @ annotator.tag_TL.T + annotator.bias_T
    calibration = annotator.decider.calibration
    score_NT = ((z_NT - calibration.shift_T) / calibration.slope).double()
    factor = float(calibration.slope / learned_slope)
    assert factor == pytest.approx(
        scores["deviation"] / float(score_NT.std(correction=0)), rel=0.05
    )
    assert abs(factor - 1) > 0.1, "two fits whose scores spread alike show nothing"
    # A score at the mean has the same place in the order of tags as one at the mean of the other fit.
    own_T = calibration.slope * float(score_NT.mean()) + calibration.shift_T
    its_T = learned_slope * scores["mean"] + learned_shift_T
    torch.testing.assert_close(own_T, its_T, rtol=0, atol=0.05)
