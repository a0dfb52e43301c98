"""A training says at its end whether it was worth anything: jobs.train and jobs.update in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.driver.in_process import launch
from distributed.driver.verdict import verdict
from drel_core.bundle.format import read_info
from drel_core.errors import Diverged, InputError
from jobs import train, update
from tests.helpers.commands import SMALL
from tests.helpers.stores import planted_table

PLAIN = (
    *SMALL,
    *("--decision.held_out", "0", "--kernel.landmarks", "0"),
    *("--optim.lr", "0.01", "--table.lr", "0.1", "--epochs", "8"),
)


def tagged(rows: int, **options: int) -> pa.Table:
    return planted_table(rows, tags=40, skewed=True, **options)


def shuffled(table: pa.Table) -> pa.Table:
    """Each image with the features of another."""
    order = np.random.default_rng(5).permutation(len(table))
    features = table.column("features").combine_chunks().take(pa.array(order))
    return table.set_column(1, "features", features)


class Runs:
    """jobs.train and jobs.update on small stores; gives what they print."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd = folder, capfd

    def train(self, table: pa.Table, *options: object, out: str = "v1") -> list[str]:
        pq.write_table(table, self.folder / "train.parquet", row_group_size=256)
        arguments = ("--data.train", self.folder / "train.parquet", "--out", self.folder / out)
        self.capfd.readouterr()
        train.main([str(word) for word in (*arguments, *PLAIN, *options)], launch)
        return self.capfd.readouterr().out.splitlines()

    def update(self, table: pa.Table, *options: object) -> list[str]:
        pq.write_table(table, self.folder / "new.parquet")
        arguments = (
            *("--model", self.folder / "v1", "--data", self.folder / "new.parquet"),
            *("--out", self.folder / "v2"),
        )
        self.capfd.readouterr()
        update.main([str(word) for word in (*arguments, *options)], launch)
        return self.capfd.readouterr().out.splitlines()

    def figures(self, out: str = "v1") -> dict[str, Any]:
        return read_info(self.folder / out / "model").train


@pytest.fixture
def runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Runs:
    return Runs(tmp_path, capfd)


@pytest.mark.parametrize("how", ["held out", "validation", "test"])
def test_features_of_other_images_are_called_hopeless(runs: Runs, how: str) -> None:
    pq.write_table(tagged(300, seed=1, first=9000), runs.folder / "test.parquet")
    options = {
        "held out": ("--data.watch", "300"),
        "validation": ("--data.validation", "0.3"),
        "test": ("--data.test", runs.folder / "test.parquet"),
    }[how]
    lines = runs.train(shuffled(tagged(900)), *options)
    assert lines[-1].startswith("WARNING: the model does not beat the popularity floor on ")
    assert "belong to the same image; else try another --optim.lr (now 0.01)" in lines[-1]
    if how == "test":
        metrics = json.loads((runs.folder / "v1" / "metrics.json").read_text())
        assert metrics["warnings"][-1] == lines[-1].removeprefix("WARNING: ")
        assert "on 300 test images" in lines[-1]
    else:
        watch = runs.figures()["watch"]
        assert f"on {watch['rows']} {watch['kind']}" in lines[-1]
        assert 230 < watch["rows"] < 370 and watch["oF1"] < watch["floor"]["oF1"]


def test_a_good_run_says_that_it_is_above_the_floor(runs: Runs) -> None:
    pq.write_table(tagged(300, seed=1, first=9000), runs.folder / "test.parquet")
    lines = runs.train(tagged(900), "--data.watch", "200")
    watch = runs.figures()["watch"]
    assert watch["kind"] == "held-out rows" and 130 < watch["rows"] < 270
    assert lines[-1].startswith(
        f"above the popularity floor on {watch['rows']} held-out rows: F1 0."
    )
    assert watch["F1"] > 3 * watch["floor"]["F1"] and watch["P@1"] > watch["floor"]["P@1"]
    assert not any("WARNING" in line for line in lines)
    assert any(f", {watch['rows']} held out to watch F1" in line for line in lines)
    (last,) = [line for line in lines if "step " in line][-1:]
    assert f"F1 {watch['F1']:.3f} (floor {watch['floor']['F1']:.3f})" in last
    again = runs.train(tagged(900), "--data.watch", "200")  # it is trained already
    assert again[-1] == lines[-1]


