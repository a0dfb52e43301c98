"""The text vectors of a bundle's tags: ``tag_text.safetensors``, so that names can be used again without
their source.

    vector   float16 [T, d]: rows of length 1, zeros where a name has none
    mean     float32 [d]: of the vectors that are there

Bundles that were trained without text vectors have no such file. ``config.json`` says where the vectors come
from: ``text: {source, dim, tags}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drel_core.bundle.format import reading
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.errors import InputError

TAG_TEXT = "tag_text.safetensors"
_COMPARED, _ALIKE = 50, 0.9
"""Tags whose vectors are compared with what a source gives, and the least cosine of the middle one. A tag
that was renamed or split off may keep the vector of its old name, so that some may differ."""


@dataclass(frozen=True)
class TagText:
    """Text vectors of a vocabulary.

    Attributes:
        vector_Td: float16, rows of length 1, zeros where a name has none.
        mean_d: float32, of the vectors that are there.
    """

    vector_Td: Tensor
    mean_d: Tensor

    @staticmethod
    def of(vector_Td: Tensor) -> TagText:
        vector_Td = vector_Td.half()
        has_T = vector_Td.any(1)
        # In parts: float32 of all rows may not fit beside them.
        total = sum(part.float().sum(0) for part in vector_Td.split(65536))
        return TagText(vector_Td, torch.as_tensor(total) / max(1, int(has_T.sum())))

    @property
    def has_T(self) -> Tensor:
        """bool ``[T]``: which names have a vector."""
        return self.vector_Td.any(1)

    @property
    def dim(self) -> int:
        return self.vector_Td.shape[1]

    def some(self) -> list[int]:
        """Ids of some tags with a vector, for ``check_same``."""
        tag_n = self.has_T.nonzero()[:, 0]
        every = max(1, -(-len(tag_n) // _COMPARED))
        tags: list[int] = tag_n[::every].tolist()
        return tags

    def check_same(self, tags: list[int], found_nd: Tensor, source: str) -> None:
        """A file may hold other vectors now: beside those that are kept, they would mean nothing.

        Args:
            tags: see ``some``.
            found_nd: what the source gives for their names, zeros where it gives nothing.

        Raises:
            InputError: the source gives other vectors than those that are kept.
        """
        cosine_n = (found_nd.float() * self.vector_Td[tags].float()).sum(1)[found_nd.any(1)]
        if len(cosine_n) and float(cosine_n.median()) < _ALIKE:
            raise InputError(
                f"text vectors {source}: it gives other vectors than those that the model keeps for the same "
                "names; give the source that the model was trained with, or the new one under another path"
            )

    def describe(self, source: str) -> dict[str, Any]:
        """What ``config.json`` says of them."""
        return {"source": source, "dim": self.dim, "tags": int(self.has_T.sum())}

    def save(self, path: Path, about: Mapping[str, str] | None = None) -> None:
        """Write the file; ``about`` goes into its header."""
        tensors = {"vector": self.vector_Td.contiguous(), "mean": self.mean_d.contiguous()}
        save_tensors(tensors, path, dict(about or {}))

    @staticmethod
    def load(folder: Path, num_tags: int) -> TagText | None:
        """Of a bundle; None where it has none.

        Raises:
            InputError: the file is damaged, or of other tags.
        """
        path = folder / TAG_TEXT
        if not path.is_file():
            return None
        with reading(folder):
            held = load_tensors(path)
            vector_Td, mean_d = held["vector"], held["mean"].float()
        shape = tuple(vector_Td.shape)
        if len(shape) != 2 or shape[0] != num_tags or mean_d.shape != shape[1:]:
            raise InputError(
                f"{path}: vectors {shape} and mean {tuple(mean_d.shape)} for {num_tags} tags; they must be "
                f"[{num_tags}, d] and [d]"
            )
        return TagText(vector_Td.half(), mean_d)


def text_source(content: Mapping[str, Any]) -> str:
    """The source that ``config.json`` names; empty where a bundle has no text vectors."""
    text = content.get("text")
    source = text.get("source") if isinstance(text, dict) else None
    return source if isinstance(source, str) else ""
