"""What one training run is: its workers are sent this, and nothing else that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed.data.survey import StoreSurvey
from distributed.training.config import TrainConfig
from distributed.training.tag_text import RunText
from distributed.training.warm_start import ParentBundle


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The same on all workers and in all attempts of a run.

    Attributes:
        config: every option.
        survey: the rows to train on, their vocabulary and statistics.
        features: what the store's manifest says of its features; goes into the bundle.
        codebook: float32 ``[K, 128]``, the visual words of low-level features; goes into the bundle.
        text: where the text vectors of the tags lie; they go into the bundle. None: there are none.
        fingerprint: what a checkpoint must agree with to be resumed from.
        parent: the older bundle that the run starts from; None for a new model.
        warnings: what was wrong before it began; the bundle keeps it.
    """

    config: TrainConfig
    survey: StoreSurvey
    features: dict[str, Any] | None
    fingerprint: Mapping[str, Any]
    parent: ParentBundle | None = None
    warnings: tuple[str, ...] = ()
    codebook: np.ndarray | None = None
    text: RunText | None = None

    @property
    def origin(self) -> dict[str, Any]:
        """What the bundle says of the images that it has learned from, and of the parent."""
        if self.parent is None:
            return {"images": self.survey.train_rows}
        return {
            "images": self.parent.images + self.parent.new_images,
            "parent": self.parent.version,
            "new_images": self.parent.new_images,
            "new_tags": len(self.survey.names) - self.parent.num_tags,
        }
