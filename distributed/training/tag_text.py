"""Text vectors of tags in training: every rank holds those of the tags that it owns.

The driver has written ``OUT/tag_text.safetensors`` before the workers start (``driver/tag_text.py``). A rank
reads its own rows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distributed.storage.folder import Folder
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.bundle.tensor_files import open_tensors
from drel_core.bundle.text_vectors import TAG_TEXT
from drel_core.model.text_map import TextMap
from drel_core.model.towers import DREL


@dataclass(frozen=True)
class RunText:
    """Where the text vectors of a run's tags lie.

    Attributes:
        out: address of the folder that holds their file.
        about: what ``config.json`` says of them.
    """

    out: str
    about: dict[str, Any]


def use_text(model: DREL, table: ShardedTagEmbedding, text: RunText, seed: int) -> None:
    """Give a fresh model its ``text_map``, and the table the text vectors of its rows."""
    local = table.local
    with Folder.of(text.out).local(TAG_TEXT) as path, open_tensors(path) as file:
        vector_nd = file.get_slice("vector")[local.start : local.stop]
        mean_d = file.get_tensor("mean")
    local.text_nd = vector_nd.to(local.weight_nE.device)
    config = model.config
    model.text_map = TextMap(mean_d, config.tag_dim, config.embedding_std, seed)
