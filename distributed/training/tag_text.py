"""Where rows of the tag table begin when the names of tags have text vectors.

With z_t the random row of tag t, v_t the text vector of its name and m the mean of all v_t, the row begins at

    y_t = (z_t + s P (v_t - m) / |v_t - m|) / sqrt(2)

P is a fixed random matrix of standard normals, s ``model.embedding_std``, which z_t has as well: rows are as
long as random ones, and half of them is the name. Tags whose names mean alike begin alike. From there on rows
are free: what a name says wrongly is unlearned. A tag without a text vector begins at z_t.

The driver has written ``OUT/tag_text.safetensors`` before the workers start (``driver/tag_text.py``). A rank
reads its own rows of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distributed.storage.folder import Folder
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.bundle.tensor_files import open_tensors
from drel_core.bundle.text_vectors import TAG_TEXT
from drel_core.model.towers import ModelConfig

_BLOCK = 65_536


@dataclass(frozen=True)
class RunText:
    """Where the text vectors of a run's tags lie.

    Attributes:
        out: address of the folder that holds their file.
        about: what ``config.json`` says of them.
    """

    out: str
    about: dict[str, Any]


def start_by_names(
    table: ShardedTagEmbedding, config: ModelConfig, text: RunText, seed: int
) -> None:
    """Move this rank's random rows to where their names let them begin."""
    local = table.local
    with Folder.of(text.out).local(TAG_TEXT) as path, open_tensors(path) as file:
        vector, mean_d = file.get_slice("vector"), file.get_tensor("mean")
        for start in range(local.start, local.stop, _BLOCK):
            stop = min(start + _BLOCK, local.stop)
            place = slice(start - local.start, stop - local.start)
            rows_nE = local.weight_nE[place].cpu()
            started = started_rows(rows_nE, vector[start:stop], mean_d, config, seed)
            local.weight_nE[place] = started.to(local.weight_nE.device)


def started_rows(
    rows_nE: Tensor, vector_nd: Tensor, mean_d: Tensor, config: ModelConfig, seed: int
) -> Tensor:
    """``[n, E]``: the equation above.

    Args:
        rows_nE: random rows.
        vector_nd: text vectors, zeros where a name has none.
        mean_d: their mean over the vocabulary.
        seed: with the sizes decides P.
    """
    has_n1 = vector_nd.any(1, keepdim=True)
    centred_nd = vector_nd.float() - mean_d
    unit_nd = centred_nd / centred_nd.norm(dim=1, keepdim=True).clamp_min(1e-6)
    generator = torch.Generator().manual_seed(seed)
    map_dE = torch.randn(len(mean_d), config.tag_dim, generator=generator) * config.embedding_std
    return torch.where(has_n1, math.sqrt(0.5) * (rows_nE + unit_nd @ map_dE), rows_nE)
