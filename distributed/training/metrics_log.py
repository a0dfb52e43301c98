"""What a person follows: progress lines, and TensorBoard."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from distributed.runtime.progress import Log, TimeLeft
from distributed.training import collectives
from distributed.training.divergence import LossCourse
from distributed.training.optim import StepResult
from distributed.training.watch import TRAINING_ROWS
from drel_core.annotators.drel import DRELAnnotator
from drel_core.scoring.floor import beats_floor
from drel_core.scoring.reliability import reliability_table


class MetricsLogger:
    """Adds steps up and prints a line every few seconds (rank 0), TensorBoard beside it.

    Step sums stay tensors until a line is due, so that a GPU is not made to wait at every step.
    """

    def __init__(
        self,
        folder: str,
        epochs: int,
        steps: int,
        first_step: int,
        log: Log,
        every_seconds: float = 3.0,
        first_loss: float | None = None,
    ) -> None:
        self.log = log
        self.epochs, self.steps, self.every = epochs, steps, every_seconds
        self.writer = (
            SummaryWriter(folder, purge_step=first_step or None)
            if collectives.rank() == 0
            else None
        )
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.images = 0
        self.last = time.perf_counter()
        self.first_step, self.taken = first_step, 0
        self.left = TimeLeft(steps - first_step)
        self.total_images = 0
        self.total_triplets = 0.0
        self.quality = ""  # what the last look at rows showed
        self.is_good = False  # it was above the popularity floor
        self.course = LossCourse(steps, first_loss, first_step == 0)
        self.warned = False

    def step(self, result: StepResult, images: int) -> None:
        s = result.stats
        self.course.step(torch.stack([s.loss, s.weight]))
        self.pending.append(
            (
                torch.stack([s.loss, s.weight, s.triplets.float(), s.active.float(), s.violation]),
                result.gradient_norm,
            )
        )
        self.images += images
        self.total_images += images
        self.taken += 1
        self.left.note(self.taken)

    def due(self) -> bool:
        """Rank 0's clock; only rank 0 prints, with its own sums, so no collective is needed."""
        return time.perf_counter() - self.last >= self.every

    def line(self, epoch: int, global_step: int, rate: float, world: int) -> None:
        """Print and log the steps since the last line (sums of this rank, scaled to all ranks)."""
        if not self.pending:
            return
        now = time.perf_counter()
        loss, weight, triplets, active, violation = (
            torch.stack([sums for sums, _ in self.pending]).sum(0).tolist()
        )
        norm = float(torch.stack([norm for _, norm in self.pending]).mean())
        seconds = now - self.last
        images = self.images / seconds
        self.total_triplets += triplets * world
        mean_loss = loss / max(weight, 1e-12)
        if self.writer is not None:
            for name, value in {
                "train/loss": mean_loss,
                "train/learning_rate": rate,
                "train/gradient_norm": norm,
                "train/images_per_second": images,
                "train/triplets_per_second": triplets * world / seconds,
                "train/active_triplets": active / max(triplets, 1),
                "train/mined_hardness": violation / max(active, 1),
            }.items():
                self.writer.add_scalar(name, value, global_step)
            self.log(
                f"epoch {epoch + 1}/{self.epochs}  step {global_step}/{self.steps}  "
                f"loss {mean_loss:.4f}{self.quality}  {images:,.0f} images/s"
                f"{self.left.text(global_step - self.first_step)}"
            )
            self.course.line(mean_loss, global_step)
            if self.unmoved and not self.warned and global_step < self.steps:
                self.log(f"WARNING: {self.unmoved}: the model learns nothing so far")
                self.warned = True
        self.pending, self.images, self.last = [], 0, now

    @property
    def unmoved(self) -> str | None:
        """See ``LossCourse``. Some losses stay near their margin while the model learns: what is above the
        floor is not called unmoved."""
        return None if self.is_good else self.course.unmoved

    def looked(self, name: str, found: dict[str, Any], global_step: int) -> None:
        """Show how good the model is.

        Args:
            name: of the rows in TensorBoard: ``validation`` or ``watch``.
            found: metrics of ``WatchedRows``.
        """
        floor = found["floor"]
        where = " of training rows" if found["kind"] == TRAINING_ROWS else ""
        self.quality = (
            f"  F1{where} {found['F1']:.3f} (floor {floor['F1']:.3f})"
            f"  oF1 {found['oF1']:.3f} (floor {floor['oF1']:.3f})"
        )
        self.is_good = beats_floor(found)
        if self.writer is not None:
            for key in ("mP", "mR", "F1", "N+", "oF1", "P@1"):
                self.writer.add_scalar(f"{name}/{key}", found[key], global_step)
            for key, value in floor.items():
                self.writer.add_scalar(f"{name}/floor {key}", value, global_step)

    def projector(self, annotator: DRELAnnotator, limit: int = 10_000) -> None:
        """Tag latents with their names, the most frequent ``limit`` tags."""
        if self.writer is None:
            return
        counts = torch.from_numpy(annotator.vocabulary.counts)
        chosen = counts.argsort(descending=True, stable=True)[:limit]
        names = [annotator.vocabulary.names[tag] for tag in chosen.tolist()]
        self.writer.add_embedding(annotator.tag_TL[chosen], metadata=names, tag="tags")

    def calibration(self, reliability_b2: Tensor) -> None:
        """How often probabilities are right: a curve whose steps are percent of probability, beside the
        straight line that it should be.

        Args:
            reliability_b2: see ``drel_core.scoring.reliability``.
        """
        if self.writer is None:
            return
        for row in reliability_table(reliability_b2):
            percent = round(100 * row["probability"])
            self.writer.add_scalar("calibration/right", row["right"], percent)
            self.writer.add_scalar("calibration/said", row["probability"], percent)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
