"""Searching by codes gives what scoring every tag gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drel_core.scoring.tag_codes import encode_tags
from drel_core.scoring.tag_search import DEEPEST, LEAST_RECALL, TagSearch, _recall, find_search
from drel_core.scoring.topk import NoBestScore, topk_blockwise

TAGS, LATENT = 20_000, 32


def side(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return normal(TAGS, LATENT), -2.0 * normal(TAGS).abs(), normal(100, LATENT)


@pytest.fixture(scope="module")
def search() -> TagSearch:
    tag_TL, bias_T, image_nL = side()
    return find_search(tag_TL, bias_T, image_nL[:64])[1]


@pytest.mark.parametrize("k", [1, 5, DEEPEST])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_best_are_those_of_all(search: TagSearch, k: int, rows: int) -> None:
    tag_TL, bias_T, image_nL = side()
    assert search.recall >= LEAST_RECALL and search.candidates < TAGS / 50
    image_BL = image_nL[-rows:]
    score_Bk, tag_Bk = search.best(image_BL, k)
    expected_Bk, expected_tag_Bk = topk_blockwise(image_BL, tag_TL, k, bias_T)
    same_B = (tag_Bk == expected_tag_Bk).all(1)
    assert same_B.float().mean() >= 0.97  # of all lists of up to 50 tags
    torch.testing.assert_close(score_Bk[same_B], expected_Bk[same_B])
    own_Bk = (tag_TL[tag_Bk] @ image_BL[:, :, None])[:, :, 0] + bias_T[tag_Bk]
    torch.testing.assert_close(score_Bk, own_Bk)  # whatever was found has its float32 score
    assert (score_Bk.diff(dim=1) <= 0).all()


def test_no_rows_give_no_tags(search: TagSearch) -> None:
    score_Bk, tag_Bk = search.best(torch.empty(0, LATENT), 5)
    assert score_Bk.shape == tag_Bk.shape == (0, 5)


def test_rows_that_are_not_finite_are_named(search: TagSearch) -> None:
    image_BL = torch.ones(4, LATENT)
    image_BL[1, 3], image_BL[2, 0] = torch.nan, torch.inf
    with pytest.raises(NoBestScore) as raised:
        search.best(image_BL, 5)
    assert raised.value.bad_B.tolist() == [False, True, True, False]


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e3, 1e15, 1e30])
def test_latents_of_any_size_find_their_tags(search: TagSearch, size: float) -> None:
    tag_TL, bias_T, image_nL = side()
    image_BL = image_nL[:8] * size
    score_Bk, _ = search.best(image_BL, 5)
    expected_Bk, _ = topk_blockwise(image_BL, tag_TL, 5, bias_T)
    assert (
        score_Bk >= expected_Bk[:, -1:] - 1e-5 * expected_Bk[:, -1:].abs()
    ).float().mean() >= 0.97


def test_of_equal_tags_the_lowest_id_comes_first() -> None:
    tag_TL, bias_T, image_nL = side()
    tag_TL[100:110], bias_T[100:110] = 3 * image_nL[0], 0.0  # ten alike, the best of image 0
    search = find_search(tag_TL, bias_T, image_nL[1:40])[1]
    assert search.best(image_nL[:1], 5)[1].tolist() == [[100, 101, 102, 103, 104]]


def test_codes_that_cannot_tell_tags_apart_say_so() -> None:
    """All of the scores' order lies below what codes keep."""
    tag_TL, bias_T, image_nL = side()
    tag_TL = 1e-4 * tag_TL
    bias_T = torch.zeros(TAGS)
    bias_T[0] = -1000.0  # 240 steps of the bias are far apart: no look-up table keeps the rest
    _, search = find_search(tag_TL, bias_T, image_nL[:40])
    assert search.recall < LEAST_RECALL


@pytest.mark.parametrize("size", [1e-6, 1e-4])
def test_recall_is_measured_among_scores_of_any_size(size: float) -> None:
    """Small scores are not all equal."""
    tag_TL, _, image_nL = side()
    tag_TL, bias_T = size * tag_TL, torch.zeros(TAGS)
    search = find_search(tag_TL, bias_T, image_nL[:64])[1]
    tag_Bk = search.best(image_nL, DEEPEST)[1].tolist()
    expected_Bk = topk_blockwise(image_nL, tag_TL, DEEPEST, bias_T)[1].tolist()
    hits = [
        len(set(found) & set(wanted)) for found, wanted in zip(tag_Bk, expected_Bk, strict=True)
    ]
    assert sum(hits) / (DEEPEST * len(hits)) == pytest.approx(search.recall, abs=3e-3)


def test_recall_counts_equal_scores_as_one() -> None:
    exact_nk = torch.tensor([[5.0, 4.0, 3.0, 3.0]])
    assert _recall(torch.tensor([[5.0, 3.0, 3.0, 1.0]]), exact_nk, 4) == 0.75
    assert _recall(torch.tensor([[3.0, 3.0, 3.0, 4.0, 5.0]]), exact_nk, 4) == 1.0
    assert _recall(torch.tensor([[4.0, 0.0]]), exact_nk, 1) == 0.0


def test_measured_recall_is_that_of_a_search() -> None:
    tag_TL, bias_T, image_nL = side(1)
    codes = encode_tags(tag_TL, bias_T, image_nL, 0.3)
    search = TagSearch.measured(codes, tag_TL, bias_T, image_nL)
    expected_tag_nk = topk_blockwise(image_nL, tag_TL, DEEPEST, bias_T)[1]
    found_nk = search.best(image_nL, DEEPEST)[1]
    hit = [
        len(set(found) & set(wanted)) / DEEPEST
        for found, wanted in zip(found_nk.tolist(), expected_tag_nk.tolist(), strict=True)
    ]
    assert search.recall == pytest.approx(sum(hit) / len(hit), abs=1e-3)
