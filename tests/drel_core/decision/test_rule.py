"""The decision rule: slopes are derivatives, choices the best there are, calibration that of scikit-learn."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from drel_core.annotators.load import load_bundle
from drel_core.decision.rule import (
    DECISION,
    DecisionConfig,
    DecisionRule,
    _neighbourhood,
    _slopes,
    calibrate,
    frank_wolfe,
    learn_rule,
)
from drel_core.errors import InputError
from drel_core.scoring.topk import topk, topk_blockwise
from tests.helpers.bundles import write_drel


def random_rule(tags: int, seed: int = 0) -> DecisionRule:
    torch.manual_seed(seed)
    return DecisionRule(
        torch.tensor([0.7]), torch.randn(tags), torch.rand(tags) + 0.1, -torch.rand(tags)
    )


def expected_f1(said_T: Tensor, hits_T: Tensor, expected_T: Tensor, hit: float) -> Tensor:
    """F1 of expected mean precision and recall over the tags that occur, times their number, and hits."""
    occurs_T = 1 - (-expected_T).exp()
    precision = (hits_T / said_T * (1 - (-said_T).exp())).sum() / occurs_T.sum()
    recall = (hits_T / expected_T * occurs_T).sum() / occurs_T.sum()
    return 2 * precision * recall / (precision + recall) * occurs_T.sum() + hit * hits_T.sum()


def test_worth_is_the_formula_for_some_tags_and_all() -> None:
    rule, score_BT = random_rule(9), torch.randn(4, 9)
    before = score_BT.clone()
    whole_BT = rule.utility(score_BT, slice(None))
    assert (score_BT == before).all()
    for i in range(4):
        for t in range(9):
            chance = 1 / (1 + np.exp(-(0.7 * float(score_BT[i, t]) + float(rule.shift_T[t]))))
            worth = float(rule.gain_T[t]) * chance + float(rule.offset_T[t])
            assert float(whole_BT[i, t]) == pytest.approx(worth, abs=1e-6)
    some_p = torch.tensor([7, 2])
    torch.testing.assert_close(rule.utility(score_BT[:, some_p], some_p), whole_BT[:, some_p])


def test_best_tags_by_blocks_are_those_of_the_whole_matrix() -> None:
    torch.manual_seed(1)
    image_BL, tag_TL, bias_T = torch.randn(6, 4), torch.randn(23, 4), torch.randn(23)
    rule = random_rule(23)
    worth_BT = rule.utility(image_BL @ tag_TL.T + bias_T, slice(None))
    for block in (1, 5, 100):
        score_Bk, tag_Bk = topk_blockwise(image_BL, tag_TL, 7, bias_T, block, rule.utility)
        expected_score_Bk, expected_tag_Bk = topk(worth_BT, 7)
        assert (tag_Bk == expected_tag_Bk).all()
        torch.testing.assert_close(score_Bk, expected_score_Bk)


def test_calibration_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(size=(300, 8)) * 3
    share = generator.uniform(0.01, 0.5, 8)
    chance = 1 / (1 + np.exp(-(0.6 * score - 1.5 + 0.4 * np.log(share))))
    hit = generator.random(score.shape) < chance
    found = calibrate(torch.tensor(score).float(), torch.tensor(hit), torch.tensor(share))
    log_share = np.broadcast_to(np.log(share), score.shape)
    inputs = np.stack([score.ravel(), log_share.ravel()], 1)
    other = LogisticRegression(C=1e6, tol=1e-8).fit(inputs, hit.ravel())
    expected = (other.coef_[0, 0], other.intercept_[0], other.coef_[0, 1])
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_calibration_without_hits_or_misses_stays_finite(rate: float) -> None:
    score_nT, hit_nT = torch.randn(5, 3), torch.full((5, 3), rate > 0)
    found = calibrate(score_nT, hit_nT, torch.full((3,), 0.2).double())
    assert np.isfinite(found).all() and found[0] > 0


def test_slopes_are_the_derivatives_of_the_expected_score() -> None:
    torch.manual_seed(2)
    expected_T = torch.rand(6).double() * 5 + 0.1
    said_T = (torch.rand(6).double() * 6 + 0.1).requires_grad_()
    hits_T = (torch.rand(6).double() * 0.9 * said_T.detach()).requires_grad_()
    expected_f1(said_T, hits_T, expected_T, 0.02).backward()
    gain_T, offset_T = _slopes(
        said_T.detach(), hits_T.detach(), expected_T, 1 - (-expected_T).exp(), 0.02
    )
    # A word of probability p adds p to hits and 1 to words.
    torch.testing.assert_close(gain_T, hits_T.grad)
    torch.testing.assert_close(offset_T, said_T.grad)


def test_the_rule_finds_the_best_choice_of_all() -> None:
    """Four images, five tags, two words: every choice can be tried."""
    torch.manual_seed(3)
    images, tags, k = 4, 5, 2
    probability_nT = torch.rand(images, tags).pow(3)
    config = DecisionConfig(images=images, hit=0.0)
    share_T = probability_nT.double().mean(0)
    many_T = torch.full((tags,), 1e9).double()  # statistics are each tag's own
    gain_T, offset_T = frank_wolfe(probability_nT, share_T, many_T, k, config)

    def reached(choice: list[tuple[int, int]]) -> float:
        said_nT = torch.zeros(images, tags)
        for i, words in enumerate(choice):
            said_nT[i, list(words)] = 1
        said_T = said_nT.sum(0).double().clamp(min=1e-6)
        hits_T = (said_nT * probability_nT).sum(0).double()
        return float(expected_f1(said_T, hits_T, share_T * images, 0.0))

    pairs = [(a, b) for a in range(tags) for b in range(a)]
    every = sorted(reached(list(choice)) for choice in product(pairs, repeat=images))
    plain = probability_nT.topk(k, dim=1).indices.tolist()
    ruled = (probability_nT * gain_T + offset_T).topk(k, dim=1).indices.tolist()
    assert reached([tuple(words) for words in ruled]) >= every[-1] - 0.02 * (every[-1] - every[0])
    assert reached([tuple(words) for words in ruled]) > reached([tuple(words) for words in plain])


def test_a_learned_rule_raises_macro_f1_and_keeps_the_order_of_images() -> None:
    """Many rare tags, one word too many: the rule lets wrong words fall on common tags."""
    generator = torch.Generator().manual_seed(4)
    tags, images = 60, 1500
    share_T = 0.4 / torch.arange(1, tags + 1)
    logit_nT = share_T.logit() - 1.5 + 2.5 * torch.randn(images, tags, generator=generator)
    hit_nT = torch.rand(images, tags, generator=generator) < logit_nT.sigmoid()
    count_T = hit_nT.sum(0)
    half = images // 2
    rule = learn_rule(
        logit_nT[:half], hit_nT[:half], count_T, images, 5, DecisionConfig(images=half)
    )
    assert (rule.gain_T > 0).all() and float(rule.slope) > 0
    new_nT = logit_nT[half:]

    def f1(worth_nT: Tensor) -> float:
        said_nT = torch.zeros_like(worth_nT, dtype=torch.bool).scatter_(
            1, topk(worth_nT, 5)[1], True
        )
        hits_T = (said_nT & hit_nT[half:]).sum(0).double()
        precision = (hits_T / said_nT.sum(0).clamp(min=1)).mean()
        recall = (hits_T / hit_nT[half:].sum(0).clamp(min=1)).mean()
        return float(2 * precision * recall / (precision + recall))

    by_count = [f1(new_nT - tau * count_T.clamp(min=1).log()) for tau in (0.0, 0.25, 0.5, 0.75)]
    worth_nT = rule.utility(new_nT, slice(None))
    assert f1(worth_nT) > 1.05 * max(by_count)
    order = new_nT[:, 7].argsort()
    assert (worth_nT[order, 7].diff() >= 0).all()


def test_neighbourhood_sums_the_tags_around() -> None:
    torch.manual_seed(5)
    value_T, order = torch.rand(90).double(), torch.randperm(90)
    found_T = _neighbourhood(value_T, order)
    for place, tag in enumerate(order.tolist()):
        around = order[max(0, place - 20) : place + 21]
        assert float(found_T[tag]) == pytest.approx(float(value_T[around].sum()))


def test_a_new_tag_takes_the_rule_of_tags_of_like_count() -> None:
    rule = random_rule(50)
    count_T = torch.arange(1, 51)
    grown = rule.extended(count_T, torch.cat([count_T + 3, torch.tensor([1, 50])]))
    assert len(grown) == 52
    assert (grown.gain_T[:50] == rule.gain_T).all()
    assert float(grown.gain_T[50]) == pytest.approx(float(rule.gain_T[:20].mean()))
    assert float(grown.offset_T[51]) == pytest.approx(float(rule.offset_T[30:].mean()))
    assert rule.extended(count_T, count_T) is rule


def test_a_bundle_with_a_rule_scores_by_it_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    folder = write_drel(tmp_path / "model")
    plain = load_bundle(folder)
    features_BD = torch.randn(5, plain.image_dim)
    rule = random_rule(plain.num_tags)
    rule.save(folder / DECISION)
    ruled = load_bundle(folder)
    expected_BT = rule.utility(plain.scores(features_BD), slice(None))
    torch.testing.assert_close(ruled.scores(features_BD), expected_BT)
    assert (ruled.annotate(features_BD, 3)[1] == topk(expected_BT, 3)[1]).all()
    random_rule(plain.num_tags + 1).save(folder / DECISION)
    with pytest.raises(InputError, match="a rule for"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"fits": -1},
        {"held_out": 0.0},
        {"held_out": 0.6},
        {"fits": 11},
        {"images": 0},
        {"hit": -1.0},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="decision"):
        DecisionConfig(**values)  # type: ignore[arg-type]