def test_features_of_other_images_are_seen_before_training(runs: Runs) -> None:
    """Training rows can be learned by heart."""
    options = ("--epochs", "40", "--optim.weight_decay", "0", "--model.dropout", "0")
    regular = ("--model.input_dropout", "0", "--model.input_noise", "0")
    lines = runs.train(shuffled(tagged(400)), *options, *regular, "--table.lr", "0.3")
    assert "above the popularity floor on 400 training rows" in lines[-3], "as good as it looks"
    (first, last) = [place for place, line in enumerate(lines) if "no more tags in common" in line]
    assert first < 3 and last == len(lines) - 1
    assert len(runs.figures()["warnings"]) == 1
    info = read_info(runs.folder / "v1" / "model")
    good = {"F1": 0.5, "oF1": 0.5, "P@1": 0.5, "mAP": 0.5, "images": 60}
    floor = {"F1": 0.1, "oF1": 0.1, "P@1": 0.1, "mAP": 0.1}
    judged = verdict(info, {**good, "floor": floor})  # what is seen on test images counts
    assert judged.warnings == [] and len(judged.lines) == 1


def test_training_rows_are_called_training_rows(runs: Runs) -> None:
    lines = runs.train(tagged(900))
    assert "above the popularity floor on 900 training rows" in lines[-2]
    assert "--data.validation 0.1 does" in lines[-1]
    assert any("F1 of training rows 0." in line for line in lines)
    assert runs.figures()["watch"]["kind"] == "training rows"
    assert any(": 900 training images, D = 16" in line for line in lines)


def test_rows_that_a_fit_left_out_tell_more_than_training_rows(runs: Runs) -> None:
    options = ("--decision.held_out", "0.2")
    lines = runs.train(shuffled(tagged(600)), *options, "--epochs", "3")
    assert "does not beat the popularity floor on 120 rows left out of a fit" in lines[-1]
    assert runs.figures()["left_out"]["rows"] == 120


def test_a_learning_rate_that_is_too_high_is_named(runs: Runs) -> None:
    options = ("--optim.lr", "100", "--model.layer_norm", "false", "--model.normalise", "false")
    with pytest.raises(
        Diverged, match=r"lower --optim\.lr \(now 100\) or --table\.lr \(now 0\.1\)"
    ):
        runs.train(tagged(900), *options, "--epochs", "60")
    assert not (runs.folder / "v1" / "model").exists()


def test_a_model_that_does_not_move_says_so(runs: Runs) -> None:
    still = ("--optim.lr", "1e-12", "--table.lr", "1e-12", "--optim.weight_decay", "0")
    # Large batches: the loss at the start is that of one step, and differs by the images in it.
    lines = runs.train(tagged(900), *still, "--batch_size", "450")
    assert lines[-1].startswith("WARNING: the model does not beat the popularity floor")
    assert lines[-2].startswith("WARNING: the loss has not moved from its start")
    assert len(runs.figures()["warnings"]) == 1


def test_what_ends_finite_but_bad_says_so(runs: Runs) -> None:
    lines = runs.train(tagged(900), "--optim.lr", "100", "--optim.weight_decay", "0")
    assert lines[-1].startswith("WARNING: the model does not beat the popularity floor")


def test_an_update_tells_as_well(runs: Runs) -> None:
    runs.train(tagged(900), "--data.watch", "200")
    good = runs.update(tagged(600, seed=3, first=5000), "--data.watch", "150")
    watch = runs.figures("v2")["watch"]
    assert 90 < watch["rows"] < 210 and watch["kind"] == "held-out rows"
    assert good[-1].startswith(f"above the popularity floor on {watch['rows']} held-out rows")


def test_what_is_watched_must_leave_rows_to_learn_from(runs: Runs) -> None:
    with pytest.raises(InputError, match=r"data\.watch 500 holds out more than half of 900 rows"):
        runs.train(tagged(900), "--data.watch", "500")
    lines = runs.train(tagged(900), "--data.watch", "0")
    assert "TensorBoard" in lines[-1] and "watch" not in runs.figures()


def test_a_run_too_small_for_probabilities_says_what_is_needed(runs: Runs) -> None:
    few = runs.train(tagged(99), "--decision.held_out", "0.2", "--epochs", "1", out="few")
    said = [line for line in few if "no probabilities" in line]
    assert len(said) == 1 and "99 images are too few, 100 are needed" in said[0]
    enough = runs.train(tagged(100), "--decision.held_out", "0.2", "--epochs", "1", out="enough")
    held = runs.train(
        tagged(99),
        *("--decision.held_out", "0.2", "--epochs", "1", "--data.validation", "0.1"),
        out="held",
    )
    unasked = runs.train(tagged(99), "--epochs", "1", out="unasked")
    assert not [line for line in (*enough, *unasked) if "no probabilities" in line]
    assert [line for line in held if "rows are held out, 20 are needed" in line]


def test_where_every_tag_is_said_a_smaller_k_is_asked_for(runs: Runs) -> None:
    said = runs.train(tagged(300), "--k", "40", "--data.test", runs.folder / "train.parquet")
    assert "all 40 tags are said of every image: give a smaller --k" in said[-1], said
