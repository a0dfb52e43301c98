"""Rows drawn by a hash of their image_id: the same rows in every process and at any layout of files."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import numpy as np

Purpose = Literal["same id", "split", "validation", "watch", "reservoir"]
"""What a row is drawn for. Each purpose has a key of its own: what one draws says nothing of what another
draws. Two draws by one hash would take the same rows, and the second would find none left.

same id    repeated image ids
split      the test part of a store that is made (jobs.ingest, benchmarks.make_store)
validation rows held out by data.validation
watch      rows that are scored while a model is trained
reservoir  training rows that a bundle keeps
"""


def hash_ids(image_id: np.ndarray, purpose: Purpose = "same id", seed: int = 0) -> np.ndarray:
    """uint64 hashes of text ``[B]``."""
    import pandas as pd  # slow to import, and training workers hash nothing

    return pd.util.hash_array(image_id, hash_key=_key(purpose, seed), categorize=False)


def is_drawn(image_id: np.ndarray, share: float, purpose: Purpose, seed: int) -> np.ndarray:
    """bool ``[B]``: the rows that belong to a share (0 to 1) of all."""
    return hash_ids(image_id, purpose, seed) / 2.0**64 < share


def is_short(drawn: int, rows: int, share: float) -> bool:
    """Whether clearly fewer rows were drawn of ``rows`` than the share asks for: four standard deviations."""
    expected = share * rows
    return drawn < expected - 4 * math.sqrt(expected * (1 - share))


def _key(purpose: Purpose, seed: int) -> str:
    """16 characters.

    Stores and bundles that there are were made with the plain numbers: their rows must come out again. With
    seed 6 the split's key is the reservoir's, which does no harm: the reservoir orders training rows alone.
    """
    numbers: dict[Purpose, int] = {"same id": 0, "split": seed + 1, "reservoir": 7}
    if purpose in numbers:
        return f"{numbers[purpose]:016d}"[-16:]
    return hashlib.sha256(f"{purpose} {seed}".encode()).hexdigest()[:16]
