"""Ray Train's list of checkpoints is made anew where a full disk has emptied it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from distributed.data.blocks import inline_blocks
from distributed.driver.checkpoint_list import LIST, keep_copy, mend
from distributed.storage.folder import Folder
from distributed.training.build import build_learner
from distributed.training.config import CheckpointConfig
from distributed.training.model_trainer import ModelTrainer
from distributed.training.run_spec import RunSpec
from tests.helpers.training import surveyed


class NamedFoldersIO:
    """Keeps checkpoints under the names that a worker of Ray Train gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[str, dict[str, float]] = {}

    def log(self, line: str) -> None:
        """Nobody watches."""

    def save(self, folder: Path, metrics: dict[str, float]) -> None:
        name = f"epoch-{metrics['epoch']:05d}-step-{metrics['step']:08d}-of-1-abcdef"
        shutil.copytree(folder, self.folder / name)
        self.metrics[name] = metrics

    def validated(self, epoch: int, metrics: dict[str, float]) -> None:
        """Nobody waits for them."""


@pytest.fixture
def run(tmp_path: Path) -> NamedFoldersIO:
    """Four checkpoints: after steps 5, 10 and 15, and at the end, after 20."""
    config, survey = surveyed(tmp_path, 80)
    config.epochs, config.batch_size = 4, 16
    config.checkpoint = CheckpointConfig(every=5)
    config.decision.held_out = 0.0
    spec = RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0})
    io = NamedFoldersIO(tmp_path / "checkpoints")
    blocks = inline_blocks(config.data.columns, survey.names)
    trainer = ModelTrainer(spec, build_learner(spec, torch.device("cpu")), blocks, io)  # type: ignore[type-var]
    trainer.fit()
    return io


def listed(folder: Path) -> list[str]:
    content = json.loads((folder / LIST).read_text())
    assert content["latest_checkpoint_result"] == content["checkpoint_results"][-1]
    assert content["current_report_index"] == len(content["checkpoint_results"])
    return [one["checkpoint_dir_name"] for one in content["checkpoint_results"]]


@pytest.mark.parametrize("broken", [b"", b'{"checkpoint_res', b"[]"])
def test_a_list_that_is_none_is_made_anew_from_whole_folders(
    run: NamedFoldersIO, broken: bytes
) -> None:
    names = sorted(run.metrics)
    assert len(names) == 4
    (run.folder / LIST).write_bytes(broken)
    cut = run.folder / names[3] / "__0_0.distcp"  # the disk was full in the middle of it
    cut.write_bytes(cut.read_bytes()[:-100])
    (run.folder / names[2] / ".metadata").unlink()
    lines = list[str]()
    mend(Folder(str(run.folder)), lines.append)
    assert listed(run.folder) == names[:2]
    content = json.loads((run.folder / LIST).read_text())
    kept = {one["checkpoint_dir_name"]: one["metrics"] for one in content["checkpoint_results"]}
    assert kept == {name: run.metrics[name] for name in names[:2]}
    (line,) = lines
    assert f"({len(broken)} bytes: a full disk?); made anew from 2 whole checkpoints" in line
    mend(Folder(str(run.folder)), lines.append)
    assert len(lines) == 1  # it is one now


def test_a_good_list_stays_and_has_a_copy(run: NamedFoldersIO) -> None:
    folder = Folder(str(run.folder))
    mend(folder, lambda line: pytest.fail(line))  # none yet
    assert not folder.has(LIST)
    good = json.dumps({"checkpoint_results": [], "mine": 1}).encode()
    folder.write(LIST, good)
    mend(folder, lambda line: pytest.fail(line))
    keep_copy(folder)
    folder.write(LIST, b"")
    keep_copy(folder)  # of what is none there is no copy
    assert folder.read(LIST) == b""
    assert folder.read("checkpoint_manager_snapshot.last.json") == good
