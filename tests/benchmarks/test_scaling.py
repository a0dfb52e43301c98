"""The bytes that a step sends, as the kernel counts them, against the formula of docs/operations.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scaling import GPU, GPU_SIZES, Measured, take_steps
from benchmarks.step_cost import Sizes, bytes_sent, predict
from tests.helpers.ranks import spawn_ranks


@pytest.mark.parametrize("tags", [500, 5000])
def test_bytes_sent_are_those_of_the_formula(tmp_path: Path, tags: int) -> None:
    sizes = Sizes(
        images=64,
        world=3,
        dim=40,
        image_hidden=32,
        tag_dim=16,
        tag_hidden=16,
        latent=64,
        tags=tags,
        candidates=500,
        tags_an_image=3,
    )
    ranks: list[Measured] = spawn_ranks(3, take_steps, tmp_path, sizes, 6)
    for one in ranks:
        parts = one.formula
        pool = parts["encoded pool, all-gather"] + parts["their gradient, to the owner"]
        assert pool > parts["towers and M, all-reduce"]  # so that the check sees both
        assert one.sent == pytest.approx(sum(parts.values()), rel=0.05)
    assert ranks[0].pool == pytest.approx(sizes.pool, rel=0.1)


def test_one_rank_sends_nothing_and_more_ranks_do_not_send_more_without_end() -> None:
    assert sum(bytes_sent(1, 10**6, 100, 65, 10).values()) == 0
    dense = [bytes_sent(w, 10**6, 0, 65, 0)["towers and M, all-reduce"] for w in (2, 512)]
    assert dense[0] == 4e6 and 7.9e6 < dense[1] < 8e6


def test_a_prediction_is_the_sum_of_its_parts() -> None:
    sizes = Sizes(**{**vars(GPU_SIZES), "world": 8, "images": 8192})
    parts = predict(sizes, GPU)
    whole = parts.pop("step")
    assert whole == pytest.approx(sum(parts.values())) and min(parts.values()) >= 0
