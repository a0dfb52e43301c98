"""The model bundle: one immutable folder that evaluation and serving load. No pickle in it.

config.json                              format, method, model configuration, D, T, metrics
vocabulary.json                          tag names and counts
model.safetensors                        towers, M, feature statistics
tag_embedding-00000-of-00002.safetensors rows of the table, one file a rank that trained them
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from drel_core.errors import InputError
from drel_core.model import DREL, ModelConfig
from drel_core.scorer import topk_blockwise
from drel_core.vocabulary import Vocabulary

FORMAT = 1


def table_file(part: int, parts: int) -> str:
    return f"tag_embedding-{part:05d}-of-{parts:05d}.safetensors"


def write_table_part(folder: Path, part: int, parts: int, start: int, weight_nE: Tensor) -> None:
    """Write the rows that one rank owns; ``start`` is the tag id of the first."""
    tensors = {"weight": weight_nE.detach().cpu().contiguous(), "start": torch.tensor(start)}
    save_file(tensors, folder / table_file(part, parts))


def write_bundle(
    folder: Path, model: DREL, vocabulary: Vocabulary, parts: int, about: dict[str, Any]
) -> str:
    """Write all but the table's parts, which must be there already; returns the version."""
    save_file(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()},
        folder / "model.safetensors",
    )
    digest = hashlib.sha256()
    for name in ["model.safetensors", *(table_file(part, parts) for part in range(parts))]:
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    version = digest.hexdigest()[:12]
    config = {
        "format": FORMAT,
        "method": "drel",
        "version": version,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_tags": len(vocabulary),
        "table_parts": parts,
        "model": model.to_dict(),
        **about,
    }
    _write_json(folder / "vocabulary.json", vocabulary.to_dict())
    _write_json(folder / "config.json", config)
    return version


def _write_json(path: Path, content: Any) -> None:
    """Written under another name, then renamed: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


class DRELAnnotator:
    """A trained DREL model with the tag side computed once: annotating costs one matmul, O(T).

    Args:
        model: towers and M, in evaluation mode.
        tag_TL1: encoded tags with M applied, and their bias as the last column.
        vocabulary: names and training counts.
        about: ``config.json``.
    """

    name = "drel"

    def __init__(
        self, model: DREL, tag_TL1: Tensor, vocabulary: Vocabulary, about: dict[str, Any]
    ) -> None:
        self.model = model.eval()
        self.tag_TL = tag_TL1[:, :-1].contiguous()
        self.bias_T = tag_TL1[:, -1].contiguous()
        self.vocabulary = vocabulary
        self.about = about
        self.num_tags = len(vocabulary)

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


def load_bundle(folder: str | Path) -> DRELAnnotator:
    """Load a bundle and compute its tag side.

    Raises:
        InputError: not a bundle, an unknown format, or a part that is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        inside = folder / "model"
        if (inside / "config.json").is_file():
            folder = inside
        else:
            raise InputError(f"{folder}: no model bundle (config.json is missing); give --model a "
                             "folder written by jobs.train, OUT/model")  # fmt: skip
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if about.get("format") != FORMAT:
            raise InputError(
                f"{folder}: bundle format {about.get('format')!r}; this version reads {FORMAT}"
            )
        vocabulary = Vocabulary.from_dict(
            json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        )
        config = dict(about["model"])
        model = DREL(config.pop("image_dim"), ModelConfig(**config)).eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        parts: list[Tensor] = []
        for part in range(about["table_parts"]):
            tensors = load_file(folder / table_file(part, about["table_parts"]))
            if int(tensors["start"]) != sum(len(rows) for rows in parts) and len(tensors["weight"]):
                raise InputError(
                    f"{folder}: {table_file(part, about['table_parts'])} is out of place"
                )
            with torch.inference_mode():
                parts.append(_encode_rows(model, tensors["weight"]))
        tag_TL1 = torch.cat(parts)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{folder}: the model bundle is damaged ({error})".splitlines()[0]
        ) from error
    if len(tag_TL1) != len(vocabulary):
        raise InputError(f"{folder}: {len(tag_TL1)} table rows for {len(vocabulary)} tags")
    return DRELAnnotator(model, tag_TL1, vocabulary, about)


def _encode_rows(model: DREL, weight_nE: Tensor, block: int = 65536) -> Tensor:
    parts = [model.encode_tags(rows, with_metric=True) for rows in weight_nE.split(block)]
    return torch.cat(parts) if parts else weight_nE.new_empty(0, model.config.latent + 1)
