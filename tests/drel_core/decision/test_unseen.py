"""Probabilities of tags that a model knows by name alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from drel_core.decision.calibration import Calibration, extend_by_count
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.score_adjustment import folded
from drel_core.decision.unseen import UnseenScores, fit_unseen
from drel_core.scoring.reliability import expected_calibration_error, reliability
from tests.helpers.bundles import random_decider

COUNT_T = torch.tensor([40, 9, 3, 1, 12])


def grown() -> Decider:
    return UnseenScores(0.2, -3.0, 5).extended(random_decider(5), COUNT_T, 2)


def planted() -> tuple[Calibration, Tensor, Tensor, Tensor, Tensor]:
    """Calibration, scores, hits, levels and shares: pairs drawn with known odds through a link with bends;
    tags differ in their shares of images."""
    torch.manual_seed(0)
    images, tags = 4000, 60
    calibration = Calibration(
        torch.tensor([0.6]), torch.zeros(5), torch.tensor([0.9, -0.3, 0.4, 0.2, -0.2])
    )
    share_S = torch.logspace(-2, -0.7, tags)
    score_nS = 3 * torch.randn(images, tags)
    level_n1 = torch.rand(images, 1)
    z_nS = 0.3 * score_nS + share_S.log() - 0.5
    hit_nS = torch.rand(images, tags) < calibration.log_odds(z_nS, level_n1).sigmoid()
    return calibration, score_nS, hit_nS, level_n1, hit_nS.double().mean(0)


def said(found: UnseenScores, score: Tensor, level: Tensor, calibration: Calibration) -> Tensor:
    return calibration.log_odds(found.slope * score + found.shift, level).sigmoid()


def test_probabilities_come_true_over_all_tags() -> None:
    calibration, score_nS, hit_nS, level_n1, share_S = planted()
    count_S = (1000 * share_S).round().long()
    found = fit_unseen(score_nS, hit_nS, level_n1, count_S, 1000, calibration)
    assert abs(found.slope - 0.3) < 0.03
    assert found.count == round(float(count_S.double().log().mean().exp()))
    chance_nS = said(found, score_nS, level_n1, calibration)
    assert 0.95 < float(chance_nS.sum() / hit_nS.sum()) < 1.05
    assert expected_calibration_error(reliability(chance_nS, hit_nS)) < 0.02


def test_kept_images_that_have_more_of_rare_tags_raise_no_probability() -> None:
    """As a bundle's reservoir has: images with a rare tag are drawn three times as often."""
    calibration, score_nS, hit_nS, level_n1, share_S = planted()
    count_S = (1000 * share_S).round().long()
    has_rare_n = hit_nS[:, :15].any(1)
    kept_n = has_rare_n | (torch.rand(len(hit_nS)) < 0.3)
    kept = score_nS[kept_n], hit_nS[kept_n], level_n1[kept_n]

    def ratio(count_S: Tensor, rows: int) -> float:
        found = fit_unseen(*kept, count_S, rows, calibration)
        return float(said(found, score_nS, level_n1, calibration).sum() / hit_nS.sum())

    corrected, as_kept_S = ratio(count_S, 1000), hit_nS[kept_n].sum(0)
    assert 0.8 < corrected < 1.1
    assert ratio(as_kept_S, int(kept_n.sum())) > corrected + 0.15


def test_old_tags_keep_their_calibration_and_unseen_ones_have_their_own() -> None:
    before, decider = random_decider(5), grown()
    score = torch.tensor([[1.0, -2.0, 0.5, 3.0, 0.0, 2.0, -1.0]])
    z = decider.calibration.order(score.clone(), slice(None))
    torch.testing.assert_close(
        z[:, :5], before.calibration.order(score[:, :5].clone(), slice(None))
    )
    torch.testing.assert_close(z[0, 5:], torch.tensor([0.2 * 2.0 - 3.0, 0.2 * -1.0 - 3.0]))
    some = torch.tensor([6, 1])
    torch.testing.assert_close(decider.calibration.order(score[:, some].clone(), some), z[:, some])
    tag_nL1 = torch.randn(7, 4)
    image_1L = torch.randn(1, 3)
    torch.testing.assert_close(
        image_1L @ folded(tag_nL1, decider)[:, :-1].T + folded(tag_nL1, decider)[:, -1],
        decider.calibration.order(image_1L @ tag_nL1[:, :-1].T + tag_nL1[:, -1], slice(None)),
    )
    torch.testing.assert_close(folded(tag_nL1[some], decider, some), folded(tag_nL1, decider)[some])


def test_they_decide_like_tags_of_the_count_that_is_assumed() -> None:
    before, decider = random_decider(5), grown()
    as_if = extend_by_count(before.gain_T, COUNT_T, torch.cat([COUNT_T, torch.tensor([5, 5])]))
    torch.testing.assert_close(decider.gain_T, as_if)
    assert decider.cut_T is not None and len(decider.cut_T) == 7


def test_a_bundle_keeps_slopes(tmp_path: Path) -> None:
    grown().save(tmp_path / DECISION)
    found = Decider.load(tmp_path, 7)
    assert found is not None and found.calibration.slope_T is not None
    torch.testing.assert_close(found.calibration.slope_T, grown().calibration.slope_T)
    random_decider(5).save(tmp_path / DECISION)
    older = Decider.load(tmp_path, 5)
    assert older is not None and older.calibration.slope_T is None


def test_a_tag_that_gets_images_is_like_others_of_its_count() -> None:
    """The second unseen tag has 4 images now, and there is a tag more."""
    decider = grown()
    count_T = torch.cat([COUNT_T, torch.tensor([0, 0])])
    now_T = torch.cat([COUNT_T + 1, torch.tensor([0, 4, 7])])
    after = decider.extended(count_T, now_T)
    slope_T = after.calibration.slope_T
    assert slope_T is not None
    common = float(decider.calibration.slope)
    torch.testing.assert_close(slope_T, torch.tensor([common] * 5 + [0.2, common, common]))
    torch.testing.assert_close(after.calibration.shift_T[5], torch.tensor(-3.0))
    seen = decider.calibration.shift_T[:5].mean()  # fewer than 20 tags: all of them
    torch.testing.assert_close(after.calibration.shift_T[6:], seen.expand(2))
    every = after.extended(now_T, now_T.clamp(min=1))
    assert every.calibration.slope_T is None


def test_steepness_is_the_derivative() -> None:
    calibration = Calibration(
        torch.ones(1), torch.zeros(1), torch.tensor([0.9, -0.3, 0.4, 0.2, -0.2])
    )
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    level = torch.zeros(9, dtype=torch.float64)
    numeric = (calibration.log_odds(z + 1e-5, level) - calibration.log_odds(z - 1e-5, level)) / 2e-5
    torch.testing.assert_close(calibration.steepness(z), numeric)
