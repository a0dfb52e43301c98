"""The centred start: its distribution, that it centres what it says, and what it asks of a model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drel_core.model.towers import DREL, ModelConfig, Tower, init_embedding_rows

DIM = 96
SIZES: dict[str, Any] = {"image_hidden": 80, "tag_dim": 48, "tag_hidden": 72, "latent": 64}
CENTRED = ModelConfig(**SIZES, start="centred")


def model(config: ModelConfig) -> DREL:
    torch.manual_seed(3)
    return DREL(DIM, config)


def layers(tower: nn.Module) -> list[nn.Linear]:
    assert isinstance(tower, Tower)
    return [layer for layer in tower.deep if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("tower", ["image_tower", "tag_tower"])
def test_weights_are_uniform_in_their_bounds(tower: str) -> None:
    for layer, gain in zip(layers(getattr(model(CENTRED), tower)), (1.0, 4.0), strict=True):
        bound = gain * math.sqrt(6 / (layer.in_features + layer.out_features))
        size = layer.weight.abs()
        assert 0.98 * bound < size.max() <= bound
        assert float(size.mean()) == pytest.approx(bound / 2, rel=0.03)
        assert abs(float(layer.weight.mean())) < 0.03 * bound


def latents(config: ModelConfig) -> tuple[Tensor, Tensor, DREL]:
    """Of 500 standardised images and 500 tags."""
    drel = model(config)
    image_BL = drel.encode_images(torch.randn(500, DIM), with_metric=False)
    tag_PL = drel.encode_tags(init_embedding_rows(torch.arange(500), config, 0), with_metric=False)
    return image_BL.detach(), tag_PL[:, :-1].detach(), drel


def test_latents_differ_from_image_to_image_and_their_mean_scores_nothing() -> None:
    image_BL, tag_PL, drel = latents(CENTRED)
    plain_BL, plain_PL, _ = latents(ModelConfig(**SIZES))
    for latent, plain in ((image_BL, plain_BL), (tag_PL, plain_PL)):
        assert (latent.mean(0) - 0.5).abs().max() < 0.1
        assert latent.std(0).mean() > 0.15 > 0.1 > plain.std(0).mean()
    assert drel.metric_LL is not None
    half_L = torch.full((CENTRED.latent,), 0.5)
    metric_LL = drel.metric_LL.detach()
    for score in (tag_PL @ metric_LL @ half_L, image_BL @ metric_LL.T @ half_L):
        assert score.abs().max() < 1e-4
    assert float(metric_LL.std()) == pytest.approx(1 / math.sqrt(CENTRED.latent), rel=0.05)


def test_the_start_of_before_stays_the_default() -> None:
    before = model(ModelConfig(**SIZES)).state_dict()
    torch.manual_seed(3)
    first = nn.Linear(DIM, SIZES["image_hidden"])
    assert ModelConfig().start == "torch"
    assert torch.equal(before["image_tower.deep.0.weight"], first.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu"},
        {"latent_activation": False},
        {"linear_path": True},
        {"metric": "identity"},
        {"image_tower": "linear"},
    ],
)
def test_a_model_that_the_start_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"model\.start centred needs .*; change these, or give"):
        ModelConfig(**SIZES, start="centred", **change)
