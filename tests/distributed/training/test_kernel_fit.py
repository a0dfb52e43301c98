"""Kernel regression over ranks is that of one process, resident or streamed; scores take its evidence in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distributed.data.blocks import inline_blocks, load_rows
from distributed.data.epoch import ShardReader, shard
from distributed.data.survey import StoreSurvey
from distributed.training import collectives
from distributed.training.build import build_drel_learner, make_reader
from distributed.training.config import TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.kernel_fit import fit_kernel
from drel_core.decision.block_shares import Scale
from drel_core.decision.kernel import KernelConfig, RidgeSums
from tests.helpers.ranks import spawn_ranks
from tests.helpers.training import surveyed


def at_start(
    folder: str, resident: bool
) -> tuple[TrainConfig, StoreSurvey, DRELLearner, ShardReader]:
    """This rank's untrained model and its rows."""
    config, data = surveyed(Path(folder) / str(collectives.world_size()) / str(collectives.rank()))
    torch.manual_seed(7)
    stepper = build_drel_learner(config, data, torch.device("cpu"))
    blocks = inline_blocks(config.data.columns, data.names)
    return config, data, stepper, make_reader(config, data, data.train, blocks, resident)


def work(folder: str, landmarks: int, dims: int, resident: bool) -> list[Tensor]:
    world, rank = collectives.world_size(), collectives.rank()
    config, data, stepper, reader = at_start(folder, resident)
    kernel = KernelConfig(landmarks=landmarks, dims=dims)
    head = fit_kernel(kernel, stepper.model, reader, torch.tensor(data.count_T), seed=2).head
    mine = load_rows(shard(data.train, world, rank), config.data.columns, data.names)
    stepper.kernel = head
    held, first = stepper.held_out(mine, None, 3)
    assert held.evidence_nM is not None
    evidence_nT = torch.zeros_like(held.evidence_nM).scatter_(1, held.tag_nM, held.evidence_nM)
    input_nD = stepper.model.standardised(mine.features_BD)
    expected_nT = head.evidence(head.kernel(input_nD), slice(None)) / head.factor
    mine_nT = evidence_nT[first : first + len(mine)]
    torch.testing.assert_close(mine_nT, expected_nT, atol=1e-3, rtol=1e-4)
    order_nM = held.score_nM + held.evidence_nM * head.factor
    assert (order_nM.diff(dim=1) <= 1e-4).all()  # the best candidate is the first
    assert head.landmark_Rd.shape[1] == (dims or data.image_dim)
    return [head.landmark_Rd, head.weight_RT, head.sharpness, mine_nT]


@pytest.mark.parametrize(("landmarks", "dims"), [(40, 0), (1000, 0), (40, 14)])
def test_ranks_together_fit_what_one_fits(tmp_path: Path, landmarks: int, dims: int) -> None:
    [one] = spawn_ranks(1, work, tmp_path, str(tmp_path), landmarks, dims, True)
    assert len(one[0]) == min(landmarks, 150)
    for resident in (True, False):
        ranks = spawn_ranks(2, work, tmp_path, str(tmp_path), landmarks, dims, resident)
        for head in ranks:
            torch.testing.assert_close(head[0], one[0])
            torch.testing.assert_close(head[1], one[1], atol=2e-3, rtol=2e-2)
        torch.testing.assert_close(
            torch.cat([part[3] for part in ranks]), one[3], atol=2e-2, rtol=2e-2
        )


def learn_on(
    folder: str, landmarks: int, fresh: int, noise: list[float] | None = None
) -> list[Tensor]:
    """An older regression of 90 rows of the first 8 tags goes on with this rank's rows.

    Args:
        noise: the parent's, where its bundle is older than that of each tag; empty where it has none.
    """
    world, rank = collectives.world_size(), collectives.rank()
    config, data, stepper, reader = at_start(folder, True)
    older = torch.Generator().manual_seed(1)
    known_ND = torch.randn(90, data.image_dim, generator=older)
    relevant_NT = torch.rand(90, 8, generator=older) > 0.7
    sums = RidgeSums(known_ND[:60], 0.05, relevant_NT.float().mean(0))
    sums.add(known_ND, relevant_NT)
    parent = sums.solve(0.3, 1.0, 90).head
    if noise is not None:
        parent = replace(parent, noise=torch.tensor(noise) if noise else None)
    kernel = KernelConfig(landmarks=landmarks, dims=3)  # the parent's basis counts: it has none
    count_T = torch.tensor(data.count_T)
    head = fit_kernel(kernel, stepper.model, reader, count_T, 2, (parent, fresh)).head
    mine = load_rows(shard(data.train, world, rank), config.data.columns, data.names)
    fresh_rD = stepper.model.standardised(mine.features_BD)
    return [
        head.landmark_Rd,
        head.weight_RT,
        head.share_T,
        head.floor,
        parent.landmark_Rd,
        fresh_rD,
        torch.empty(0) if head.noise is None else head.noise,
    ]


