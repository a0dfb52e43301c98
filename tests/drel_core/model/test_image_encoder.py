"""Latents for answering are those of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drel_core.model.image_encoder import ImageEncoder
from drel_core.model.towers import DREL, ModelConfig

_BEST = {"activation": "gelu", "latent_activation": False, "linear_path": True, "normalise": True}


@pytest.mark.parametrize(
    "options",
    [
        _BEST,
        {**_BEST, "normalise": False, "dropout": 0.5, "input_noise": 0.3},
        {**_BEST, "power": 0.5},
        {**_BEST, "layer_norm": True},
        {**_BEST, "latent_activation": True},
        {"image_tower": "linear", "tag_tower": "none", "metric": "none"},
        {},
    ],
)
@pytest.mark.parametrize("rows", [0, 1, 3, 7])
def test_latents_are_those_of_the_model(options: dict[str, Any], rows: int) -> None:
    torch.manual_seed(3)
    config = ModelConfig(image_hidden=32, tag_hidden=16, tag_dim=8, latent=24, **options)
    model = DREL(20, config, torch.randn(20), torch.rand(20) + 0.5)
    for weight in model.parameters():  # some parts begin at zero
        torch.nn.init.normal_(weight, std=0.2)
    model.eval()
    features_BD = torch.randn(rows, 20)
    with torch.inference_mode():
        found_BL = ImageEncoder(model).latents(features_BD)
        wanted_BL = model.encode_images(features_BD, with_metric=False)
    torch.testing.assert_close(found_BL, wanted_BL, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [_BEST, {}])
def test_features_of_another_size_are_refused(options: dict[str, Any]) -> None:
    encoder = ImageEncoder(DREL(20, ModelConfig(latent=24, **options)).eval())
    with pytest.raises(ValueError, match=r"features are \(2, 19\); this model takes \[B, 20\]"):
        encoder.latents(torch.zeros(2, 19))
