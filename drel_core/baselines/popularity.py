"""The popularity floor: the most frequent training tags, for every image alike."""

from __future__ import annotations

import torch
from torch import Tensor


class PopularityAnnotator:
    """Scores a tag by its share of the training pairs, whatever the image."""

    name = "popularity"

    def __init__(self, count_T: Tensor) -> None:
        self.num_tags = len(count_T)
        self.share_T = (count_T.double() / max(1, int(count_T.sum()))).float()

    def scores(self, features_BD: Tensor) -> Tensor:
        return self.share_T.expand(len(features_BD), self.num_tags)

    def topk(self, batch: int, k: int) -> Tensor:
        """Tag ids ``[batch, k]``: no B x T of equal rows is made."""
        order = torch.argsort(self.share_T, descending=True, stable=True)[:k]
        return order.expand(batch, len(order))
