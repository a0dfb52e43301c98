"""Prior, kernel and calibration on top of the towers' scores."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import Decider
from drel_core.decision.kernel import KernelHead
from drel_core.decision.score_adjustment import ScoreAdjustment, folded
from drel_core.model.towers import DREL, ModelConfig

DIM, TAGS, MARKS, IMAGES = 4, 6, 3, 5


def parts() -> tuple[DREL, KernelHead, Decider, Tensor]:
    torch.manual_seed(0)
    config = ModelConfig(image_hidden=8, tag_dim=5, tag_hidden=6, latent=7)
    one = torch.ones(1)
    kernel = KernelHead(
        torch.randn(MARKS, DIM), one, torch.rand(MARKS, TAGS), torch.rand(TAGS), one / 9, 2 * one
    )
    calibration = Calibration(0.5 * one, torch.randn(TAGS), torch.tensor([1.0, 0.2, 0.0, 0.0]))
    decider = Decider(calibration, torch.rand(TAGS) + 0.1, -torch.rand(TAGS))
    return DREL(DIM, config).eval(), kernel, decider, torch.randn(IMAGES, DIM)


def test_evidence_comes_before_the_calibration_and_either_may_be_missing() -> None:
    model, kernel, decider, features_BD = parts()
    prior_T, score_BT = torch.randn(TAGS), torch.randn(IMAGES, TAGS)
    evidence_BT = kernel.evidence(kernel.kernel(model.standardised(features_BD)), slice(None))
    with_kernel_BT = score_BT + evidence_BT
    order = decider.calibration.order
    for held_kernel, held_decider, expected_BT in (
        (None, None, score_BT),
        (kernel, None, with_kernel_BT),
        (None, decider, order(score_BT.clone(), slice(None))),
        (kernel, decider, order(with_kernel_BT.clone(), slice(None))),
    ):
        adjustment = ScoreAdjustment(prior_T, held_kernel, held_decider)
        adjust = adjustment.for_images(model, features_BD)
        torch.testing.assert_close(adjust(score_BT.clone(), slice(None)), expected_BT)
        some = torch.tensor([4, 1])
        torch.testing.assert_close(adjust(score_BT[:, some], some), expected_BT[:, some])


def test_encoded_tags_can_hold_the_calibration() -> None:
    model, kernel, decider, features_BD = parts()
    image_BL, tag_TL1 = torch.randn(IMAGES, 3), torch.randn(TAGS, 4)
    adjustment = ScoreAdjustment(torch.zeros(TAGS), kernel, decider)
    score_BT = image_BL @ tag_TL1[:, :-1].T + tag_TL1[:, -1]
    expected_BT = adjustment.for_images(model, features_BD)(score_BT, slice(None))
    held_TL1, rest = folded(tag_TL1, decider), adjustment.without_calibration()
    assert rest.decider is None
    z_BT = image_BL @ held_TL1[:, :-1].T + held_TL1[:, -1]
    found_BT = rest.for_images(model, features_BD)(z_BT, slice(None))
    torch.testing.assert_close(found_BT, expected_BT)
    torch.testing.assert_close(folded(tag_TL1[2:4], decider, slice(2, 4)), held_TL1[2:4])
    plain = ScoreAdjustment(torch.zeros(TAGS), kernel)
    assert folded(tag_TL1, None) is tag_TL1 and plain.without_calibration() is plain


def test_the_prior_is_added_to_the_bias_of_the_tags_it_belongs_to() -> None:
    tag_nL1 = torch.zeros(2, 8)
    ScoreAdjustment(torch.arange(6.0)).add_prior(tag_nL1, torch.tensor([5, 2]))
    assert tag_nL1[:, -1].tolist() == [5.0, 2.0] and not tag_nL1[:, :-1].any()


def test_what_is_saved_loads_again(tmp_path: Path) -> None:
    _, kernel, decider, _ = parts()
    prior_T = torch.zeros(TAGS)
    for held_kernel, held_decider in ((None, None), (kernel, None), (kernel, decider)):
        ScoreAdjustment(prior_T, held_kernel, held_decider).save(tmp_path)
        again = ScoreAdjustment.load(tmp_path, prior_T, DIM)
        assert (again.kernel is None) == (held_kernel is None)
        assert (again.decider is None) == (held_decider is None)
    assert again.kernel is not None and again.decider is not None
    assert torch.equal(again.kernel.weight_RT, kernel.weight_RT)
    assert torch.equal(again.decider.gain_T, decider.gain_T)
