"""Latents of images for answering requests: the image tower without what training alone needs.

Shapes: B images, D feature size, H hidden units, L latent size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drel_core.model.towers import DREL, Tower
from drel_core.model.unit_rows import unit_rows


class ImageEncoder:
    """``DREL.encode_images`` without M, of a model that stays as it is.

    A deep tower with a linear path (``Tower``) reads the features twice and the latents three times. Here
    both paths are one product, and the second layer is added to what the linear path gave.

    Args:
        model: in evaluation mode. Its weights are copied.
    """

    def __init__(self, model: DREL) -> None:
        self._model = model
        self._joined: tuple[Tensor, Tensor, Tensor, nn.Module] | None = None
        tower = model.image_tower
        if not isinstance(tower, Tower) or tower.linear is None or len(tower.deep) != 4:
            return
        first, activation, _, second = tower.deep
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        with torch.inference_mode():
            self._joined = (
                torch.cat([first.weight, tower.linear.weight]),
                torch.cat([first.bias, second.bias]),
                second.weight.T.contiguous(),
                activation,
            )

    def latents(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, L]`` of raw features.

        Raises:
            ValueError: the features have another size.
        """
        if self._joined is None:
            return self._model.encode_images(features_BD, with_metric=False)
        self._model.check_size(features_BD)
        weight_HLD, bias_HL, second_HL, activation = self._joined
        joined_BHL = F.linear(self._model.standardised(features_BD), weight_HLD, bias_HL)
        hidden = len(second_HL)
        image_BL = torch.addmm(
            joined_BHL[:, hidden:], activation(joined_BHL[:, :hidden]), second_HL
        )
        return unit_rows(image_BL) if self._model.config.normalise else image_BL
