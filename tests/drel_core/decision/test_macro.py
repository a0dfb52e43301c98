"""Gains of macro F1: slopes are derivatives, choices the best there are."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from drel_core.decision import macro
from drel_core.decision.held_out import tag_share
from drel_core.decision.macro import _neighbourhood, _slopes, learn_gains
from drel_core.scoring.topk import topk


def expected_f1(said_T: Tensor, hits_T: Tensor, expected_T: Tensor) -> Tensor:
    """F1 of expected mean precision and recall over the tags that occur, times their number."""
    occurs_T = 1 - (-expected_T).exp()
    precision = (hits_T / said_T * (1 - (-said_T).exp())).sum() / occurs_T.sum()
    recall = (hits_T / expected_T * occurs_T).sum() / occurs_T.sum()
    return 2 * precision * recall / (precision + recall) * occurs_T.sum()


def test_slopes_are_the_derivatives_of_the_expected_score() -> None:
    torch.manual_seed(2)
    expected_T = torch.rand(6).double() * 5 + 0.1
    said_T = (torch.rand(6).double() * 6 + 0.1).requires_grad_()
    hits_T = (torch.rand(6).double() * 0.9 * said_T.detach()).requires_grad_()
    expected_f1(said_T, hits_T, expected_T).backward()
    gain_T, offset_T = _slopes(
        said_T.detach(), hits_T.detach(), expected_T, 1 - (-expected_T).exp()
    )
    # A word of probability p adds p to hits and 1 to words.
    torch.testing.assert_close(gain_T, hits_T.grad)
    torch.testing.assert_close(offset_T, said_T.grad)


def test_the_rule_finds_the_best_choice_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images, five tags, two words: every choice can be tried."""
    torch.manual_seed(3)
    images, tags, k = 4, 5, 2
    monkeypatch.setattr(macro, "_IMAGES", images)
    monkeypatch.setattr(macro, "_HIT", 0.0)
    probability_nT = torch.rand(images, tags).pow(3)
    share_T = probability_nT.double().mean(0)
    many_T = torch.full((tags,), 10**9)  # statistics are each tag's own
    every_nT = torch.arange(tags).expand(images, tags)
    gain_T, offset_T = learn_gains(probability_nT, every_nT, share_T, many_T, k)

    def reached(choice: list[tuple[int, int]]) -> float:
        said_nT = torch.zeros(images, tags)
        for i, words in enumerate(choice):
            said_nT[i, list(words)] = 1
        said_T = said_nT.sum(0).double().clamp(min=1e-6)
        hits_T = (said_nT * probability_nT).sum(0).double()
        return float(expected_f1(said_T, hits_T, share_T * images))

    pairs = [(a, b) for a in range(tags) for b in range(a)]
    every = sorted(reached(list(choice)) for choice in product(pairs, repeat=images))
    plain = probability_nT.topk(k, dim=1).indices.tolist()
    ruled = (probability_nT * gain_T + offset_T).topk(k, dim=1).indices.tolist()
    assert reached([tuple(words) for words in ruled]) >= every[-1] - 0.02 * (every[-1] - every[0])
    assert reached([tuple(words) for words in ruled]) > reached([tuple(words) for words in plain])


def test_some_candidates_in_any_order_give_the_gains_of_all() -> None:
    """Tags that are no candidates have no probability; where candidates stand does not matter."""
    torch.manual_seed(6)
    images, tags, kept = 40, 12, 7
    probability_nT = torch.rand(images, tags).pow(3)
    best_nM, tag_nM = probability_nT.topk(kept, dim=1)
    others_nT = torch.zeros_like(probability_nT).scatter_(1, tag_nM, best_nM)
    count_T = torch.randint(1, 40, (tags,))
    share_T = tag_share(count_T, 60)
    every_nT = torch.arange(tags).expand(images, tags)
    whole = learn_gains(others_nT, every_nT, share_T, count_T, 3)
    order = torch.randperm(kept)
    some = learn_gains(best_nM[:, order], tag_nM[:, order], share_T, count_T, 3)
    for one, other in zip(whole, some, strict=True):
        torch.testing.assert_close(one, other)


def test_gains_raise_macro_f1() -> None:
    """Many rare tags, one word too many: the rule lets wrong words fall on common tags."""
    generator = torch.Generator().manual_seed(4)
    tags, images = 60, 1500
    share_T = 0.4 / torch.arange(1, tags + 1)
    logit_nT = share_T.logit() - 1.5 + 2.5 * torch.randn(images, tags, generator=generator)
    hit_nT = torch.rand(images, tags, generator=generator) < logit_nT.sigmoid()
    count_T = hit_nT.sum(0)
    half = images // 2
    every_nT = torch.arange(tags).expand(half, tags)
    gain_T, offset_T = learn_gains(
        logit_nT[:half].sigmoid(), every_nT, tag_share(count_T, images), count_T, 5
    )
    assert (gain_T > 0).all()
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
    assert f1(new_nT.sigmoid() * gain_T + offset_T) > 1.05 * max(by_count)


def test_neighbourhood_sums_the_tags_around() -> None:
    torch.manual_seed(5)
    value_T, order = torch.rand(90).double(), torch.randperm(90)
    found_T = _neighbourhood(value_T, order)
    for place, tag in enumerate(order.tolist()):
        around = order[max(0, place - 20) : place + 21]
        assert float(found_T[tag]) == pytest.approx(float(value_T[around].sum()))
