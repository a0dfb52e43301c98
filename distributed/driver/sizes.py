"""Bytes that a training run and a scorer take: the formulas of docs/operations.md, "Sizes"."""

from __future__ import annotations

import torch

from distributed.training.config import TrainConfig
from distributed.training.kernel_fit import has_room
from distributed.training.size_rule import DataSize
from drel_core.model.towers import DREL

TORCH = 317 << 20
"""A process that has imported torch and nothing else."""
SCORE = {"smooth": 18, "hinge": 96}
"""Of an image and a tag in a step, forward and backward, by ``loss.kind`` (hinge: hard negatives, n = 3)."""
RAY_WORKER = 400 << 20
"""What Ray Train, checkpoints and the writing of the bundle add to a worker: 0.3 to 0.7 GB were seen."""
SURVEY_ROW = 44
"""In the driver, while it looks for repeated ids."""
SCORER = 250 << 20
"""A replica without its model."""
_UNIT_ROWS, _UNITS = 65_536, 3


def tower_parameters(config: TrainConfig, dim: int) -> int:
    """N, the parameters of towers and M."""
    with torch.device("meta"):
        return sum(one.numel() for one in DREL(dim, config.model).parameters())


def table_bytes(config: TrainConfig, tags: int) -> int:
    """Tag embeddings and the state of their optimiser, of all ranks together."""
    return tags * (4 * config.model.tag_dim + 4)


def landmarks(config: TrainConfig, size: DataSize) -> int:
    """K, of the kernel regression; 0 where there is none."""
    return min(config.kernel.landmarks, size.rows) if has_room(size.tags) else 0


def rank_bytes(
    config: TrainConfig, size: DataSize, item_bytes: int, world: int, pool: int
) -> dict[str, int]:
    """What a worker holds when it holds most, by what it is.

    Args:
        config: without ``AUTO``.
        item_bytes: of a feature in memory.
        world: W, the workers.
        pool: P, the candidate tags of a step.
    """
    state = 16 if config.optim.optimiser == "adamw" else 8
    rows = size.rows * size.dim * item_bytes // world
    if config.data.residency == "stream" or (
        config.data.residency == "auto" and rows > config.data.memory_gib * 2**30
    ):
        rows = _UNITS * _UNIT_ROWS * size.dim * item_bytes
    marks = landmarks(config, size)
    dims = min(config.kernel.dims or size.dim, size.dim)
    kernel = 4 * marks * (size.dim + dims + size.tags) + 28 * marks**2
    return {
        "torch": TORCH,
        "towers and optimiser": state * tower_parameters(config, size.dim),
        "tag table": table_bytes(config, size.tags) // world,
        "scores of a step": config.batch_size * pool * SCORE[config.loss.kind] // world,
        "rows": rows,
        "kernel": kernel,
    }


def bundle_bytes(config: TrainConfig, size: DataSize, item_bytes: int, name_bytes: float) -> int:
    """Of ``OUT/model``, before rows are compressed.

    Args:
        name_bytes: average length of a tag's name.
    """
    marks = landmarks(config, size)
    dims = min(config.kernel.dims or size.dim, size.dim)
    kernel = 4 * marks * (dims + size.tags) + 4 * size.dim * dims * (0 < dims < size.dim) * bool(
        marks
    )
    kept = min(max(config.reservoir.rows, 0), size.rows) * size.dim * item_bytes
    table = table_bytes(config, size.tags) + round(size.tags * (8 + name_bytes))
    return 4 * tower_parameters(config, size.dim) + table + kernel + kept


def checkpoint_bytes(config: TrainConfig, size: DataSize) -> int:
    """Of one checkpoint; a run keeps two, and a third while it is written."""
    return 12 * tower_parameters(config, size.dim) + table_bytes(config, size.tags)


def scorer_bytes(tags: int, latent: int, weights: int, by_codes: bool) -> tuple[int, int]:
    """What a replica holds alone, and what all replicas of a machine share.

    Args:
        latent: L, of the model; 0 of one without towers.
        weights: bytes of the bundle's tensors.
        by_codes: the best tags are found by codes (``bundles/tag_side.py``).
    """
    side = 4 * tags * (latent + 1)  # encoded tags and their biases
    if by_codes:
        return SCORER + round(0.43 * tags * latent) + 160 * tags, side
    return SCORER + side + 330 * tags + weights, 0
