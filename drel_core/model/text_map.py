"""What the names of tags add to their embeddings.

With y_t the row of tag t in the table and v_t the text vector of its name,

    e_t = y_t + w P (v_t - m) / |v_t - m|        m: the mean of all v_t

is its embedding. P and w are learned with the towers, from all tags: what the names of frequent tags tell of
images carries over to rare ones. A tag without a text vector has y_t alone. After training the sum is written
into the table: nothing that reads a model knows of it.

Shapes: P tags of a pool, d size of text vectors, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

START = 1.0


class TextMap(nn.Module):
    """P and w.

    Args:
        mean_d: m, of the text vectors of the vocabulary.
        tag_dim: E.
        std: standard deviation of rows of the table at the start; the mapped vectors begin with the same.
    """

    mean_d: Tensor

    def __init__(self, mean_d: Tensor, tag_dim: int, std: float, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean_d", mean_d.clone().float())
        generator = torch.Generator().manual_seed(seed)
        map_Ed = torch.randn(tag_dim, len(mean_d), generator=generator) * std
        self.map_Ed = nn.Parameter(map_Ed)
        self.weight = nn.Parameter(torch.tensor(START))

    def forward(self, text_Pd: Tensor) -> Tensor:
        """``[P, E]`` of text vectors; 0 where a vector is 0."""
        has_P1 = text_Pd.abs().sum(1, keepdim=True) > 0
        centred_Pd = (text_Pd.float() - self.mean_d) * has_P1
        length_P1 = centred_Pd.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return self.weight * ((centred_Pd / length_P1) @ self.map_Ed.T)
