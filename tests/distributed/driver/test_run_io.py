"""Where runs report to: what Ray Train and Ray Tune are given."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray import tune

from distributed.driver.ray_train_io import PROGRESS, RayTrainIO
from distributed.driver.search import SearchIO
from distributed.storage.folder import Folder


class Coordinator:
    """Stands for the actor's handle."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = SimpleNamespace(remote=self.lines.append)


@pytest.fixture
def io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayTrainIO:
    """Of rank 0 of three."""
    context = SimpleNamespace(get_world_size=lambda: 3, get_world_rank=lambda: 0)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    return RayTrainIO(Coordinator(), Folder(str(tmp_path)), "abc")


def test_lines_go_to_the_driver_and_into_a_file(io: RayTrainIO, tmp_path: Path) -> None:
    io.log("one")
    io.log("two")
    assert io.coordinator.lines == ["one", "two"]
    assert (tmp_path / PROGRESS).read_text() == "one\ntwo\n"


def test_each_attempt_names_its_checkpoints_anew(
    io: RayTrainIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray.train, "report", lambda metrics, **more: given.update(more))
    io.save(tmp_path, {"epoch": 2, "step": 7, "score": -1.0, "done": 9})
    assert given["checkpoint_dir_name"] == "epoch-00002-step-00000007-of-3-abc"


def test_the_best_checkpoint_is_the_last_of_its_epoch(
    io: RayTrainIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(name: str, epoch: int, step: int) -> Any:
        checkpoint = SimpleNamespace(as_directory=lambda: nullcontext(name))
        return SimpleNamespace(checkpoint=checkpoint, metrics={"epoch": epoch, "step": step})

    known = [saved("cut off", 2, 0), saved("within", 2, 5), saved("again", 2, 0), saved("x", 3, 0)]
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", lambda **_: known)
    with io.best(2) as folder:
        assert folder == Path("again")


def test_a_notice_counts_once(io: RayTrainIO, monkeypatch: pytest.MonkeyPatch) -> None:
    notices = [None, 100, 100, 200, None, 200]
    leaving = iter([n and SimpleNamespace(deadline_ms=n) for n in notices])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(leaving))
    assert [io.preempted() for _ in notices] == [False, True, False, True, False, False]


def test_a_trial_reports_its_last_checkpoint_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[dict[str, Any], str | None]] = []

    def report(metrics: dict[str, Any], checkpoint: Any) -> None:
        if checkpoint is not None:
            assert Path(checkpoint.path).is_dir()
        reported.append((metrics, checkpoint and checkpoint.path))

    monkeypatch.setattr(tune, "report", report)
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    found = {"F1": 0.5, "N+": 3, "mP": 0.4, "mR": 0.6, "oF1": 0.5, "other": 1}
    io = SearchIO()
    io.save(folders[0], {})
    io.save(folders[1], {})
    io.validated(1, found)
    io.validated(2, found)
    io.save(folders[2], {})
    io.validated(3, found)
    assert [path for _, path in reported] == [str(folders[1]), None, str(folders[2])]
    assert reported[0][0] == {"epoch": 1, **{key: found[key] for key in found if key != "other"}}
    assert not any(folder.exists() for folder in folders)


def test_a_trial_that_is_ended_while_it_reports_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(metrics: dict[str, Any], checkpoint: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(tune, "report", stop)
    folder = tmp_path / "saved"
    folder.mkdir()
    io = SearchIO()
    io.save(folder, {})
    with pytest.raises(SystemExit):
        io.validated(1, dict.fromkeys(("F1", "N+", "mP", "mR", "oF1"), 0.0))
    assert not folder.exists()
