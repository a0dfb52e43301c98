"""Pictures to the rows that a model takes: the pixels of a network that reads pictures, or the features that
it was trained on, computed again for each features column.

Shapes: B pictures, D feature size, S side of a network's pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from drel_core.annotators.cnn import CNNAnnotator
from drel_core.bundle.format import CODEBOOK
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.errors import InputError
from drel_core.images.backbone import Backbone, Preprocessing, check_named_by_bundle, load_backbone
from drel_core.images.pictures import BadPicture, decode


class _Block(Protocol):
    """How a features column is made."""

    def take(self, picture: Image.Image) -> np.ndarray:
        """What is kept of a picture: a batch of decoded pictures would not fit into memory."""
        ...

    def finish(self, taken: np.ndarray) -> np.ndarray:
        """float32 ``[B, d]`` of what was kept of all pictures."""
        ...


@dataclass(frozen=True)
class _Pixels:
    preprocessing: Preprocessing

    def take(self, picture: Image.Image) -> np.ndarray:
        return self.preprocessing.pixels(picture)

    def finish(self, taken: np.ndarray) -> np.ndarray:
        return taken.reshape(len(taken), -1).astype(np.float32)


@dataclass(frozen=True)
class _Network(_Pixels):
    backbone: Backbone

    def finish(self, taken: np.ndarray) -> np.ndarray:
        return self.backbone(taken)


@dataclass(frozen=True)
class _Descriptors:
    codebook: Any

    def take(self, picture: Image.Image) -> np.ndarray:
        from drel_core.images.lowlevel import lowlevel  # OpenCV and wavelets, which few models need

        return lowlevel(np.asarray(picture), self.codebook)

    def finish(self, taken: np.ndarray) -> np.ndarray:
        return taken.astype(np.float32, copy=False)


@dataclass(frozen=True)
class PictureReader:
    """Every features column of encoded pictures; each picture is decoded once."""

    blocks: tuple[_Block, ...]

    def features(self, pictures: Sequence[bytes]) -> np.ndarray:
        """float32 ``[B, D]``.

        Raises:
            BadPicture: one cannot be decoded; ``index`` says which.
        """
        taken: list[list[np.ndarray]] = [[] for _ in self.blocks]
        for place, data in enumerate(pictures):
            try:
                picture = decode(data)
                for block, rows in zip(self.blocks, taken, strict=True):
                    rows.append(block.take(picture))
            except BadPicture as error:
                error.index = place
                raise
        parts = [
            block.finish(np.stack(rows)) for block, rows in zip(self.blocks, taken, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def picture_reader(
    info: BundleInfo, folder: Path, backbone: str, annotator: Any
) -> PictureReader | None:
    """How a model's features are made of pictures; None where the bundle does not say it of all columns.

    Args:
        folder: the bundle.
        backbone: network where the bundle names nothing.

    Raises:
        InputError: a network has other weights here, or gives features of another D.
        Exception: what a damaged bundle raises.
    """
    if isinstance(annotator, CNNAnnotator):
        return PictureReader((_Pixels(annotator.model.preprocessing),))
    named = info.features or {}
    if not named:
        if not backbone:
            return None
        loaded = load_backbone(backbone)
        network = _Network(loaded.preprocessing, loaded)
        _check_dim(network, annotator.image_dim)
        return PictureReader((network,))
    columns = _described(info)
    made = [_block(columns.get(block.name, {}), folder) for block in info.blocks]
    blocks = tuple(block for block in made if block is not None)
    if len(blocks) < len(made):
        return None
    for block, expected in zip(blocks, info.blocks, strict=True):
        _check_dim(block, expected.dim)
    return PictureReader(blocks)


def takes_pictures(info: BundleInfo, backbone: str = "") -> bool:
    """Whether a scorer of this bundle can be sent pictures, as far as its description says; loads nothing.

    Args:
        backbone: network where the bundle names nothing.
    """
    if info.pictures is not None:
        return True
    if not info.features:
        return bool(backbone)
    columns = _described(info)
    return all(
        columns.get(block.name, {}).get("kind") in ("cnn", "lowlevel") for block in info.blocks
    )


def _described(info: BundleInfo) -> dict[str, dict[str, Any]]:
    """What the manifest of the training store says of each features column."""
    named = info.features or {}
    return named["columns"] if "columns" in named else {info.blocks[0].name: named}


def _block(about: dict[str, Any], folder: Path) -> _Network | _Descriptors | None:
    """How a column is made, by what the manifest of its store says; None where that is not known here."""
    if about.get("kind") == "lowlevel" and (folder / CODEBOOK).is_file():
        from drel_core.images.lowlevel import Codebook

        codebook = Codebook(load_tensors(folder / CODEBOOK)["word_K128"].numpy())
        if codebook.sha256 != about["codebook_sha256"]:
            raise InputError(f"{folder}: the model bundle is damaged ({CODEBOOK})")
        return _Descriptors(codebook)
    if about.get("kind") != "cnn":
        return None
    check_named_by_bundle(about["name"])
    loaded = load_backbone(about["name"])
    if loaded.weights_sha256 != about["weights_sha256"]:
        raise InputError(
            f"backbone {about['name']} has other weights here than where the features were made"
        )
    return _Network(Preprocessing.from_dict(about["preprocessing"]), loaded)


def _check_dim(block: _Network | _Descriptors, expected: int) -> None:
    side = block.preprocessing.size if isinstance(block, _Network) else 64
    picture = Image.fromarray(np.zeros((side, side, 3), dtype=np.uint8))
    dim = block.finish(np.stack([block.take(picture)])).shape[1]
    if dim != expected:
        name = block.backbone.name if isinstance(block, _Network) else "of descriptors"
        raise InputError(f"backbone {name} gives D = {dim}, the model takes D = {expected}")
