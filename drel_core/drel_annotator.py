"""A trained DREL (or WSABIE, which it contains) model: its files in a bundle, and the scorer made of them.

model.safetensors                        towers, M, feature statistics
tag_embedding-00000-of-00002.safetensors rows of the table, one file a rank that trained them
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from drel_core.errors import InputError
from drel_core.model import DREL, ModelConfig, prior_bias
from drel_core.scorer import topk_blockwise
from drel_core.vocabulary import Vocabulary


def table_file(part: int, parts: int) -> str:
    return f"tag_embedding-{part:05d}-of-{parts:05d}.safetensors"


def write_table_part(
    folder: Path,
    part: int,
    parts: int,
    start: int,
    weight_nE: Tensor,
    state_n: Tensor | None = None,
) -> None:
    """Write the rows that one rank owns and their optimiser state; ``start`` is the first one's tag id."""
    tensors = {"weight": weight_nE.detach().cpu().contiguous(), "start": torch.tensor(start)}
    if state_n is not None:
        tensors["state"] = state_n.cpu().contiguous()
    save_file(tensors, folder / table_file(part, parts))


def write_towers(folder: Path, model: DREL) -> None:
    save_file(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
    )


class DRELAnnotator:
    """A trained DREL model with the tag side computed once: annotating costs one matmul, O(T).

    Args:
        model: towers and M, in evaluation mode.
        tag_TL1: encoded tags with M applied, and their bias as the last column.
        vocabulary: names and training counts.
        about: ``config.json``.
    """

    def __init__(
        self, model: DREL, tag_TL1: Tensor, vocabulary: Vocabulary, about: dict[str, Any]
    ) -> None:
        self.model = model.eval()
        self.tag_TL = tag_TL1[:, :-1].contiguous()
        self.bias_T = tag_TL1[:, -1].contiguous()
        self.vocabulary = vocabulary
        self.about = about
        self.name = about["method"]
        self.num_tags = len(vocabulary)

    @classmethod
    def load(cls, folder: Path, about: dict[str, Any], vocabulary: Vocabulary) -> DRELAnnotator:
        """Read towers and rows, and compute the tag side.

        Raises:
            InputError: a part is out of place, or rows and vocabulary differ in number.
            Exception: what reading damaged files raises.
        """
        config = dict(about["model"])
        model = DREL(config.pop("image_dim"), ModelConfig(**config)).eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        count = about["table_parts"]
        parts: list[Tensor] = []
        for part in range(count):
            tensors = load_file(folder / table_file(part, count))
            if int(tensors["start"]) != sum(len(rows) for rows in parts) and len(tensors["weight"]):
                raise InputError(f"{folder}: {table_file(part, count)} is out of place")
            with torch.inference_mode():
                parts.append(_encode_rows(model, tensors["weight"]))
        tag_TL1 = torch.cat(parts)
        if len(tag_TL1) != len(vocabulary):
            raise InputError(f"{folder}: {len(tag_TL1)} table rows for {len(vocabulary)} tags")
        tag_TL1[:, -1] += prior_bias(torch.from_numpy(vocabulary.counts), model.config)
        return cls(model, tag_TL1, vocabulary, about)

    @property
    def image_dim(self) -> int:
        return self.model.image_dim

    @torch.inference_mode()
    def scores(self, features_BD: Tensor) -> Tensor:
        image_BL = self.model.encode_images(features_BD, with_metric=False)
        return torch.addmm(self.bias_T, image_BL, self.tag_TL.T)

    @torch.inference_mode()
    def annotate(self, features_BD: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """Best k scores and tag ids ``[B, k]``, without a B x T of scores."""
        image_BL = self.model.encode_images(features_BD, with_metric=False)
        return topk_blockwise(image_BL, self.tag_TL, k, self.bias_T)


def _encode_rows(model: DREL, weight_nE: Tensor, block: int = 65536) -> Tensor:
    parts = [model.encode_tags(rows, with_metric=True) for rows in weight_nE.split(block)]
    return torch.cat(parts) if parts else weight_nE.new_empty(0, model.config.latent + 1)
