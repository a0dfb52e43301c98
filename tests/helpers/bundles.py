"""Small DREL bundles made without training, for whatever loads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drel_core.annotators.drel import write_table_part, write_towers
from drel_core.bundle.format import write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import DECISION, Decider
from drel_core.model.towers import DREL, ModelConfig, init_embedding_rows
from drel_core.scoring.reliability import RELIABILITY_BINS


def random_decider(tags: int, seed: int = 0) -> Decider:
    """Decisions that differ from each other; held-out pairs were right about as often as they say."""
    generator = torch.Generator().manual_seed(seed)

    def random() -> Tensor:
        return torch.rand(tags, generator=generator)

    hits_b = 20 * torch.arange(RELIABILITY_BINS) // RELIABILITY_BINS
    return Decider(
        Calibration(torch.tensor([0.6]), -random(), torch.tensor([0.9, -0.4, 0.3, -0.2])),
        gain_T=random() + 0.1,
        offset_T=-0.2 * random(),
        cut_T=0.05 + 0.5 * random(),
        reliability_b2=torch.stack([torch.full_like(hits_b, 20), hits_b], 1),
    )


def write_drel(
    folder: Path,
    dim: int = 8,
    tags: int = 12,
    seed: int = 0,
    decider: Decider | None = None,
    names: tuple[str, ...] = (),
    shape: ModelConfig | None = None,
    method: str = "drel",
    unseen: tuple[int, ...] = (),
    **about: Any,
) -> Path:
    """A model with random weights, tags ``tag-00`` … or ``names``, and counts 1, 2, …, 0 of ``unseen``."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    config = shape or ModelConfig(
        image_hidden=16,
        tag_dim=6,
        tag_hidden=7,
        latent=5,
        activation="gelu",
        latent_activation=False,
        linear_path=True,  # without it all images have nearly the same latents
        tag_bias=True,
        normalise=True,
        scale=5.0,
    )
    model = DREL(dim, config, torch.linspace(-1, 1, dim), torch.linspace(0.5, 2, dim))
    names = names or tuple(f"tag-{tag:02d}" for tag in range(tags))
    rows = init_embedding_rows(torch.arange(len(names)), config, seed)
    write_table_part(folder, 0, 1, 0, rows, torch.ones(len(names)))
    write_towers(folder, model)
    if decider is not None:
        decider.save(folder / DECISION)
    described = {
        "model": model.to_dict(),
        "table_parts": 1,
        "train": {"seconds": 1.0},
        "image_dim": dim,
    }
    count_T = np.arange(1, len(names) + 1)
    count_T[list(unseen)] = 0
    write_bundle(folder, method, Vocabulary(names, count_T), {**described, **about})
    return folder
