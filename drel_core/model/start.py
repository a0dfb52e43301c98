"""The first weights of a model.

Shapes: I inputs of a layer, O its outputs, L latent size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOGISTIC_GAIN = 4.0
"""A logistic unit is half as high and half as steep as tanh (Glorot and Bengio, 2010, section 4.2.1)."""


@torch.no_grad()
def start_centred(image_deep: nn.Sequential, tag_deep: nn.Sequential, metric_LL: Tensor) -> None:
    """Give both towers and M their first values, in place, from torch's global generator.

    A logistic output is 1/2 and a part that depends on the input. Three choices keep the 1/2, which all
    images share, from drowning that part:

    - The first layer reads inputs that are centred already: weights ``U(+-sqrt(6 / (I + O)))``, biases 0
      (Glorot and Bengio, 2010, Eq 16).
    - The second layer reads logistic outputs: weights 4 times as large, biases ``-W 1/2``. Its sums are
      then centred, as LeCun et al. (1998, section 4.3) ask of the inputs of a layer.
    - M is normal with standard deviation ``1 / sqrt(L)``, its rows and columns moved to sum 0. It begins
      orthogonal to the latents' mean, so that scores hold only what differs between images and tags.

    No value depends on data, so that all ranks begin alike.
    """
    for deep in (image_deep, tag_deep):
        first, second = (layer for layer in deep if isinstance(layer, nn.Linear))
        _uniform(first, 1.0)
        _uniform(second, LOGISTIC_GAIN)
        second.bias.copy_(-0.5 * second.weight.sum(1))
    metric_LL.normal_(std=1 / math.sqrt(len(metric_LL)))
    metric_LL -= metric_LL.mean(0, keepdim=True)
    metric_LL -= metric_LL.mean(1, keepdim=True)


@torch.no_grad()
def start_shallow(deep: nn.Sequential) -> None:
    """Make a tower's last layer 0, in place, so that the linear path beside it is all there is at first.

    What the deep path then learns is what the linear one leaves over, as in a residual block that begins
    as the identity (Goyal et al., 2017, section 5.1).
    """
    last = [layer for layer in deep if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _uniform(layer: nn.Linear, gain: float) -> None:
    bound = gain * math.sqrt(6 / (layer.in_features + layer.out_features))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
