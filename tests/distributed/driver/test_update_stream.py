"""Many small updates, one after the other: what the model knew stays, what it was shown is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from distributed.bundles.table_parts import TableParts
from distributed.data.replay_buffer import ReservoirConfig
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import CheckpointConfig, DataConfig, TrainConfig
from distributed.training.optim import OptimConfig
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_info
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from tests.helpers.stores import planted_table

UPDATES, IMAGES = 10, 50
OLD = [f"tag-{tag:02d}" for tag in range(8)]
LATER = [f"tag-{tag:02d}" for tag in range(8, 12)]


def of_tags(table: pa.Table, tags: list[str], rows: int) -> pa.Table:
    """The first rows that have no other tags than these."""
    only = [set(row) <= set(tags) for row in table["tags"].to_pylist()]
    found = table.filter(pa.array(only)).slice(0, rows)
    assert len(found) == rows
    return found


def f1(model: Path, test: Path, tags: list[str]) -> float:
    """Of the given tags, top 3."""
    annotator, table = load_bundle(model), pq.read_table(test)
    flat = table.column("features").combine_chunks().flatten().to_numpy()
    best_Bk = annotator.annotate(torch.from_numpy(flat.reshape(len(table), -1).copy()), 3)[1]
    names = annotator.vocabulary.names
    hit, said, true = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    place = {name: tag for tag, name in enumerate(names)}
    for row, best in zip(table.column("tags").to_pylist(), best_Bk.tolist(), strict=True):
        mine = {place[tag] for tag in row if tag in place}
        said[best] += 1
        true[list(mine)] += 1
        hit[list(mine & set(best))] += 1
    ids = [place[tag] for tag in tags]
    precision = (hit[ids] / np.maximum(said[ids], 1)).mean()
    recall = (hit[ids] / np.maximum(true[ids], 1)).mean()
    return float(2 * precision * recall / (precision + recall))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A model of eight tags, a store of images with four others, a test store."""
    table = planted_table(4000, seed=3)
    pq.write_table(of_tags(table, OLD, 500), tmp_path / "old.parquet")
    pq.write_table(of_tags(table, LATER, UPDATES * IMAGES), tmp_path / "later.parquet")
    more = planted_table(4000, seed=4, first=9000)
    pq.write_table(of_tags(more, OLD, 300), tmp_path / "test-old.parquet")
    pq.write_table(of_tags(more, LATER, 300), tmp_path / "test-later.parquet")
    config = TrainConfig(
        data=DataConfig(train=str(tmp_path / "old.parquet")),
        out=str(tmp_path / "v0"),
        epochs=30,
        batch_size=32,
        checkpoint=CheckpointConfig(every=10**9),
        reservoir=ReservoirConfig(rows=150),
        model=ModelConfig(
            image_hidden=32,
            tag_dim=16,
            tag_hidden=16,
            latent=16,
            activation="gelu",
            latent_activation=False,
            layer_norm=True,
            linear_path=True,
            normalise=True,
            tag_bias=True,
            metric="identity",
        ),
        table=TableConfig(lr=0.05),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(
            optimiser="adamw", lr=0.003, weight_decay=0.1, schedule="cosine", warmup=0.1
        ),
    )
    train.run(config, log=lambda line: None, launcher=launch)  # ten starts of Ray take minutes
    return tmp_path


def stream(folder: Path, name: str, **options: Any) -> Path:
    """Ten updates of 50 images each; gives the last model."""
    later = pq.read_table(folder / "later.parquet")
    assert len(later) == UPDATES * IMAGES
    model = folder / "v0" / "model"
    for number in range(UPDATES):
        part = folder / f"part-{number}.parquet"
        pq.write_table(later.slice(number * IMAGES, IMAGES), part)
        config = UpdateConfig(
            model=str(model),
            out=str(folder / f"{name}-{number}"),
            data=UpdateData(new=str(part)),
            **options,
        )
        update.run(config, log=lambda line: None, launcher=launch)
        model = folder / f"{name}-{number}" / "model"
    return model


def spread(model: Path, rows: Path, tags: int) -> float:
    """Standard deviation of the towers' scores of a store's rows, for the first tags."""
    annotator, table = load_bundle(model), pq.read_table(rows)
    assert isinstance(annotator, DRELAnnotator)
    flat = table.column("features").combine_chunks().flatten().to_numpy()
    image_nL = annotator.latents(torch.from_numpy(flat.reshape(len(table), -1).copy()))
    row_nE, _ = TableParts.of(model, read_info(model)).rows(torch.arange(tags))
    with torch.inference_mode():
        tag_nL1 = annotator.model.encode_tags(row_nE, with_metric=True)
        return float(annotator.model.score(image_nL, tag_nL1).std())


def slope(model: Path) -> float:
    decider = load_bundle(model).decider
    assert decider is not None
    return float(decider.calibration.slope)


def test_many_small_updates_do_not_drift(begun: Path) -> None:
    old, later = begun / "test-old.parquet", begun / "test-later.parquet"
    before = f1(begun / "v0", old, OLD)
    last = stream(begun, "kept")
    after, new = f1(last, old, OLD), f1(last, later, LATER)
    forgetful = f1(stream(begun, "forgot", replay_ratio=0.0, lr=3.0, towers=1.0), old, OLD)
    print(before, after, new, forgetful)
    assert before > 0.7
    assert after > 0.97 * before and new > 0.6
    assert forgetful < 0.8 * before, "without rehearsal it forgets: the test can fail"
    # Scores spread further, update by update; what makes them probabilities follows.
    assert slope(last) < 0.7 * slope(begun / "v0" / "model")
    for number in (1, 5, 9):
        parent, child = (begun / f"kept-{at}" / "model" for at in (number - 1, number))
        rows, tags = parent / "reservoir.parquet", load_bundle(parent).num_tags
        wider = spread(child, rows, tags) / spread(parent, rows, tags)
        assert slope(parent) / slope(child) == pytest.approx(wider, rel=1e-4)
    kept = pq.read_table(last / "reservoir.parquet")
    assert len(kept) == 150
    held = pc.value_counts(pc.list_flatten(kept.column("tags"))).to_pylist()
    count = {pair["values"]: pair["counts"] for pair in held}
    assert set(count) == {*OLD, *LATER} and min(count.values()) >= 8
    grown = load_bundle(last)
    assert grown.vocabulary.names[:8] == tuple(OLD) and set(grown.vocabulary.names[8:]) == set(
        LATER
    )
