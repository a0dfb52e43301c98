"""Networks from pictures: each loss against plain loops, augmentation, and the model on disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from drel_core.annotators.cnn import CNN, CNNAnnotator, CNNConfig, CNNLoss, augment, cnn_loss
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.errors import InputError
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.pictures import tiny_network

TAGS = 7
LISTS = [[0, 3], [6], [], [1, 2, 4], list(range(TAGS)), [5, 6]]


def naive(kind: str, score: np.ndarray, margin: float) -> tuple[float, float]:
    """Sum and weight of a loss, a triplet at a time."""
    total, weight = 0.0, 0.0
    for row, tags in enumerate(LISTS):
        irrelevant = [t for t in range(TAGS) if t not in tags]
        if kind == "softmax" and tags:
            log_sum = math.log(sum(math.exp(s) for s in score[row]))
            total += -sum(score[row, t] - log_sum for t in tags) / len(tags)
            weight += 1
        for j in tags:
            hinge = [max(0.0, margin + score[row, k] - score[row, j]) for k in irrelevant]
            if kind == "hinge":
                total += sum(hinge)
                weight += len(irrelevant)
            if kind == "warp" and irrelevant:
                violating = [h for h in hinge if h > 0]
                rank_weight = sum(1 / i for i in range(1, len(violating) + 1))
                total += rank_weight * sum(violating) / max(1, len(violating))
                weight += 1
    return total, weight


@pytest.mark.parametrize("kind", ["softmax", "hinge", "warp"])
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_losses_equal_plain_loops(kind: CNNLoss, margin: float) -> None:
    score = torch.randn(len(LISTS), TAGS, generator=torch.Generator().manual_seed(3))
    score.requires_grad_()
    sums = cnn_loss(kind, score, TagLists.from_lists(LISTS), margin)
    total, weight = naive(kind, score.detach().double().numpy(), margin)
    assert float(sums.loss.detach()) == pytest.approx(total, rel=1e-5)
    assert float(sums.weight) == weight
    assert int(sums.triplets) == sum(len(t) * (TAGS - len(t)) for t in LISTS)
    sums.loss.backward()
    assert torch.isfinite(score.grad).all()
    assert (score.grad[2] == 0).all()  # no tags, nothing to learn


@pytest.mark.parametrize("kind", ["softmax", "hinge", "warp"])
def test_a_batch_without_pictures_has_a_loss_of_nothing(kind: CNNLoss) -> None:
    sums = cnn_loss(kind, torch.zeros(0, TAGS, requires_grad=True), TagLists.from_lists([]))
    assert float(sums.loss.detach()) == 0.0 and float(sums.weight) == 0.0


def test_warp_weighs_a_low_rank_more_than_a_high_one() -> None:
    """The same violation counts for more where more tags stand above the relevant one."""
    score = torch.zeros(2, TAGS)
    score[0, 1:] = -5.0
    score[0, 1] = 0.0
    tags = TagLists.from_lists([[0], [0]])
    alone = cnn_loss("warp", score[:1], tags[:1])
    crowded = cnn_loss("warp", score[1:], tags[1:])
    assert float(alone.loss) == pytest.approx(1.0)
    assert float(crowded.loss) == pytest.approx(sum(1 / i for i in range(1, TAGS)))


def test_augmentation_is_repeatable_and_leaves_pixels_in_their_range() -> None:
    pixels = torch.rand(5, 3, 32, 32) * 255
    one, two = (augment(pixels, 0.4, torch.Generator().manual_seed(s)) for s in (1, 1))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    other = augment(pixels, 0.4, torch.Generator().manual_seed(2))
    assert not torch.equal(one, other)
    assert one.shape == pixels.shape and one.min() >= 0 and one.max() <= 255
    assert augment(pixels, 0.0, torch.Generator()) is pixels
    assert len(augment(pixels[:0], 0.4, torch.Generator())) == 0


def test_hardly_any_augmentation_gives_the_picture_or_its_mirror_image() -> None:
    pixels = torch.rand(40, 3, 32, 32) * 255
    moved = augment(pixels, 1e-6, torch.Generator().manual_seed(0))
    same = (moved - pixels).abs().amax((1, 2, 3)) < 0.5
    mirrored = (moved - pixels.flip(3)).abs().amax((1, 2, 3)) < 0.5
    assert (same ^ mirrored).all()
    assert 8 <= int(mirrored.sum()) <= 32


def test_saved_network_scores_as_before_in_any_batch(tmp_path: Path) -> None:
    config = CNNConfig(backbone=tiny_network(tmp_path / "tiny.pt"), size=32)
    torch.manual_seed(0)
    model = CNN(config, TAGS).eval()
    names = tuple("abcdefg")
    vocabulary = Vocabulary(names, np.ones(TAGS, dtype=np.int64))
    pixels = torch.randint(0, 256, (20, 32 * 32 * 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(model.pixels(pixels))
    model.save(tmp_path)
    info = BundleInfo.of({"method": "cnn-warp", "cnn": {**vars(config)}})
    annotator = CNNAnnotator.load(tmp_path, info, vocabulary)
    assert annotator.image_dim == 32 * 32 * 3
    torch.testing.assert_close(annotator.scores(pixels), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        annotator.scores(pixels.float())[3:5], expected[3:5], atol=1e-5, rtol=1e-4
    )
    assert annotator.scores(pixels[:0]).shape == (0, TAGS)
    assert annotator.annotate(pixels, 3)[1].shape == (20, 3)
    with pytest.raises(InputError, match="7 tags for 2 tags"):
        CNNAnnotator.load(tmp_path, info, Vocabulary(("a", "b"), np.ones(2, dtype=np.int64)))


def test_the_packaged_network_starts_from_its_pretrained_features() -> None:
    from drel_core.images.backbone import load_backbone

    model = CNN(CNNConfig(), 3).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    given = torch.from_numpy(pixels).reshape(2, -1)
    with torch.inference_mode():
        scores = model(model.pixels(given))
        features = torch.from_numpy(load_backbone("efficientnet-lite0")(pixels))
        torch.testing.assert_close(scores, model.head(features), atol=1e-4, rtol=1e-3)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("values", [{"size": 8}, {"dropout": 1.0}, {"augment": -0.1}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        CNNConfig(**values)  # type: ignore[arg-type]


def test_a_program_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    network = torch.nn.Conv2d(3, 4, 3)
    program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    with pytest.raises(InputError, match="cannot be trained"):
        CNN(CNNConfig(backbone=f"file:{tmp_path / 'fixed.pt2'}", size=32), 3)
