"""`python -m jobs.tune`: a search that is killed goes on, and what it finds trains."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from distributed.driver.search import SPACE, domains, with_values
from distributed.training.config import DataConfig, TrainConfig
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from jobs.train import parse
from tests.conftest import Job
from tests.helpers.commands import start
from tests.helpers.stores import write_planted


def test_a_killed_search_goes_on_and_its_best_trains(tmp_path: Path, ray_job: Job) -> None:
    train = write_planted(tmp_path / "train.parquet", 400, each=2)
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {low: 0.0001, high: 0.01, log: true}\nmodel.latent: [16, 32]\n")
    rules = tmp_path / "vocabulary.yaml"
    rules.write_text("aliases: {tag-01: tag-00}\nimplies: {tag-02: thing}\nblocked: [tag-03]\n")
    out = tmp_path / "out"
    arguments = [
        "--data.train",
        str(train),
        "--tags.vocabulary",
        str(rules),
        "--out",
        str(out),
        "--trials",
        "3",
        "--epochs",
        "3",
        "--k",
        "2",
        "--space",
        str(space),
        "--grace",
        "3",
    ]
    process = start("tune", *arguments)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 1/3"):
            break
    else:
        assert process.stderr is not None
        raise AssertionError(process.stderr.read())
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "best.yaml").exists()

    again = ray_job("tune", *arguments)
    assert again.returncode == 0, again.stderr
    assert "going on with the trials" in again.stdout
    assert "trial 3/3" in again.stdout  # those of before count
    trials = json.loads((out / "trials.json").read_text("utf-8"))
    assert len(trials) == 3
    assert f"--data.train PATH --tags.vocabulary {rules} --out DIR" in again.stdout
    note = json.loads((out / "tune.json").read_text("utf-8"))
    assert note["tags.vocabulary"] == TagRules.load(rules).digest
    said = line + again.stdout
    reached = [float(f1) for f1 in re.findall(r"validation F1 ([0-9.]+) in", said)]
    assert len(reached) >= 3, said  # one that ended just before the kill may be told again
    for name in (r"best so far ([0-9.]+)", r"best F1 ([0-9.]+)"):
        assert float(re.findall(name, said)[-1]) == max(reached), said
    assert [t["F1"] for t in trials] == sorted((t["F1"] for t in trials), reverse=True)
    best = yaml.safe_load((out / "best.yaml").read_text("utf-8"))
    assert best["model"]["latent"] == trials[0]["values"]["model.latent"]
    assert best["optim"]["lr"] == trials[0]["values"]["optim.lr"]
    config, _, _ = parse(
        [
            "--config",
            str(out / "best.yaml"),
            "--data.train",
            str(train),
            "--out",
            str(tmp_path / "model"),
        ]
    )
    assert (config.epochs, config.optim.lr) == (3, best["optim"]["lr"])
    events = [path.read_bytes() for path in (out / "trials").rglob("events.out*")]
    assert any(b"_hparams_" in data for data in events)

    other = ray_job("tune", *arguments, "--seed", "5")
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "holds a search with another" in other.stderr and "seed" in other.stderr


def test_a_space_is_checked_before_anything_starts() -> None:
    config = TrainConfig(data=DataConfig(train="x"), out="y")
    assert domains(SPACE, config).keys() == SPACE.keys()
    assert with_values(config, {"model.latent": 7, "batch_size": 9}).model.latent == 7
    assert config.model.latent == 1024
    wrong = [
        ({"model.depth": [1]}, "no option 'model.depth'"),
        ({"model.latent.x": [1]}, "no option"),
        ({"optim.lr": {"low": 1, "high": 1}}, "low < high"),
        ({"optim.lr": {"low": 0, "high": 1, "log": True}}, "low above 0"),
        ({"optim.lr": 3}, "a list of choices"),
        ({"model.dropout": [0.1, 1.5]}, "must be in"),
    ]
    for space, message in wrong:
        with pytest.raises(InputError, match=message):
            domains(space, config)
