"""The picture of a run's loss has a line for every run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks.loss_curve import draw, losses


def test_a_line_for_every_run(tmp_path: Path) -> None:
    for run in ("one", "other"):
        with SummaryWriter(str(tmp_path / run / "tensorboard")) as writer:
            for step, loss in ((10, 1.0), (20, 0.5)):
                writer.add_scalar("train/loss", loss, step)
    assert losses(tmp_path / "one") == ([10, 20], [1.0, 0.5])
    svg = tmp_path / "loss.svg"
    draw({name: tmp_path / name for name in ("one", "other")}, svg)
    content = svg.read_text("utf-8")
    assert "<!-- one -->" in content and "<!-- other -->" in content and len(content) < 60_000


def test_a_folder_without_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no losses in tensorboard"):
        losses(tmp_path)
