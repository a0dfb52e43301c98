"""Every bundle is written with a card, which is no part of its version."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distributed.bundles.open import open_annotator
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import TrainConfig
from drel_core.bundle.card import CARD
from drel_core.bundle.format import content_version, read_info
from drel_core.export.export import MODEL_CARD, export_bundle
from tests.helpers.stores import planted_table
from tests.helpers.training import small_config


def quiet(line: str) -> None:
    pass


def learned(folder: Path, method: str = "drel") -> Path:
    pq.write_table(planted_table(150), folder / "train.parquet")
    config = small_config(folder / "train.parquet", folder / method, epochs=1)
    config = TrainConfig(**{**vars(config), "method": method})
    train.run(config, log=quiet, launcher=launch)
    return folder / method / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("card"))


def test_a_bundle_is_written_with_its_card(model: Path) -> None:
    card, info = (model / CARD).read_text("utf-8"), read_info(model)
    assert f"# Image annotation model {info.version}" in card
    assert "| images | 150 |" in card and "| store | train.parquet |" in card
    assert "decisions `top`, `macro`, `threshold`" in card
    assert "rows left out of a fit | 0." in card and "training rows | 0." in card
    assert "off by 0." in card
    kept = pq.read_metadata(model / "reservoir.parquet").num_rows
    assert f"{kept} training rows" in card
    assert str(model.parent.parent) not in card


def test_the_card_is_no_part_of_the_version(model: Path, tmp_path: Path) -> None:
    assert content_version(model) == read_info(model).version
    again = learned(tmp_path)
    assert read_info(again).version == read_info(model).version
    (again / CARD).unlink()  # as bundles of before
    assert content_version(again) == read_info(model).version
    assert open_annotator(str(again)).info.version == read_info(model).version


@pytest.mark.parametrize("method", ["knn", "popularity"])
def test_other_methods_have_one_too(tmp_path: Path, method: str) -> None:
    card = (learned(tmp_path, method) / CARD).read_text("utf-8")
    assert f"| method | {method}: " in card and "| images | 150 |" in card
    assert "Nothing was measured while it was trained." in card


def test_an_update_writes_its_own(model: Path, tmp_path: Path) -> None:
    pq.write_table(planted_table(40, seed=2, first=1000), tmp_path / "new.parquet")
    config = UpdateConfig(
        model=str(model),
        out=str(tmp_path / "v2"),
        data=UpdateData(new=str(tmp_path / "new.parquet")),
        epochs=1,
    )
    update.run(config, log=quiet, launcher=launch)
    card = (tmp_path / "v2" / "model" / CARD).read_text("utf-8")
    assert f"| made from | version {read_info(model).version}" in card
    assert "| new in this version | 40 images |" in card
    assert "| images | 190 over this version and those before it |" in card


def test_an_export_carries_it(model: Path, tmp_path: Path) -> None:
    export_bundle(model, tmp_path / "out", "torch")
    assert (tmp_path / "out" / MODEL_CARD).read_text() == (model / CARD).read_text()
    assert MODEL_CARD in (tmp_path / "out" / "README.md").read_text()
