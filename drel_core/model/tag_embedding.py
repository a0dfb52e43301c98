"""Rows of the tag-embedding table and their optimiser, on one device.

The table is no ``nn.Parameter``. A step reads the rows that it needs, gets their gradient and writes them
back, so that its cost does not grow with T.

Shapes: T tags, n of them held here, E embedding size, P pool rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from drel_core.model.towers import ModelConfig, init_embedding_rows

TableOptimiser = Literal["rowwise-adagrad", "sgd"]


@dataclass(kw_only=True)
class TableConfig:
    """How tag embeddings learn."""

    optimiser: TableOptimiser = "rowwise-adagrad"
    """rowwise-adagrad keeps one number per row; sgd is the paper's"""
    lr: float = 0.05
    """learning rate of the table; follows the same schedule as the towers'"""
    share: float = 1.0
    """share of `lr` that is taken; jobs.update sets it"""
    eps: float = 1e-8
    """added to the square root of a row's state"""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"table.lr is {self.lr}; it must be above 0")
        if not self.share > 0:
            raise ValueError(f"table.share is {self.share}; it must be above 0")


class TagEmbedding:
    """Rows ``[start, stop)`` of the table, each with one float of optimiser state.

    Args:
        start, stop: the tag ids held here; a plain, unsharded table holds ``0, T``.
        model: gives E and the distribution of first values.
        config: optimiser.
        seed: with the tag id, decides a row's first value.
    """

    def __init__(
        self, start: int, stop: int, model: ModelConfig, config: TableConfig, seed: int
    ) -> None:
        self.start, self.stop = start, stop
        self.config = config
        self.max_norm = model.max_norm
        self.weight_nE = init_embedding_rows(torch.arange(start, stop), model, seed)
        self.state_n = torch.zeros(stop - start)

    def to(self, device: torch.device) -> TagEmbedding:
        self.weight_nE, self.state_n = self.weight_nE.to(device), self.state_n.to(device)
        return self

    def rows(self, tag_P: Tensor) -> Tensor:
        """A copy ``[P, E]`` of these tags' rows: a leaf tensor, which collects their gradient."""
        return self.weight_nE.index_select(0, tag_P - self.start).requires_grad_()

    @torch.no_grad()
    def apply_gradient(self, tag_P: Tensor, gradient_PE: Tensor, lr: float) -> None:
        """Update the rows of these tags, which must be different, by one step of the optimiser."""
        row_P = tag_P - self.start
        if self.config.optimiser == "rowwise-adagrad":
            gradient_PE = row_wise_adagrad(self.state_n, row_P, gradient_PE, self.config.eps)
        self.weight_nE.index_add_(0, row_P, gradient_PE, alpha=-lr)
        if self.max_norm:
            rows_PE = self.weight_nE.index_select(0, row_P).renorm_(2, 0, self.max_norm)
            self.weight_nE.index_copy_(0, row_P, rows_PE)


def row_wise_adagrad(state_n: Tensor, row_P: Tensor, gradient_PE: Tensor, eps: float) -> Tensor:
    """Gradients ``[P, E]`` divided by the square root of each row's accumulator, which is updated in place.

    Adagrad (Duchi et al., 2011) with one accumulator per row, the sum of the mean squares of its gradients,
    as large embedding tables use it (Lerer et al., 2019, PyTorch-BigGraph, section 3). Rows must be
    different.
    """
    seen_P = state_n.index_select(0, row_P) + gradient_PE.square().mean(1)
    state_n.index_copy_(0, row_P, seen_P)
    return gradient_PE / (seen_P.sqrt() + eps)[:, None]
