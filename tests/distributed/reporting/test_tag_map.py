"""Names on the map of tags can be read, and tags that are alike are near each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distributed.reporting.tag_map import labels, on_a_plane, shortened, text_width


def test_alike_tags_are_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    centre_gL = torch.randn(4, 16, generator=generator)
    group_n = torch.arange(80) % 4
    vector_nL = centre_gL[group_n] + 0.05 * torch.randn(80, 16, generator=generator)
    place_n2 = on_a_plane(vector_nL)
    assert place_n2 is not None and place_n2.shape == (80, 2)
    assert place_n2.min() == 0 and place_n2.max() == 1
    distance_nn = np.linalg.norm(place_n2[:, None] - place_n2[None], axis=2)
    np.fill_diagonal(distance_nn, np.inf)
    assert (group_n.numpy()[distance_nn.argmin(1)] == group_n.numpy()).mean() > 0.95


@pytest.mark.parametrize("count", [3, 5, 12, 13])
def test_few_tags_have_a_map_as_well(count: int) -> None:
    place_n2 = on_a_plane(torch.randn(count, 6, generator=torch.Generator().manual_seed(1)))
    assert place_n2 is not None and len(np.unique(place_n2, axis=0)) == count


@pytest.mark.parametrize(
    "vector_nL",
    [torch.ones(40, 8), torch.zeros(40, 8), torch.full((40, 8), torch.nan), torch.eye(2)],
)
def test_what_cannot_be_told_apart_has_none(vector_nL: torch.Tensor) -> None:
    assert on_a_plane(vector_nL) is None


def test_no_name_is_over_another() -> None:
    generator = np.random.default_rng(0)
    place_n2 = generator.uniform(20, 480, (300, 2))
    names = [f"tag {'x' * int(n)}" for n in generator.integers(0, 30, 300)]
    found = labels(place_n2, names, [12.0] * 300, [3.0] * 300, 500, 500)
    named = [label for label in found if label is not None]
    assert found[0] is not None and 20 < len(named) < 300  # the most important one, and not all
    boxes = [
        (one.x, one.y - one.size * 0.8, one.x + text_width(one.text, one.size), one.y)
        for one in named
    ]
    for n, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 500 and top >= 0 and bottom <= 500
        for other in boxes[:n]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (names[n], other)


def test_a_long_name_is_cut() -> None:
    assert shortened("cat") == "cat"
    assert len(shortened("a" * 300)) == 22 and shortened("a" * 300).endswith("…")
    assert text_width("猫猫", 10) > 1.5 * text_width("cc", 10)
