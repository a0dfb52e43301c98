"""Cuts of tags: what is said raises macro F1 and the F1 of all pairs, also of tags too rare to tell."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from drel_core.decision import cuts, macro
from drel_core.decision.cuts import DEPTH, cut_for_precision, learn_cuts
from drel_core.decision.held_out import tag_share
from drel_core.scoring.reliability import reliability


def pairs_f1(said_nT: Tensor, hit_nT: Tensor) -> float:
    return float(2 * (said_nT & hit_nT).sum() / (said_nT.sum() + hit_nT.sum()))


@pytest.mark.parametrize("seed", range(4))
def test_the_cuts_say_nearly_the_best_of_all_choices(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images, four tags: every set of cuts can be tried."""
    torch.manual_seed(seed)
    images, tags = 8, 4
    monkeypatch.setattr(macro, "_IMAGES", images)
    chance_nT = torch.rand(images, tags).double().pow(2)
    hit_nT = torch.rand(images, tags) < chance_nT
    expected_T = chance_nT.sum(0)
    occurs_T = 1 - (-expected_T).exp()
    best_nM, tag_nM = chance_nT.sort(dim=1, descending=True)
    many_T = torch.full((tags,), 10**9)  # statistics are each tag's own
    hit_nM = hit_nT.gather(1, tag_nM)
    cut_T = learn_cuts(best_nM, tag_nM, hit_nM, int(hit_nT.sum()), expected_T / images, many_T)
    assert cut_T.dtype == torch.float32
    common = max(chance_nT.flatten().tolist(), key=lambda cut: pairs_f1(chance_nT >= cut, hit_nT))

    def worth(cut_T: Tensor) -> float:
        said_nT = chance_nT >= cut_T
        said_T = said_nT.sum(0).double().clamp(min=1e-6)
        hits_T = (said_nT * chance_nT).sum(0)
        precision = (hits_T / said_T * (1 - (-said_T).exp())).sum() / occurs_T.sum()
        recall = (hits_T / expected_T * occurs_T).sum() / occurs_T.sum()
        macro_f1 = 2 * precision * recall / (precision + recall) * occurs_T.sum()
        return float(macro_f1 + cuts._PAIR * ((chance_nT - common) * said_nT).sum())

    choices = [torch.tensor(choice) for choice in product(*chance_nT.T.tolist())]
    every = sorted(worth(choice) for choice in choices)
    assert worth(cut_T.double()) >= every[-1] - 0.05 * (every[-1] - every[0])


def test_rare_and_unseen_tags_take_the_cuts_of_tags_of_like_count() -> None:
    torch.manual_seed(0)
    images, tags = 50, 90
    count_T = torch.randperm(tags)
    share_T = tag_share(count_T, 5000)  # at most 0.9 of the images expected of a tag
    chance_nT = (share_T * 20 * torch.rand(images, tags)).clamp(max=0.99)
    best_nM, tag_nM = chance_nT.topk(DEPTH + 10, dim=1)
    hit_nM = torch.rand(best_nM.shape) < best_nM
    cut_T = learn_cuts(best_nM, tag_nM, hit_nM, int(hit_nM.sum()), share_T, count_T)
    assert torch.isfinite(cut_T).all() and (cut_T > 0).all() and (cut_T < 1).all()
    rarest = count_T.argsort()[:5]
    assert cut_T[rarest].max() - cut_T[rarest].min() < 0.02


def test_own_cuts_raise_macro_f1_and_cost_little_of_the_f1_of_all_pairs() -> None:
    """Beside the common cut, on images that they were not learned from; rare tags are less probable."""
    generator = torch.Generator().manual_seed(4)
    tags, images = 200, 4000
    share_T = 0.4 / torch.arange(1, tags + 1)
    logit_nT = share_T.logit() + 1.5 * torch.randn(images, tags, generator=generator)
    hit_nT = torch.rand(images, tags, generator=generator) < logit_nT.sigmoid()
    count_T, half = hit_nT.sum(0), images // 2
    best_nM, tag_nM = logit_nT[:half].sigmoid().sort(dim=1, descending=True)
    hit_nM = hit_nT[:half].gather(1, tag_nM)
    relevant = int(hit_nT[:half].sum())
    cut_T = learn_cuts(best_nM, tag_nM, hit_nM, relevant, tag_share(count_T, images), count_T)
    chance_nT, hit_nT = logit_nT[half:].sigmoid(), hit_nT[half:]
    common = cuts._common_cut(best_nM.flatten().double(), hit_nM.flatten(), relevant)

    def macro_f1(said_nT: Tensor) -> float:
        hits_T = (said_nT & hit_nT).sum(0).double()
        precision = (hits_T / said_nT.sum(0).clamp(min=1)).mean()
        recall = (hits_T / hit_nT.sum(0).clamp(min=1)).mean()
        return float(2 * precision * recall / (precision + recall))

    own_nT, common_nT = chance_nT >= cut_T, chance_nT >= common
    assert macro_f1(own_nT) > 1.05 * macro_f1(common_nT)
    assert pairs_f1(own_nT, hit_nT) > 0.95 * pairs_f1(common_nT, hit_nT)


def test_one_image_with_one_tag_has_a_cut() -> None:
    cut_T = learn_cuts(
        torch.tensor([[0.8]]),
        torch.tensor([[0]]),
        torch.tensor([[True]]),
        1,
        tag_share(torch.tensor([1, 0]), 2),
        torch.tensor([1, 0]),
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
