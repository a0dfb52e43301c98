"""Scores that have no order are found, and no others."""

from __future__ import annotations

import pytest
import torch

from drel_core.scoring.topk import NoBestScore, check_best, topk

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "first", [[], [0.5], [3e38, 3e38, 1.0], [-3e38, -3e38], [3e38, -3e38]], ids=str
)
def test_numbers_pass(first: list[float]) -> None:
    """However large: their sum may be infinite."""
    check_best(torch.tensor(first)[:, None].expand(-1, 2))


def test_rows_without_tags_pass() -> None:
    check_best(torch.zeros(3, 0))


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_the_rows_that_are_none_are_named(bad: float) -> None:
    with pytest.raises(NoBestScore) as raised:
        check_best(torch.tensor([[1.0, 0.5], [bad, 0.5], [3e38, bad], [3e38, 1.0]]))
    assert raised.value.bad_B.tolist() == [False, True, False, False]


def test_infinities_that_cancel_are_found() -> None:
    with pytest.raises(NoBestScore) as raised:
        check_best(torch.tensor([[INF], [-INF], [1.0]]))
    assert raised.value.bad_B.tolist() == [True, True, False]


@pytest.mark.parametrize(
    "row", [[3.0, 1.0, 2.0, 0.0], [1.0, 2.0, 2.0, 2.0], [-INF, 0.0, -INF, -INF]]
)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_a_row_alone_has_the_best_that_it_has_among_others(row: list[float], k: int) -> None:
    alone = topk(torch.tensor([row]), k)
    together = topk(torch.tensor([row, [0.0, 1.0, 2.0, 3.0]]), k)
    for one, both in zip(alone, together, strict=True):
        assert one.tolist() == both[:1].tolist()


def test_a_row_alone_that_holds_nan_has_no_best() -> None:
    with pytest.raises(NoBestScore) as raised:
        topk(torch.tensor([[0.0, NAN, 1.0]]), 2)
    assert raised.value.bad_B.tolist() == [True]
