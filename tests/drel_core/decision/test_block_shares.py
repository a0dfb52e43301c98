"""Columns are scaled to shares of the squared distance, and the shares that leave out best are chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drel_core.decision.block_shares import Scale, candidates, choose_shares
from drel_core.decision.kernel import KernelConfig

DIMS = (4, 30, 6)


def columns() -> Tensor:
    torch.manual_seed(0)
    value_ND = torch.randn(50, sum(DIMS)) * torch.tensor([1.0] * 4 + [0.1] * 30 + [20.0] * 6)
    return value_ND


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)])
def test_each_column_has_its_share_of_the_mean_squared_distance(shares: tuple[float, ...]) -> None:
    value_ND = columns()
    scaled = (value_ND * Scale.of(value_ND, DIMS, shares).scale_D).split(DIMS, dim=1)
    mean = torch.stack([torch.pdist(part).square().mean() for part in scaled])
    torch.testing.assert_close(mean / mean.sum(), torch.tensor(shares), atol=1e-4, rtol=0)


def test_a_column_that_is_the_same_in_all_images_counts_nothing() -> None:
    value_ND = columns()
    value_ND[:, :4] = 0
    scale_D = Scale.of(value_ND, DIMS, (0.4, 0.3, 0.3)).scale_D
    assert (scale_D[:4] == 0).all() and torch.isfinite(scale_D).all()


def test_the_basis_keeps_distances_of_the_scaled_columns() -> None:
    value_ND = columns()
    scale = Scale.of(value_ND, DIMS, (0.5, 0.25, 0.25))
    expected = torch.pdist(value_ND * scale.scale_D)
    torch.testing.assert_close(torch.pdist(value_ND @ scale.basis(value_ND, 0)), expected)
    kept = torch.pdist(value_ND @ scale.basis(value_ND, 30))
    assert scale.basis(value_ND, 30).shape == (40, 30)
    assert float((kept / expected).mean()) > 0.99


@pytest.mark.parametrize("number", [2, 3])
def test_candidates_add_up_and_begin_with_equal_shares(number: int) -> None:
    tried = candidates(number)
    assert len(set(tried)) == len(tried) and tried[0] == (1 / number,) * number
    assert all(sum(shares) == pytest.approx(1) and len(shares) == number for shares in tried)


@pytest.mark.parametrize("telling", [0, 1])
def test_the_column_that_tells_of_the_tags_leads(telling: int) -> None:
    torch.manual_seed(1)
    parts = [torch.randn(300, 8), torch.randn(300, 8)]
    relevant_NT = parts[telling] > 0.8
    best = choose_shares(torch.cat(parts, 1), relevant_NT, (8, 8), KernelConfig(landmarks=1))
    assert best[telling] == 0.8


def test_what_is_chosen_makes_the_smallest_error_when_each_image_is_left_out() -> None:
    torch.manual_seed(2)
    value_ND = torch.randn(40, 12)
    relevant_NT = value_ND @ torch.randn(12, 5) > 1
    config, dims = KernelConfig(landmarks=1, ridge=0.5), (4, 8)

    def naive(shares: tuple[float, ...]) -> float:
        scaled = (value_ND * Scale.of(value_ND, dims, shares).scale_D).double()
        distance = torch.cdist(scaled, scaled).square()
        kernel = torch.exp(-config.width * distance / torch.pdist(scaled).square().median())
        target = relevant_NT.double() - relevant_NT.double().mean(0)
        total = 0.0
        for row in range(len(value_ND)):
            rest = torch.arange(len(value_ND)) != row
            system = kernel[rest][:, rest] + config.ridge * torch.eye(len(value_ND) - 1)
            said = kernel[row, rest] @ torch.linalg.solve(system, target[rest])
            total += float((said - target[row]).square().sum())
        return total

    tried = candidates(2)
    assert choose_shares(value_ND, relevant_NT, dims, config) == min(tried, key=naive)
