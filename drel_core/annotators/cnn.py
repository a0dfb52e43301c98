"""Networks trained end to end from pictures: a pretrained network with softmax, pairwise hinge or WARP loss
(Gong et al., 2014).

Shapes: B pictures, S side of the square input, D = S * S * 3 values of a picture, F features of the
network, T tags, n relevant (picture, tag) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drel_core.annotators.base import DenseScores
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import save_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.errors import InputError
from drel_core.images.backbone import Preprocessing, check_named_by_bundle, load_backbone
from drel_core.model.losses import triplet_hinge, warp_weight
from drel_core.scoring.tag_lists import TagLists

CNNLoss = Literal["softmax", "hinge", "warp"]
_BATCH = 16  # pictures scored at a time: with more, activations do not fit a CPU's cache


@dataclass(kw_only=True)
class CNNConfig:
    """Networks trained from pictures (methods cnn-softmax, cnn-hinge, cnn-warp)."""

    backbone: str = "efficientnet-lite0"
    """the pretrained network: efficientnet-lite0, timm:NAME, torchvision:NAME or file:PATH"""
    size: int = 0
    """side of the square that pictures are squeezed into; 0: the size the network was made for"""
    backbone_rate: float = 0.1
    """learning rate of the pretrained layers, as a share of optim.lr, which the new layer takes"""
    dropout: float = 0.2
    """share of the network's features dropped in training"""
    augment: float = 0.3
    """strength of augmentation, 0 to 1: least side of a random crop is 1 less this; 0 turns it off"""

    def __post_init__(self) -> None:
        if self.size < 0 or 0 < self.size < 32:
            raise ValueError(f"cnn.size is {self.size}; it must be 32 or more, or 0")
        if self.backbone_rate < 0:
            raise ValueError(f"cnn.backbone_rate is {self.backbone_rate}; it must be 0 or more")
        for name in ("dropout", "augment"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"cnn.{name} is {getattr(self, name)}; it must be in [0, 1)")


@dataclass(frozen=True)
class LossSums:
    """Sums over one rank's pictures, 0-d tensors: add them up over ranks, then ``loss / weight`` is the mean.

    Attributes:
        loss: weighted sum of losses.
        weight: what it is divided by.
        triplets: (picture, relevant tag, irrelevant tag) triplets.
        active: those with a loss above 0.
    """

    loss: Tensor
    weight: Tensor
    triplets: Tensor
    active: Tensor


def cnn_loss(kind: CNNLoss, score_BT: Tensor, tags: TagLists, margin: float = 1.0) -> LossSums:
    """One of the losses that Gong et al. (2014, section 3) compare.

    softmax: cross-entropy between softmax(scores) and equal shares of the picture's tags; mean over
    pictures (Eq 1). hinge: ``max(0, m + s_k - s_j)``, mean over all triplets (Eq 3). warp: the mean
    over the tags k that violate the margin, times the sum of 1/i up to their number; mean over
    relevant pairs (Eq 4 with the rank counted instead of sampled).

    Args:
        score_BT: float32 scores of all tags.
        tags: relevant tags of each picture. One without tags, or with all of them, adds nothing.
    """
    row_n, count_B = tags.row_ids(), tags.counts
    relevant_BT = tags.mask(score_BT.shape[1])
    irrelevant_B = score_BT.shape[1] - count_B
    triplets = irrelevant_B[row_n].sum()
    if kind == "softmax":
        log_share_n = F.log_softmax(score_BT, 1)[row_n, tags.values]
        loss = -(log_share_n / count_B[row_n]).sum()
        return LossSums(loss, (count_B > 0).sum().float(), triplets, triplets)
    positive_n = score_BT[row_n, tags.values]
    hinge_nT = triplet_hinge(positive_n, score_BT[row_n], ~relevant_BT[row_n], margin)
    violations_n = (hinge_nT.detach() > 0).sum(1)
    if kind == "hinge":
        return LossSums(hinge_nT.sum(), triplets.float(), triplets, violations_n.sum())
    every_n = irrelevant_B[row_n]
    weight_n = warp_weight(violations_n, every_n, every_n) / violations_n.clamp(min=1)
    loss = (hinge_nT.sum(1) * weight_n).sum()
    return LossSums(loss, (every_n > 0).sum().float(), triplets, violations_n.sum())


