"""The map from text vectors of names to rows of the table."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from drel_core.model.name_map import NameMap


def planted(tags: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Text vectors ``[S, 5]`` and rows ``[S, 7]`` that follow from them."""
    generator = torch.Generator().manual_seed(seed)
    text_Sd = normalize(torch.randn(tags, 5, generator=generator, dtype=torch.float64))
    row_SE = torch.tanh(text_Sd @ torch.randn(5, 7, generator=generator, dtype=torch.float64) + 0.5)
    return text_Sd, row_SE + 0.05 * torch.randn(tags, 7, generator=generator)


def test_rows_of_new_names_are_near_what_was_planted() -> None:
    text_Sd, row_SE = planted(120)
    map_ = NameMap.fit(text_Sd[:100], row_SE[:100], direction=False)
    found = cosine_similarity(map_.rows(text_Sd[100:]).double(), row_SE[100:])
    mean = cosine_similarity(row_SE[:100].mean(0, keepdim=True), row_SE[100:])
    assert float(found.mean()) > 0.95 > float(mean.mean()) + 0.1


def test_leaving_tags_out_in_closed_form_is_leaving_them_out() -> None:
    text_Sd, row_SE = planted(30)
    for direction in (False, True):
        whole = NameMap.fit(text_Sd, row_SE, direction)
        left_out_SE = whole.left_out()
        for tag in (0, 7, 29):
            rest = torch.arange(30) != tag
            without = NameMap(
                text_Sd[rest], whole.row_SE[rest], whole.width, whole.ridge, whole.length
            )
            torch.testing.assert_close(without.rows(text_Sd[tag : tag + 1])[0], left_out_SE[tag])


def test_the_weights_add_up_to_one() -> None:
    """A constant is mapped to itself, whatever the ridge."""
    text_Sd, _ = planted(20)
    map_ = NameMap(text_Sd, torch.full((20, 3), 2.5, dtype=torch.float64), 0.2, 1.0, None)
    torch.testing.assert_close(map_.rows(text_Sd[:4] * -1), torch.full((4, 3), 2.5))


def test_rows_whose_direction_counts_have_the_mean_length() -> None:
    text_Sd, row_SE = planted(40)
    map_ = NameMap.fit(text_Sd, row_SE, direction=True)
    length = row_SE.norm(dim=1).mean().float()
    torch.testing.assert_close(map_.rows(text_Sd[:5]).norm(dim=1), length.expand(5))
    torch.testing.assert_close(map_.left_out().norm(dim=1), length.expand(40))


def test_what_names_let_expect_is_shorter_the_less_they_tell() -> None:
    text_Sd, row_SE = planted(120)
    told, told_nothing = (
        NameMap.fit(text_Sd, rows_SE, direction=True)
        for rows_SE in (
            row_SE,
            row_SE[torch.randperm(120, generator=torch.Generator().manual_seed(1))],
        )
    )
    for map_ in (told, told_nothing):
        expected_nE, row_nE = map_.expected(text_Sd), map_.rows(text_Sd)
        torch.testing.assert_close(normalize(expected_nE), normalize(row_nE))
    assert float(told.expected(text_Sd).norm(dim=1).mean()) > 0.9 * float(told.length or 0)
    spread = told_nothing.expected(text_Sd).norm(dim=1).mean()
    assert float(spread) < 0.8 * float(told_nothing.length or 0)
