"""Cuts of tags: half of the F1 that probabilities promise, and what happens to tags too rare to tell."""

from __future__ import annotations

import pytest
import torch

from drel_core.decision.cuts import _OWN, DEPTH, cut_for_precision, learn_cuts
from drel_core.decision.held_out import tag_share
from drel_core.scoring.reliability import reliability


def f1(said_n: torch.Tensor, chance_n: torch.Tensor, expected: float) -> float:
    """Expected F1 of a tag, as Lipton et al. take it."""
    return float(2 * chance_n[said_n].sum() / (said_n.sum() + expected))


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_lies_between_half_of_the_tags_best_f1_and_the_common_one(seed: int) -> None:
    torch.manual_seed(seed)
    images, tags = 80, 6
    chance_nT = torch.rand(images, tags).double().pow(2)
    hit_nT = torch.rand(images, tags) < chance_nT
    best_nM, tag_nM = chance_nT.sort(dim=1, descending=True)
    share_T = chance_nT.mean(0) * 0.9  # fewer than probabilities expect: these are believed
    hit_nM = hit_nT.gather(1, tag_nM)
    cut_T = learn_cuts(best_nM, tag_nM, hit_nM, int(hit_nT.sum()), share_T)
    assert cut_T.dtype == torch.float32
    everything = sorted(set(chance_nT.flatten().tolist()))

    def reached(cut: float) -> float:
        said_nT = chance_nT >= cut
        return float(2 * (said_nT & hit_nT).sum() / (said_nT.sum() + hit_nT.sum()))

    common = max(everything, key=reached)
    for t in range(tags):
        mine_n = chance_nT[:, t]
        promised = max(f1(mine_n >= cut, mine_n, float(mine_n.sum())) for cut in mine_n)
        assert float(cut_T[t]) == pytest.approx(_OWN * promised / 2 + (1 - _OWN) * common, abs=1e-6)


def test_rare_and_unseen_tags_take_the_cuts_of_tags_of_like_count() -> None:
    torch.manual_seed(0)
    images, tags = 50, 90
    count_T = torch.randperm(tags) + 1
    share_T = tag_share(count_T, 5000)  # at most 0.9 of the images expected of a tag
    chance_nT = (share_T * 20 * torch.rand(images, tags)).clamp(max=0.99)
    best_nM, tag_nM = chance_nT.topk(DEPTH + 10, dim=1)
    hit_nM = torch.rand(best_nM.shape) < best_nM
    cut_T = learn_cuts(best_nM, tag_nM, hit_nM, int(hit_nM.sum()), share_T)
    assert torch.isfinite(cut_T).all() and (cut_T > 0).all() and (cut_T < 1).all()
    rarest = count_T.argsort()[:5]
    assert cut_T[rarest].max() - cut_T[rarest].min() < 0.02


def test_one_image_with_one_tag_has_a_cut() -> None:
    cut_T = learn_cuts(
        torch.tensor([[0.8]]),
        torch.tensor([[0]]),
        torch.tensor([[True]]),
        1,
        tag_share(torch.tensor([1, 0]), 2),
    )
    assert (cut_T > 0).all() and (cut_T <= 0.8).all()


def test_the_cut_of_a_precision_is_the_least_that_has_it() -> None:
    chance_p = torch.arange(1, 1000, dtype=torch.float64)[:, None] / 1000
    hit_p = torch.arange(1, 1000)[:, None] > 700
    table_b2 = reliability(chance_p, hit_p)
    for wanted in (1.0, 0.9, 0.6):
        cut = cut_for_precision(table_b2, wanted)
        assert cut is not None
        said_p = chance_p >= cut
        assert (said_p & hit_p).sum() / said_p.sum() >= wanted
        fewer_p = chance_p >= cut - 0.002
        assert (fewer_p & hit_p).sum() / fewer_p.sum() < wanted
    assert cut_for_precision(reliability(chance_p, ~hit_p), 0.9) is None
    assert cut_for_precision(reliability(chance_p[:10], hit_p[:10]), 0.1) is None
