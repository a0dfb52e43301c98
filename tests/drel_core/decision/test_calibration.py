"""From scores to probabilities: agreement with scikit-learn, order kept, new tags, degenerate data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from drel_core.decision.calibration import (
    Calibration,
    _logistic,
    extend_by_count,
    fit_calibration,
    level,
)
from drel_core.decision.held_out import HeldOut, is_relevant, tag_share
from drel_core.decision.kernel import log_estimate
from drel_core.scoring.reliability import expected_calibration_error, reliability, reliability_table


def planted(
    images: int = 400, tags: int = 30, seed: int = 0, kernel: bool = True, blur: float = 0.0
) -> tuple[HeldOut, torch.Tensor, torch.Tensor]:
    """Scores that say too much, move up and down with the image, and know nothing of frequency; with them
    the true probabilities of the candidates and the shares of the tags. What is blurred in the scores the
    kernel can tell."""
    generator = torch.Generator().manual_seed(seed)
    share_T = (0.3 / torch.arange(1, tags + 1)).double()
    signal_nT = torch.randn(images, tags, generator=generator).double() * 1.5
    odds_nT = share_T.logit() + signal_nT - 1
    chance_nT = odds_nT.sigmoid()
    hit_nT = torch.rand(images, tags, generator=generator) < chance_nT
    shift_n1 = torch.randn(images, 1, generator=generator).double()
    estimate_nT = (chance_nT + 0.02 * torch.randn(images, tags, generator=generator)).float()
    blur_nT = blur * torch.randn(images, tags, generator=generator).double()
    score_nT = (3 * (signal_nT + 0.3 * shift_n1 + blur_nT)).float()
    order = score_nT.argsort(dim=1, descending=True)
    held = HeldOut(
        order,
        score_nT.gather(1, order),
        hit_nT.gather(1, order),
        int(hit_nT.sum()),
        log_estimate(estimate_nT.gather(1, order)) if kernel else None,
    )
    return held, chance_nT, share_T


def test_the_regression_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(size=2400) * 3
    share = np.log(generator.uniform(0.01, 0.5, 2400))
    hit = generator.random(2400) < 1 / (1 + np.exp(-(0.6 * score - 1.5 + 0.4 * share)))
    found, loss = _logistic([torch.tensor(score), torch.tensor(share)], torch.tensor(hit).double())
    other = LogisticRegression(C=1e6, tol=1e-8).fit(np.stack([score, share], 1), hit)
    assert found == pytest.approx([*other.coef_[0], other.intercept_[0]], abs=2e-3)
    chance = other.predict_proba(np.stack([score, share], 1))
    assert loss == pytest.approx(log_loss(hit, chance, normalize=False), rel=1e-4)


@pytest.mark.parametrize("kernel", [True, False])
def test_fitted_probabilities_are_as_often_right_as_they_say(kernel: bool) -> None:
    blur = 1.0 if kernel else 0.0
    held, _, share_T = planted(images=1000, kernel=kernel, blur=blur)
    fitted = fit_calibration(held, share_T)
    assert (fitted.kernel_factor is None) == (not kernel)
    assert (fitted.kernel_gain is None) == (not kernel)
    table = reliability(fitted.probability_nM, fitted.hit_nM)
    assert expected_calibration_error(table) < 0.02
    new, chance_nT, _ = planted(seed=1, kernel=kernel, blur=blur)
    again = fit_calibration(new, share_T)
    true_nM = chance_nT.gather(1, again.tag_nM)
    assert float((again.probability_nM - true_nM).abs().mean()) < (0.02 if kernel else 0.05)
    rows = reliability_table(table)
    assert sum(row["pairs"] for row in rows) == int(table[50:, 0].sum())
    assert all(0.05 <= row["probability"] <= 1 and 0 <= row["right"] <= 1 for row in rows)


def test_probabilities_of_an_image_keep_the_order_of_z() -> None:
    held, _, share_T = planted()
    calibration = fit_calibration(held, share_T).calibration
    z_BM = torch.randn(7, 40).mul(5).sort(dim=1, descending=True).values
    probability_BM = calibration.probability(z_BM, level(z_BM))
    assert (probability_BM.diff(dim=1) <= 0).all()
    assert (probability_BM >= 0).all() and (probability_BM <= 1).all()


@pytest.mark.parametrize("bends", [(), (0.3,), (0.3, -0.2)])
def test_the_formula_of_a_probability(bends: tuple[float, ...]) -> None:
    calibration = Calibration(
        torch.tensor([0.5]), torch.tensor([0.1, -0.2, 0.3]), torch.tensor([1.1, -0.4, *bends, 0.7])
    )
    score = [1.0, 4.0, -2.0]
    z = [0.5 * s + shift for s, shift in zip(score, (0.1, -0.2, 0.3), strict=True)]
    found = calibration.order(torch.tensor([score]), slice(None))
    assert found[0].tolist() == pytest.approx(z)
    z_best = sorted(z, reverse=True)
    of_level = np.log(np.exp(z_best).sum())
    best_BM = torch.tensor([z_best])
    for place, one in enumerate(z_best):
        odds = 1.1 * one - 0.4 * of_level + 0.7
        for knot, bend in zip((-1, 1), bends, strict=False):
            odds += bend * np.log1p(np.exp(one - knot))
        chance = calibration.probability(best_BM, level(best_BM))[0, place]
        assert float(chance) == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-5)


@pytest.mark.parametrize("kind", ["told apart", "against", "one tag", "constant"])
def test_degenerate_scores_give_finite_probabilities(kind: str) -> None:
    held, _, share_T = planted(images=30, tags=1 if kind == "one tag" else 8)
    score_nM = held.score_nM
    if kind == "told apart":
        score_nM = held.hit_nM.float() * 10
    if kind == "against":
        score_nM = -held.hit_nM.float()
    if kind == "constant":
        score_nM = torch.zeros_like(score_nM)
    fitted = fit_calibration(
        HeldOut(held.tag_nM, score_nM, held.hit_nM, held.relevant, held.evidence_nM), share_T
    )
    assert torch.isfinite(fitted.probability_nM).all()
    assert float(fitted.calibration.slope) > 0
    assert fitted.kernel_factor is not None and fitted.kernel_factor >= 0


def test_a_kernel_that_says_next_to_nothing_more_is_left_out() -> None:
    held, _, share_T = planted()
    fitted = fit_calibration(held, share_T, least_gain=0.02)
    assert fitted.kernel_gain is not None and 0 <= fitted.kernel_gain < 0.02
    assert fitted.kernel_factor is None
    alone = fit_calibration(replace(held, evidence_nM=None), share_T)
    assert torch.equal(alone.calibration.link, fitted.calibration.link)
    assert torch.equal(alone.probability_nM, fitted.probability_nM)
    useful, _, _ = planted(blur=1.0)
    for some, least in ((useful, 0.02), (held, 0.0)):
        kept = fit_calibration(some, share_T, least)
        assert kept.kernel_gain is not None and kept.kernel_gain >= least
        assert kept.kernel_factor is not None and kept.kernel_factor > 0


def test_new_values_are_means_of_tags_of_like_count() -> None:
    generator = torch.Generator().manual_seed(3)
    count_T = torch.randint(1, 300, (120,), generator=generator)
    value_T = torch.rand(120, generator=generator)
    new_n = torch.tensor([1, 17, 80, 299, 5000, 0])
    grown_T = extend_by_count(value_T, count_T, torch.cat([count_T, new_n]))
    assert (grown_T[:120] == value_T).all()
    for place, count in enumerate(new_n.tolist()):
        distance = (count_T.double().log() - np.log(max(count, 1))).abs()
        furthest = distance.sort().values[19]
        surely = value_T[distance < furthest]
        maybe = value_T[distance == furthest]
        left = 20 - len(surely)
        low = (surely.sum() + maybe.sort().values[:left].sum()) / 20
        high = (surely.sum() + maybe.sort(descending=True).values[:left].sum()) / 20
        assert float(low) - 1e-5 <= float(grown_T[120 + place]) <= float(high) + 1e-5
    assert extend_by_count(value_T, count_T, count_T) is value_T
    few = extend_by_count(value_T[:3], count_T[:3], torch.cat([count_T[:3], new_n[:1]]))
    assert float(few[3]) == pytest.approx(float(value_T[:3].mean()))


def test_a_tag_that_is_on_more_images_moves_as_counts_do() -> None:
    count_T = torch.arange(1, 201)
    value_T = 3.0 / count_T.float()  # as gains go
    now_T = count_T.clone()
    now_T[[0, 99]] = torch.tensor([50, 101])
    ratio_T = extend_by_count(value_T, count_T, now_T, by_ratio=True)
    assert (ratio_T != value_T).nonzero()[:, 0].tolist() == [0, 99]
    means = [float(value_T[1:21].mean()), float(value_T[40:60].mean())]  # itself left out
    assert float(ratio_T[0]) == pytest.approx(3.0 * means[1] / means[0], rel=0.02)
    assert float(ratio_T[99]) == pytest.approx(3 / 100, rel=0.02)
    # Step by step or at once: a stream of small updates ends where one update does.
    many_T = value_T
    for step in range(1, 50):
        before, after = now_T.clone(), now_T.clone()
        before[0], after[0] = step, step + 1
        many_T = extend_by_count(many_T, before, after, by_ratio=True)
    assert float(many_T[0]) == pytest.approx(float(ratio_T[0]), rel=0.25)
    added_T = extend_by_count(value_T, count_T, now_T)
    assert float(added_T[0]) == pytest.approx(3.0 + means[1] - means[0], rel=0.02)
    # Where nothing is known of the ratio, the value stays.
    none_T = extend_by_count(torch.zeros(200), count_T, now_T, by_ratio=True)
    assert not none_T.any()


def test_candidates_are_compared_with_relevant_pairs() -> None:
    tag_nM = torch.tensor([[2, 0], [1, 3]])
    keys = torch.tensor([0 * 4 + 0, 1 * 4 + 3, 1 * 4 + 2])
    assert is_relevant(tag_nM, keys, 4).tolist() == [[False, True], [False, True]]
    nothing = HeldOut(tag_nM, torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), 3)
    assert nothing.says_nothing and len(nothing) == 2


def test_a_tag_without_images_counts_as_half_of_one() -> None:
    assert tag_share(torch.tensor([0, 1, 4]), 8).tolist() == [0.0625, 0.125, 0.5]
