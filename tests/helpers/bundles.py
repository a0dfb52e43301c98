"""Small DREL bundles made without training, for whatever loads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from drel_core.annotators.drel import write_table_part, write_towers
from drel_core.bundle.format import THRESHOLDS, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.model.towers import DREL, ModelConfig, init_embedding_rows


def write_drel(
    folder: Path,
    dim: int = 8,
    tags: int = 12,
    seed: int = 0,
    thresholds: bool = False,
    names: tuple[str, ...] = (),
    shape: ModelConfig | None = None,
    method: str = "drel",
    **about: Any,
) -> Path:
    """A model with random weights, tags ``tag-00`` … or ``names``, and counts 1, 2, …"""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    config = shape or ModelConfig(
        image_hidden=16, tag_dim=6, tag_hidden=7, latent=5, tag_bias=True, normalise=True, scale=5.0
    )
    model = DREL(dim, config, torch.linspace(-1, 1, dim), torch.linspace(0.5, 2, dim))
    names = names or tuple(f"tag-{tag:02d}" for tag in range(tags))
    rows = init_embedding_rows(torch.arange(len(names)), config, seed)
    write_table_part(folder, 0, 1, 0, rows, torch.ones(len(names)))
    write_towers(folder, model)
    if thresholds:
        save_file({"threshold": torch.linspace(-1, 1, len(names))}, folder / THRESHOLDS)
    described = {
        "model": model.to_dict(),
        "table_parts": 1,
        "train": {"seconds": 1.0},
        "image_dim": dim,
    }
    write_bundle(
        folder, method, Vocabulary(names, np.arange(1, len(names) + 1)), {**described, **about}
    )
    return folder
