"""Latents of images for answering requests: the image tower without what training alone needs.

Shapes: B images, D feature size, H hidden units, L latent size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drel_core.model.towers import DREL, Tower
from drel_core.model.unit_rows import LEAST_LENGTH, unit_rows

# Rows of a batch for which MKL multiplies by the weights' columns faster: 16 take a quarter less time, 64 a
# fifth. Fewer or more rows take longer (docs/log.md).
_BY_COLUMNS = range(5, 129)


class ImageEncoder:
    """``DREL.encode_images`` without M, of a model that stays as it is.

    A deep tower with a linear path (``Tower``) reads the features twice and the latents three times. Here
    both paths are one product, and the second layer is added to what the linear path gave.

    Args:
        model: in evaluation mode. Its weights are copied, the first layer's twice.
    """

    def __init__(self, model: DREL) -> None:
        self._model = model
        # Mean and deviation, where nothing else is done to features.
        self._plain: tuple[np.ndarray, np.ndarray] | None = None
        self._joined: tuple[Tensor, Tensor, Tensor, nn.Module] | None = None
        self._columns_DHL: Tensor | None = None
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
            self._columns_DHL = self._joined[0].T.contiguous()
            is_plain = not model.config.power_blocks and model.config.power == 1.0
            if is_plain and model.mean_D.device.type == "cpu":
                self._plain = model.mean_D.numpy(), model.std_D.numpy()

    def latents(self, features_BD: Tensor) -> Tensor:
        """float32 ``[B, L]`` of raw features.

        Raises:
            ValueError: the features have another size.
        """
        if self._joined is None:
            return self._model.encode_images(features_BD, with_metric=False)
        self._model.check_size(features_BD)
        weight_HLD, bias_HL, second_HL, activation = self._joined
        if len(features_BD) == 1 and features_BD.device.type == "cpu":
            return self._latents_of_one(features_BD)
        input_BD = self._model.standardised(features_BD)
        if len(features_BD) in _BY_COLUMNS and self._columns_DHL is not None:
            joined_BHL = torch.addmm(bias_HL, input_BD, self._columns_DHL)
        else:
            joined_BHL = F.linear(input_BD, weight_HLD, bias_HL)
        hidden = len(second_HL)
        image_BL = torch.addmm(
            joined_BHL[:, hidden:], activation(joined_BHL[:, :hidden]), second_HL
        )
        return unit_rows(image_BL) if self._model.config.normalise else image_BL

    def _latents_of_one(self, features_1D: Tensor) -> Tensor:
        """The same of one row, in three operations of torch.

        A row alone comes to a processor whose caches others have filled meanwhile. The code of an
        operation is then read from memory as the weights are, and that of numpy's is a tenth of torch's.
        """
        assert self._joined is not None
        weight_HLD, bias_HL, second_HL, activation = self._joined
        with np.errstate(all="ignore"):
            if self._plain is None:
                input_D = self._model.standardised(features_1D)[0]
            else:
                mean_D, std_D = self._plain
                input_D = torch.from_numpy((features_1D.float().numpy()[0] - mean_D) / std_D)
            joined_HL = torch.addmv(bias_HL, weight_HLD, input_D)
            hidden = len(second_HL)
            image_L = torch.addmv(joined_HL[hidden:], second_HL.T, activation(joined_HL[:hidden]))
            if not self._model.config.normalise:
                return image_L[None]
            latent_L = image_L.numpy()
            length = float(np.dot(latent_L, latent_L)) ** 0.5
            return torch.from_numpy((latent_L / max(length, LEAST_LENGTH))[None])