def augment(pixels_B3SS: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Crop each picture at random, mirror about half of them, change brightness and contrast by up to
    ``strength`` / 2. The picture is resampled once.

    Args:
        pixels_B3SS: float, 0 to 255.
        strength: the crop's sides are at least ``1 - strength`` of the picture's.
        generator: on the CPU, so that the same seed gives the same draws on every device.
    """
    count = len(pixels_B3SS)
    if not strength or not count:
        return pixels_B3SS
    draw_7B = torch.rand(7, count, generator=generator).to(pixels_B3SS.device)
    side_2B = 1 - strength * draw_7B[:2]
    shift_2B = (2 * draw_7B[2:4] - 1) * (1 - side_2B)
    affine_B23 = pixels_B3SS.new_zeros(count, 2, 3)
    mirror_B = torch.where(draw_7B[4] < 0.5, -1.0, 1.0)
    affine_B23[:, 0, 0], affine_B23[:, 1, 1] = side_2B[0] * mirror_B, side_2B[1]
    affine_B23[:, :, 2] = shift_2B.T
    grid = F.affine_grid(affine_B23, list(pixels_B3SS.shape), align_corners=False)
    moved = F.grid_sample(pixels_B3SS, grid, padding_mode="reflection", align_corners=False)
    gain_B = 1 + strength * (draw_7B[5] - 0.5)
    mean_B = moved.mean((1, 2, 3))
    offset_B = mean_B * strength * (draw_7B[6] - 0.5)
    moved = moved.sub_(mean_B.view(-1, 1, 1, 1)).mul_(gain_B.view(-1, 1, 1, 1))
    return moved.add_((mean_B + offset_B).view(-1, 1, 1, 1)).clamp_(0, 255)


def picture_preprocessing(config: CNNConfig) -> Preprocessing:
    """How pictures are resized and normalised for the configured network.

    Raises:
        InputError: no such network.
    """
    own = load_backbone(config.backbone).preprocessing
    return replace(own, size=config.size or own.size)


class CNN(nn.Module):
    """A pretrained network and one linear layer to the tags.

    Batch norms keep the statistics and form they were trained with (those of efficientnet-lite0 are
    folded into its convolutions): a batch's result does not depend on how it lies over ranks.

    Raises:
        InputError: no such network, or one that cannot be trained.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: CNNConfig, num_tags: int) -> None:
        super().__init__()
        self.config = config
        backbone = load_backbone(config.backbone)
        self.preprocessing = picture_preprocessing(config)
        self.size = self.preprocessing.size
        self.backbone = backbone.trainable()
        std = torch.tensor(self.preprocessing.std).view(1, 3, 1, 1)
        mean = torch.tensor(self.preprocessing.mean).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        with torch.inference_mode():
            features = self.features(torch.zeros(1, 3, self.size, self.size)).shape[1]
        self.head = nn.Linear(features, num_tags)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    @property
    def image_dim(self) -> int:
        """D: S * S * 3."""
        return self.size * self.size * 3

    def train(self, mode: bool = True) -> CNN:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def pixels(self, bytes_BD: Tensor) -> Tensor:
        """float32 ``[B, 3, S, S]``, 0 to 255, in channels_last memory, of pictures as rows ``[B, D]``."""
        side = self.size
        pixels_BSS3 = bytes_BD.reshape(-1, side, side, 3)
        return pixels_BSS3.permute(0, 3, 1, 2).to(self.scale.dtype)

    def features(self, pixels_B3SS: Tensor) -> Tensor:
        """Features ``[B, F]`` of pixels from 0 to 255."""
        input_B3SS = torch.addcmul(self.shift, pixels_B3SS, self.scale)
        output: Tensor = self.backbone(input_B3SS.contiguous(memory_format=torch.channels_last))
        if output.dim() == 4:
            output = output.mean((2, 3))
        return output

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Scores ``[B, T]`` of pixels from 0 to 255."""
        features_BF = self.features(pixels_B3SS)
        return self.head(F.dropout(features_BF, self.config.dropout, self.training))

    def save(self, folder: Path) -> None:
        tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        save_tensors(tensors, folder / "cnn.safetensors")


class CNNAnnotator(DenseScores):
    """A trained network. Its features are pixels: rows ``[B, D]`` of S * S * 3 values from 0 to 255."""

    def __init__(self, model: CNN, vocabulary: Vocabulary, info: BundleInfo) -> None:
        self.model = model.eval()
        self.vocabulary, self.info = vocabulary, info
        self.name, self.num_tags = info.method, len(vocabulary)

    @classmethod
    def load(cls, folder: Path, info: BundleInfo, vocabulary: Vocabulary) -> CNNAnnotator:
        held = load_tensors(folder / "cnn.safetensors")
        if len(held["head.weight"]) != len(vocabulary):
            raise InputError(
                f"{folder}: a network of {len(held['head.weight'])} tags for {len(vocabulary)} tags"
            )
        check_named_by_bundle(info.content["cnn"].get("backbone", CNNConfig.backbone))
        model = CNN(CNNConfig(**info.content["cnn"]), len(vocabulary))
        model.load_state_dict(held)
        return cls(model, vocabulary, info)

    @property
    def image_dim(self) -> int:
        return self.model.image_dim

    @torch.inference_mode()
    def log_scores(self, features_BD: Tensor) -> Tensor:
        parts = [self.model(self.model.pixels(part)) for part in features_BD.split(_BATCH)]
        return torch.cat(parts).float() if parts else torch.empty(0, self.num_tags)

    def plain_scores(self, features_BD: Tensor) -> Tensor:
        return self.log_scores(features_BD)
