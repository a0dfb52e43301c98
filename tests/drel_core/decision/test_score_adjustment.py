"""Prior, kernel and rule on top of the towers' scores."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from drel_core.decision.kernel import KernelHead
from drel_core.decision.rule import DecisionRule
from drel_core.decision.score_adjustment import ScoreAdjustment
from drel_core.model.towers import DREL, ModelConfig

DIM, TAGS, MARKS, IMAGES = 4, 6, 3, 5


def parts() -> tuple[DREL, KernelHead, DecisionRule, Tensor]:
    torch.manual_seed(0)
    config = ModelConfig(image_hidden=8, tag_dim=5, tag_hidden=6, latent=7)
    one = torch.ones(1)
    kernel = KernelHead(
        torch.randn(MARKS, DIM), one, torch.rand(MARKS, TAGS), torch.rand(TAGS), one / 9, 2 * one
    )
    rule = DecisionRule(0.5 * one, torch.randn(TAGS), torch.rand(TAGS) + 0.1, -torch.rand(TAGS))
    return DREL(DIM, config).eval(), kernel, rule, torch.randn(IMAGES, DIM)


def test_evidence_comes_before_the_rule_and_either_may_be_missing() -> None:
    model, kernel, rule, features_BD = parts()
    prior_T, score_BT = torch.randn(TAGS), torch.randn(IMAGES, TAGS)
    evidence_BT = kernel.evidence(kernel.kernel(model.standardised(features_BD)), slice(None))
    with_kernel_BT = score_BT + evidence_BT
    for held_kernel, held_rule, expected_BT in (
        (None, None, score_BT),
        (kernel, None, with_kernel_BT),
        (None, rule, rule.utility(score_BT, slice(None))),
        (kernel, rule, rule.utility(with_kernel_BT, slice(None))),
    ):
        adjustment = ScoreAdjustment(prior_T, held_kernel, held_rule)
        adjust = adjustment.for_images(model, features_BD)
        torch.testing.assert_close(adjust(score_BT.clone(), slice(None)), expected_BT)
        some = torch.tensor([4, 1])
        torch.testing.assert_close(adjust(score_BT[:, some], some), expected_BT[:, some])
        plain = adjustment.without_rule().for_images(model, features_BD)
        expected_BT = score_BT if held_kernel is None else with_kernel_BT
        torch.testing.assert_close(plain(score_BT.clone(), slice(None)), expected_BT)


def test_the_prior_is_added_to_the_bias_of_the_tags_it_belongs_to() -> None:
    tag_nL1 = torch.zeros(2, 8)
    ScoreAdjustment(torch.arange(6.0)).add_prior(tag_nL1, torch.tensor([5, 2]))
    assert tag_nL1[:, -1].tolist() == [5.0, 2.0] and not tag_nL1[:, :-1].any()


def test_what_is_saved_loads_again(tmp_path: Path) -> None:
    _, kernel, rule, _ = parts()
    prior_T = torch.zeros(TAGS)
    for held_kernel, held_rule in ((None, None), (kernel, None), (kernel, rule)):
        ScoreAdjustment(prior_T, held_kernel, held_rule).save(tmp_path)
        again = ScoreAdjustment.load(tmp_path, prior_T, DIM)
        assert (again.kernel is None) == (held_kernel is None)
        assert (again.rule is None) == (held_rule is None)
    assert again.kernel is not None and again.rule is not None
    assert torch.equal(again.kernel.weight_RT, kernel.weight_RT)
    assert torch.equal(again.rule.gain_T, rule.gain_T)