@pytest.mark.parametrize(
    ("landmarks", "kept", "added"), [(500, 60, 20), (70, 50, 20), (30, 15, 15)]
)
def test_an_older_regression_is_kept_and_fresh_rows_are_landmarks_beside_it(
    tmp_path: Path, landmarks: int, kept: int, added: int
) -> None:
    ranks = spawn_ranks(2, learn_on, tmp_path, str(tmp_path), landmarks, 20)
    [one] = spawn_ranks(1, learn_on, tmp_path, str(tmp_path), landmarks, 20)
    marks_RD, weight_RT, share_T, floor, parent_RD, fresh_ND, noise_T = one
    assert len(marks_RD) == len(weight_RT) == kept + added
    parents, rows = parent_RD.tolist(), fresh_ND[:20].tolist()
    assert all(mark in parents for mark in marks_RD[:kept].tolist())
    assert all(mark in rows for mark in marks_RD[kept:].tolist())
    assert float(floor) == pytest.approx(0.5 / (90 + 20))
    torch.testing.assert_close(noise_T, 0.01 + share_T / 2)  # of all images, these among them
    for other in ranks:
        torch.testing.assert_close(other[0], marks_RD)
        torch.testing.assert_close(other[1], weight_RT, atol=2e-3, rtol=2e-2)
        torch.testing.assert_close(other[2], share_T)


@pytest.mark.parametrize("noise", [[0.02], []])
def test_an_older_regression_keeps_the_noise_its_calibration_was_learned_with(
    tmp_path: Path, noise: list[float]
) -> None:
    [one] = spawn_ranks(1, learn_on, tmp_path, str(tmp_path), 500, 20, noise)
    assert one[-1].tolist() == pytest.approx(noise)


def with_shares(folder: str, shares: list[float], dims: int) -> tuple[list[Tensor], list[float]]:
    config, data, stepper, reader = at_start(folder, True)
    kernel = KernelConfig(landmarks=1000, dims=dims, shares=shares)
    count_T = torch.tensor(data.count_T)
    widths = (4, data.image_dim - 4)
    fitted = fit_kernel(kernel, stepper.model, reader, count_T, seed=2, dims=widths)
    mine = load_rows(data.train, config.data.columns, data.names)
    input_ND = stepper.model.standardised(mine.features_BD)
    kernel_NR = fitted.head.kernel(input_ND)
    return [kernel_NR, fitted.head.estimates(kernel_NR, slice(None))], list(fitted.shares)


@pytest.mark.parametrize(("shares", "dims"), [([], 8), ([], 0), ([0.9, 0.1], 8)])
def test_ranks_together_choose_and_use_the_shares_of_columns(
    tmp_path: Path, shares: list[float], dims: int
) -> None:
    [(one, chosen)] = spawn_ranks(1, with_shares, tmp_path, str(tmp_path), shares, dims)
    assert sum(chosen) == pytest.approx(1) and len(chosen) == 2
    assert not shares or chosen == pytest.approx(shares)
    for found, again in spawn_ranks(2, with_shares, tmp_path, str(tmp_path), shares, dims):
        assert again == chosen
        torch.testing.assert_close(found[0], one[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found[1], one[1], atol=2e-2, rtol=2e-2)
    if dims == 0:  # distances are those of the scaled columns
        config, data = surveyed(tmp_path / "again")
        rows = load_rows(data.train, config.data.columns, data.names)
        mean_D, std_D = torch.tensor(data.mean_D).float(), torch.tensor(data.std_D).float()
        input_ND = (rows.features_BD - mean_D) / std_D
        scaled = input_ND * Scale.of(input_ND, (4, data.image_dim - 4), chosen).scale_D
        square = torch.cdist(scaled, scaled).square()
        median = torch.pdist(scaled).square().median()
        torch.testing.assert_close(one[0], (-3.0 * square / median).exp(), atol=1e-3, rtol=1e-3)
