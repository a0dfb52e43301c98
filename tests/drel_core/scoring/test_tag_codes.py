"""Codes of tags: what they mean, how few bits they take, and what they lose."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from drel_core.scoring.tag_codes import TagCodes, allot_bits, encode_tags

LOST = {0: 1.0, 1: 0.3634, 2: 0.1188, 4: 0.01154}


def side(
    tags: int = 3000, latent: int = 24, seed: int = 0, rank: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Tags, biases and images; of ``rank`` dimensions and a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tag_TL, image_nL = normal(tags, latent), normal(40, latent)
    if rank:
        tag_TL = normal(tags, rank) @ normal(rank, latent) + 0.05 * tag_TL
    return tag_TL + 2.0, -3.0 * normal(tags).abs(), image_nL


def by_hand(codes: TagCodes, image_nL: Tensor) -> Tensor:
    """Scores ``[n, T]`` of codes, part by part."""
    query_nMS = codes.query(image_nL).view(len(image_nL), codes.parts, 4)
    code_TM = torch.stack([codes.code_Th & 15, codes.code_Th >> 4], 2).flatten(1).long()
    score_nT = torch.zeros(len(image_nL), len(code_TM))
    for part in range(codes.parts):
        table_nC = query_nMS[:, part] @ codes.level_MCS[part].T
        score_nT += table_nC[:, code_TM[:, part]]
    return score_nT


@pytest.mark.parametrize("distortion", [0.012, 0.05, 0.3])
@pytest.mark.parametrize("rank", [0, 4])
def test_codes_lose_the_share_of_the_scores_that_was_asked(distortion: float, rank: int) -> None:
    tag_TL, _, image_nL = side(rank=rank)
    codes = encode_tags(tag_TL, torch.zeros(len(tag_TL)), image_nL, distortion)
    score_nT = image_nL @ tag_TL.T
    lost_nT = by_hand(codes, image_nL) - score_nT
    # Whatever is the same for all tags of an image moves no order.
    share = lost_nT.var(1).mean() / score_nT.var(1).mean()
    assert float(share) == pytest.approx(distortion, rel=0.5)
    assert (codes.basis_LL is not None) == (rank > 0)


def test_few_principal_axes_take_few_bits() -> None:
    tag_TL, bias_T, image_nL = side(rank=4)
    whole = encode_tags(tag_TL, bias_T, image_nL, 0.0).parts
    assert whole == 24 + 16
    assert encode_tags(tag_TL, bias_T, image_nL, 0.03).parts <= 4 + 2 + 16


@pytest.mark.parametrize("latent", [1, 2, 5, 8])
def test_a_bias_loses_half_a_step_at_most(latent: int) -> None:
    tag_TL, bias_T, image_nL = side(latent=latent)
    codes = encode_tags(torch.zeros_like(tag_TL), bias_T, image_nL, 0.05)
    step = float(bias_T.max() - bias_T.min()) / 240
    found_T = by_hand(codes, torch.zeros(1, latent))[0]
    apart_T = (found_T - bias_T) - (found_T - bias_T).mean()
    assert float(apart_T.abs().max()) <= 0.52 * step
    assert codes.code_Th.shape == (len(tag_TL), codes.parts // 2)


def test_tags_that_are_all_alike_have_codes() -> None:
    codes = encode_tags(torch.ones(70, 6), torch.full((70,), -2.0), torch.ones(1, 6), 0.05)
    assert torch.isfinite(by_hand(codes, torch.ones(1, 6))).all()
    assert len(by_hand(codes, torch.ones(1, 6)).unique()) == 1


def test_codes_of_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tag_TL, bias_T, image_nL = side(tags=500, rank=3)
    whole = encode_tags(tag_TL, bias_T, image_nL, 0.05)
    monkeypatch.setattr("drel_core.scoring.tag_codes._BLOCK", 64)
    apart = encode_tags(tag_TL, bias_T, image_nL, 0.05)
    assert (whole.code_Th != apart.code_Th).float().mean() < 0.01  # a number on the edge may round


@pytest.mark.parametrize("distortion", [0.02, 0.1, 0.2, 0.5])
def test_bits_are_nearly_the_fewest(distortion: float) -> None:
    weight_L = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.4, 0.1], dtype=torch.float64)
    bits_L = allot_bits(weight_L, distortion)

    def lost(bits: tuple[int, ...]) -> float:
        return sum(float(w) * LOST[b] for w, b in zip(weight_L, bits, strict=True))

    wanted = distortion * float(weight_L.sum())
    assert lost(tuple(bits_L.tolist())) <= wanted
    fewest = min(sum(bits) for bits in product(LOST, repeat=6) if lost(bits) <= wanted)
    assert int(bits_L.sum()) <= fewest + 2
    assert (bits_L.diff() <= 0).all()  # what weighs more has no fewer bits


def test_numbers_that_weigh_nothing_take_no_bits() -> None:
    weight_L = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert allot_bits(weight_L, 0.05).tolist() == [4, 0, 0]
    assert allot_bits(weight_L, 0.0).tolist() == [4, 4, 4]
