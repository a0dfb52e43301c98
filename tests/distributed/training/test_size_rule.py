"""Settings that follow from the size of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distributed.training.config import DataConfig, TrainConfig, config_from
from distributed.training.size_rule import DataSize, apply_size_rule, settled
from drel_core.auto import AUTO

ROOT = Path(__file__).parents[3]


def default() -> TrainConfig:
    """The default preset, on no data."""
    preset = yaml.safe_load((ROOT / "jobs" / "presets" / "best.yaml").read_text("utf-8"))
    config = config_from(TrainConfig, {**preset, "data": DataConfig(train=""), "out": ""})
    return replace(
        config, model=replace(config.model, power=1.0)
    )  # follows from features, not from size


@pytest.mark.parametrize(
    ("rows", "tags", "dim", "expected"),
    [
        (4500, 374, 1280, {"epochs": 30, "batch_size": 128, "model.dropout": 0.3}),
        (200_000, 20_000, 256, {"epochs": 5, "batch_size": 2048}),
        (
            20_000,
            983,
            500,
            {"epochs": 20, "batch_size": 256, "optim.weight_decay": 1.0, "reservoir.rows": 2048},
        ),
        (100_000, 10_000, 256, {"epochs": 8, "batch_size": 1024, "optim.weight_decay": 0.2}),
        (100_000, 10_000, 256, {"reservoir.rows": 10_000}),
        (
            1_000_000,
            100_000,
            256,
            {"epochs": 2, "batch_size": 4096, "model.input_dropout": 0.0, "model.scale": 23.03},
        ),
        (9500, 1000, 256, {"model.input_dropout": 0.0375, "model.dropout": 0.0225}),
        (12_920, 983, 500, {"model.input_dropout": 0.1462, "optim.weight_decay": 1.0}),
        (20_000, 983, 1280, {"model.input_dropout": 0.256}),
        (100_000, 10_000, 256, {"model.input_dropout": 0.0375, "model.dropout": 0.0225}),
        (20_000, 983, 2500, {"model.input_dropout": 0.5}),
        (500, 1, 256, {"epochs": 30, "batch_size": 128}),
        (200_000_000, 500_000, 256, {"epochs": 1, "batch_size": 4096, "reservoir.rows": 32_768}),
    ],
)
def test_the_rule_at_every_size(rows: int, tags: int, dim: int, expected: dict[str, float]) -> None:
    config, line = apply_size_rule(default(), DataSize(rows, tags, dim))
    found = settled(config)
    assert {name: found[name] for name in expected} == expected
    assert AUTO not in found.values()
    assert all(f"{name} {value:g}" in line for name, value in expected.items())


def test_more_rows_never_mean_more_regularisation_or_more_epochs() -> None:
    before = None
    for rows in (1000, 5000, 20_000, 21_000, 60_000, 300_000, 2_000_000, 50_000_000):
        found = settled(apply_size_rule(default(), DataSize(rows, 5000, 1280))[0])
        kept = [found[name] for name in ("epochs", "optim.weight_decay", "model.dropout")]
        assert before is None or all(now <= then for now, then in zip(kept, before, strict=True))
        before = kept


def test_what_is_given_stays() -> None:
    config = default()
    config = replace(config, epochs=3, model=replace(config.model, dropout=0.0))
    found, line = apply_size_rule(config, DataSize(4500, 374, 1280))
    assert found.epochs == 3 and found.model.dropout == 0.0
    assert "epochs" not in line and "model.dropout" not in line


def test_a_configuration_without_open_settings_is_left_alone() -> None:
    config, _ = apply_size_rule(default(), DataSize(4500, 374, 1280))
    assert apply_size_rule(config, DataSize(9_000_000, 80, 64)) == (config, "")
