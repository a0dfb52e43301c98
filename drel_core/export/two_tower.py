"""The two-tower form of a model: an image tower, and a matrix of tags that its output is multiplied with.

Shapes: B images, D feature size, L latent size, T tags, n tags of a piece, S side of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drel_core.annotators.cnn import CNNAnnotator
from drel_core.annotators.drel import folded_tags, read_towers
from drel_core.annotators.load import load_bundle
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.annotators.svm import SVMAnnotator
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import Decider
from drel_core.decision.score_adjustment import folded
from drel_core.errors import InputError
from drel_core.model.towers import DREL, Tower

PIECE_BYTES = 128 << 20
"""Most bytes of a piece of the tag matrix."""


@dataclass(frozen=True)
class TwoTower:
    """``z`` of tag t is ``tag_t . image + bias_t``, with the calibration in both where there is one.

    Attributes:
        latent: L.
        image_dim: D.
        tags: pieces ``[n, L + 1]`` of the tag matrix in order; the last column is the bias.
        tower: weights of the image tower, by the names that the example reads.
        how: entries of ``model.json`` that tell the example how to use them.
        network: the image tower as a module, or None; takes ``sample``, whose first size is the batch.
    """

    image_dim: int
    latent: int
    tags: Iterator[Tensor]
    tower: dict[str, Tensor]
    how: dict[str, Any]
    network: nn.Module | None = None
    sample: Tensor | None = None


class _Features(nn.Module):
    """The image tower as a module: raw features ``[B, D]`` to latents ``[B, L]``."""

    def __init__(self, model: DREL) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.encode_images(features, with_metric=False)


class _Pixels(nn.Module):
    """The image tower of cnn-*: uint8 pixels ``[B, S, S, 3]`` to features."""

    def __init__(self, annotator: CNNAnnotator) -> None:
        super().__init__()
        self.model = annotator.model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.features(pixels.permute(0, 3, 1, 2).float())


def two_tower(bundle: Path, info: BundleInfo, vocabulary: Vocabulary) -> TwoTower:
    """The two-tower form of a bundle.

    Raises:
        InputError: the method has none (kNN), or the bundle is damaged.
    """
    if info.method == "knn":
        raise InputError(
            f"{bundle}: kNN cannot be exported: it has no towers, its model is the training rows; use "
            "jobs.annotate or jobs.serve"
        )
    if info.method in ("drel", "wsabie"):
        return _of_drel(bundle, info, vocabulary)
    annotator = load_bundle(bundle)
    decider = annotator.decider
    if isinstance(annotator, CNNAnnotator):
        head, preprocessing = annotator.model.head, annotator.model.preprocessing
        tag_TL1 = torch.cat([head.weight, head.bias[:, None]], 1).detach()
        how = {"side": annotator.model.size, "resample": preprocessing.resample}
        side = annotator.model.size
        sample = torch.zeros(2, side, side, 3, dtype=torch.uint8)
        return TwoTower(
            annotator.image_dim,
            head.in_features,
            iter([folded(tag_TL1, decider)]),
            {},
            how,
            _Pixels(annotator).eval(),
            sample,
        )
    if isinstance(annotator, SVMAnnotator):
        tag_TL1 = torch.cat([annotator.weight_TD, annotator.bias_T[:, None]], 1)
        dim = annotator.image_dim
        return TwoTower(dim, dim, iter([folded(tag_TL1, decider)]), {}, {})
    assert isinstance(annotator, PopularityAnnotator)
    of_image = annotator.plain_scores if decider is None else annotator.log_scores
    tag_T1 = of_image(torch.empty(1, annotator.image_dim)).T
    return TwoTower(annotator.image_dim, 0, iter([folded(tag_T1, decider)]), {}, {})


def _of_drel(bundle: Path, info: BundleInfo, vocabulary: Vocabulary) -> TwoTower:
    model = read_towers(bundle, info)
    config, tower = model.config, {"mean": model.mean_D, "std": model.std_D}
    layers: dict[str, nn.Module | None] = {"linear": model.image_tower}
    if isinstance(model.image_tower, Tower):
        deep = list(model.image_tower.deep)
        hidden, latent = (layer for layer in deep if isinstance(layer, nn.Linear))
        norm = next((layer for layer in deep if isinstance(layer, nn.LayerNorm)), None)
        layers = {
            "hidden": hidden,
            "norm": norm,
            "latent": latent,
            "linear": model.image_tower.linear,
        }
    for name, layer in layers.items():
        if layer is not None:
            tower |= {f"{name}.{key}": value.detach() for key, value in layer.state_dict().items()}
    how = {
        name: getattr(config, name)
        for name in ("power", "power_blocks", "activation", "latent_activation", "normalise")
    }
    block = max(1, PIECE_BYTES // (4 * (config.latent + 1)))
    decider = Decider.load(bundle, len(vocabulary))
    tags = folded_tags(bundle, info, vocabulary, model, decider, block)
    sample = torch.zeros(2, model.image_dim)
    return TwoTower(
        model.image_dim, config.latent, tags, tower, how, _Features(model).eval(), sample
    )
