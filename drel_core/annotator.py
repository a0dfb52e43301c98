"""The one face of everything that annotates images."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Annotator(Protocol):
    """Scores every tag of the vocabulary for each image; higher is more relevant."""

    name: str
    num_tags: int

    def scores(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, T]`` of raw features ``[B, D]``."""
        ...
