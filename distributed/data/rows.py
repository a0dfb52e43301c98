"""Rows of a store as tensors. torch alone is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drel_core.scoring.tag_lists import TagLists


@dataclass(frozen=True)
class Rows:
    """Features ``[B, D]`` in stored dtype and the rows' tag ids."""

    features_BD: Tensor
    tags: TagLists

    def __len__(self) -> int:
        return len(self.features_BD)

    def select(self, index: Tensor) -> Rows:
        return Rows(self.features_BD.index_select(0, index), self.tags.select(index))

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        if len(parts) == 1:
            return parts[0]
        return Rows(
            torch.cat([part.features_BD for part in parts]),
            TagLists.cat([part.tags for part in parts]),
        )
