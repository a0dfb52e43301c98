"""How an update learns: from the numbers of new, rehearsed and known rows, or as it is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distributed.driver.update_config import UpdateConfig, training_config
from distributed.driver.update_rule import UpdateRows, apply_update_rule
from distributed.storage.folder import Folder
from distributed.training.config import DataConfig, TrainConfig
from drel_core.bundle.info import BundleInfo


def settled(rows: UpdateRows, trained: int = 64, **options: float) -> tuple[TrainConfig, str]:
    """Of a model with learning rates .1 and .2 and batches of ``trained``, whose own update took shares of
    them."""
    before = TrainConfig(data=DataConfig(train="x"), out="y", batch_size=trained)
    before = replace(
        before,
        optim=replace(before.optim, lr=0.1, share=0.3),
        table=replace(before.table, lr=0.2, share=0.5),
        reservoir=replace(before.reservoir, rows=700),
    )
    config = UpdateConfig(model="m", out="o", **options)  # type: ignore[arg-type]
    training = training_config(config, BundleInfo("drel", config=asdict(before)), Folder.of("o"))
    return apply_update_rule(training, config, rows)


@pytest.mark.parametrize(
    ("new", "rehearsed", "known", "passes", "towers"),
    [
        (1_050, 2_048, 2_764, 12, 0.9),
        (50, 2_048, 4_500, 12, 0.68),
        (2_500, 10_000, 100_000, 3, 0.35),
        (25_000, 32_768, 1_000_000, 2, 0.24),
        (10_000, 0, 200_000_000, 2, 0.01),
        (900, 900, 0, 12, 1.0),
    ],
)
def test_the_rule_at_every_size(
    new: int, rehearsed: int, known: int, passes: int, towers: float
) -> None:
    config, line = settled(UpdateRows(new, rehearsed, known))
    assert config.epochs == passes and config.optim.share == towers and config.table.share == 1
    assert line == (
        f"learns {passes} passes, tags at 1 and towers at {towers:g} of the older model's rates, "
        f"rehearses {rehearsed} of {known} older images (docs/reference/settings.md)"
    )


@pytest.mark.parametrize(
    ("known", "trained", "asked", "batch"),
    [
        (4_500, 128, -1, 128),
        (100_000, 1024, -1, 512),
        (1_000_000, 4096, -1, 1024),
        (1_000_000, 32, -1, 32),
        (1_000_000, 4096, 0, 4096),
        (1_000_000, 4096, 8192, 8192),
    ],
)
def test_batches_follow_from_all_rows_and_are_at_most_the_models(
    known: int, trained: int, asked: int, batch: int
) -> None:
    rows = UpdateRows(new=100, rehearsed=100, known=known)
    assert settled(rows, trained, batch_size=asked)[0].batch_size == batch


def test_shares_are_of_the_rates_of_the_first_model() -> None:
    config, _ = settled(UpdateRows(new=100, rehearsed=100, known=900), lr=0.5, towers=0.1)
    assert (config.optim.lr, config.table.lr) == (0.1, 0.2)
    assert config.optim.share == pytest.approx(0.05) and config.table.share == 0.5
    assert config.batch_size == 64 and config.reservoir.rows == 700


def test_what_is_given_stays() -> None:
    config, line = settled(UpdateRows(100, 100, 900), epochs=3, towers=0.25, batch_size=8)
    assert config.epochs == 3 and config.optim.share == 0.25 and config.batch_size == 8
    assert line.startswith("learns 3 passes, tags at 1 and towers at 0.25 of the older model's")


def test_bad_options_are_refused() -> None:
    for name, value in (("towers", 0.0), ("epochs", 0), ("lr", -1.0), ("batch_size", -2)):
        with pytest.raises(ValueError, match=name):
            UpdateConfig(model="m", out=str(Path("o")), **{name: value})  # type: ignore[arg-type]
