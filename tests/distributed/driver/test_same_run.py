"""What makes a run the same run: options and data that decide the model, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.train
import jobs.update
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver import train
from distributed.driver.in_process import launch
from distributed.driver.train import fingerprint
from distributed.storage.resume import differing, digest
from distributed.training.config import DataConfig, TrainConfig, with_option
from drel_core.errors import InputError
from tests.helpers.commands import SMALL
from tests.helpers.stores import write_planted


def other_features(table: pa.Table) -> pa.Table:
    """The same ids and tags, and the same features in another order of rows."""
    features = np.stack(table.column("features").to_numpy(zero_copy_only=False))[::-1]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    return table.set_column(1, "features", flat)


def other_tags(table: pa.Table) -> pa.Table:
    """The same counts, on other images."""
    return table.set_column(
        2, "tags", table.column("tags").take(pa.array([1, 0, *range(2, len(table))]))
    )


def survey(path: Path) -> StoreSurvey:
    return survey_store(FeatureStore.open(str(path)), "fail")


def popularity(path: Path, out: Path) -> TrainConfig:
    return TrainConfig(data=DataConfig(train=str(path)), out=str(out), method="popularity")


def test_a_store_that_was_written_again_is_not_what_a_model_was_trained_on(tmp_path: Path) -> None:
    path, lines = write_planted(tmp_path / "base.parquet", 40), list[str]()
    config = popularity(path, tmp_path / "out")
    train.run(config, lines.append)
    train.run(config, lines.append)
    assert lines[-1].endswith("is trained already; scoring it")
    table = pq.read_table(path)
    for changed in (other_features(table), other_tags(table)):
        pq.write_table(changed, path, row_group_size=64)
        with pytest.raises(InputError, match=r"trained with another content\.base\.parquet \("):
            train.run(config, lines.append)
    pq.write_table(table, path, row_group_size=64)
    train.run(config, lines.append)  # what is the same again is taken up, whenever it was written
    assert lines[-1].endswith("is trained already; scoring it")


def test_the_content_of_a_store_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    one = write_planted(tmp_path / "one" / "a.parquet", 40)
    other = write_planted(tmp_path / "other" / "a.parquet", 40)
    assert survey(one).content == survey(other.parent).content
    assert survey(one).content != survey(write_planted(tmp_path / "a.parquet", 40, seed=1)).content


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("k", 3),
        ("reservoir.rows", 7),
        ("model.latent", 9),
        ("optim.lr", 0.5),
        ("decision.held_out", 0.11),
        ("svm.folds", 4),
    ],
)
def test_an_option_that_decides_the_model_is_named(
    tmp_path: Path, option: str, value: float
) -> None:
    found = survey(write_planted(tmp_path / "a.parquet", 40))
    config = popularity(tmp_path / "a.parquet", tmp_path)
    before = json.loads(json.dumps(fingerprint(config, found)))
    now = fingerprint(with_option(config, option, value), found)
    assert list(differing(before, now)) == [option]


def test_how_fast_a_run_goes_is_no_part_of_it(tmp_path: Path) -> None:
    found = survey(write_planted(tmp_path / "a.parquet", 40))
    config = popularity(tmp_path / "a.parquet", tmp_path)
    before = json.loads(json.dumps(fingerprint(config, found)))
    quicker = replace(config, threads=3, device="cpu", out="elsewhere", decide="macro")
    assert not differing(before, fingerprint(quicker, found))


def test_notes_of_earlier_versions_are_understood(tmp_path: Path) -> None:
    found = survey(write_planted(tmp_path / "a.parquet", 40))
    config = popularity(tmp_path / "a.parquet", tmp_path)
    now = fingerprint(config, found)
    older = json.loads(json.dumps(now))
    for name in ("k", "reservoir", "content"):  # not noted then
        del older[name]
    older["model"] = digest(asdict(config.model))  # a digest then
    del older["loss"]["negatives"]  # an option that came later
    assert not differing(older, now)
    negatives = with_option(config, "loss.negatives", config.loss.negatives + 1)
    assert list(differing(older, fingerprint(negatives, found))) == ["loss.negatives"]
    latent = with_option(config, "model.latent", 9)
    assert list(differing(older, fingerprint(latent, found))) == ["model"]


def test_an_unfinished_run_keeps_what_describes_it(tmp_path: Path) -> None:
    """Another command on its folder is refused before it writes its config.yaml over that of the run."""
    path, out = write_planted(tmp_path / "base.parquet", 40), tmp_path / "out"
    (out / "checkpoints" / "epoch-00001-step-00000000-of-1-abc").mkdir(parents=True)
    (out / "checkpoints" / "epoch-00001-step-00000000-of-1-abc" / "drel.json").write_text("{}")
    config, written = popularity(path, out), list[int]()
    found = fingerprint(config, survey(path))
    (out / "fingerprint.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"another seed.*seed 0 before, 1 now.*; repeat"):
        train.run(
            replace(config, seed=1), lambda line: None, lambda config: written.append(config.seed)
        )
    assert not written and json.loads((out / "fingerprint.json").read_text())["seed"] == 0


def test_an_update_with_other_rows_is_not_the_same_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_planted(tmp_path / "old.parquet", 60)
    new = write_planted(tmp_path / "new.parquet", 30, seed=1, first=1000)
    options = ["--data.train", str(old), "--out", str(tmp_path / "one"), "--epochs", "1", *SMALL]
    jobs.train.main([*options, "--decision.held_out", "0"], launcher=launch)
    options = ["--model", str(tmp_path / "one"), "--data", str(new), "--epochs", "1"]
    jobs.update.main([*options, "--out", str(tmp_path / "two")], launcher=launch)
    jobs.update.main([*options, "--out", str(tmp_path / "two")], launcher=launch)
    assert "is there already" in capsys.readouterr().out
    pq.write_table(other_features(pq.read_table(new)), new, row_group_size=64)
    with pytest.raises(InputError, match=r"another content\.new\.parquet \("):
        jobs.update.main([*options, "--out", str(tmp_path / "two")], launcher=launch)
