"""Thresholds from training over an update to the scorer: what is not there is said, what is there is kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import CheckpointConfig, DataConfig, TrainConfig
from distributed.training.optim import OptimConfig
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import THRESHOLDS, read_thresholds
from drel_core.errors import InputError
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from tests.helpers.bundles import write_drel
from tests.helpers.stores import planted_table


def learn(folder: Path, table: pa.Table, method: str = "drel") -> list[str]:
    """Train into ``folder/v1`` with a fifth of the rows held out; the lines of progress."""
    pq.write_table(table, folder / "train.parquet")
    config = TrainConfig(
        data=DataConfig(train=str(folder / "train.parquet"), validation=0.2),
        out=str(folder / "v1"),
        method=method,  # type: ignore[arg-type]
        epochs=3,
        batch_size=32,
        checkpoint=CheckpointConfig(every=10**9),
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=8, latent=8),
        table=TableConfig(lr=0.05),
        loss=LossConfig(kind="smooth"),
        optim=OptimConfig(optimiser="adamw", lr=0.01),
    )
    lines: list[str] = []
    train.run(config, lines.append, launcher=launch)
    return lines


def teach(folder: Path, table: pa.Table, validation: float = 0.0) -> list[str]:
    """Update ``v1`` to ``v2``; the lines of progress."""
    pq.write_table(table, folder / "new.parquet")
    config = UpdateConfig(
        model=str(folder / "v1"),
        out=str(folder / "v2"),
        data=UpdateData(new=str(folder / "new.parquet"), validation=validation),
        epochs=2,
    )
    lines: list[str] = []
    update.run(config, lines.append, launcher=launch)
    return lines


def with_tags(table: pa.Table, tags: list[list[str]]) -> pa.Table:
    return table.set_column(2, "tags", pa.array(tags, pa.list_(pa.string())))


@pytest.mark.parametrize("method", ["drel", "popularity"])
def test_without_a_cut_there_is_no_threshold_and_the_bundle_loads(
    tmp_path: Path, method: str
) -> None:
    table = planted_table(200)
    alone = with_tags(table, [[f"only {row}"] for row in range(200)])
    lines = learn(tmp_path, alone, method)
    (said,) = [line for line in lines if "no per-tag thresholds" in line]
    held_out = 200 - len(load_bundle(tmp_path / "v1").vocabulary)
    assert f"none of {held_out} held-out images" in said
    assert read_thresholds(tmp_path / "v1" / "model") is None
    if method == "drel":
        more = with_tags(planted_table(60, first=500), [[f"new {row}"] for row in range(60)])
        lines = teach(tmp_path, more, validation=0.2)
        assert any("no per-tag thresholds" in line for line in lines)
        assert any("rows are held out for validation" in line for line in lines)
        assert read_thresholds(tmp_path / "v2" / "model") is None
        assert load_bundle(tmp_path / "v2").num_tags > 200 - held_out


def test_an_update_keeps_the_thresholds_of_old_tags(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400))
    before_T = read_thresholds(tmp_path / "v1" / "model")
    assert before_T is not None and len(before_T) == 12
    table = planted_table(60, seed=2, first=1000)
    tags = [[*row, "zebra"] for row in table.column("tags").to_pylist()]
    lines = teach(tmp_path, with_tags(table, tags))
    after_T = read_thresholds(tmp_path / "v2" / "model")
    assert after_T is not None and torch.equal(after_T[:12], before_T)
    assert load_bundle(tmp_path / "v2").vocabulary.names[12] == "zebra"
    assert after_T[12] == pytest.approx(float(before_T.double().quantile(0.5)))
    assert any("thresholds are those of the older model" in line for line in lines)


def test_an_update_that_holds_rows_out_learns_thresholds_anew(tmp_path: Path) -> None:
    learn(tmp_path, planted_table(400))
    before_T = read_thresholds(tmp_path / "v1" / "model")
    teach(tmp_path, planted_table(300, seed=2, first=1000), validation=0.5)
    after_T = read_thresholds(tmp_path / "v2" / "model")
    assert before_T is not None and after_T is not None
    assert (after_T != before_T).sum() > 8


def test_infinite_thresholds_of_before_are_none_and_others_are_refused(tmp_path: Path) -> None:
    model = write_drel(tmp_path / "model")
    save_file({"threshold": torch.full((12,), torch.inf)}, model / THRESHOLDS)
    assert read_thresholds(model) is None
    spoiled_T = torch.zeros(12)
    spoiled_T[3] = torch.inf
    save_file({"threshold": spoiled_T}, model / THRESHOLDS)
    with pytest.raises(InputError, match="NaN or Inf"):
        read_thresholds(model)
