"""Rows left out of a second fit: which ones, and the decisions that come of them, kept for a run taken up
again."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed.data.blocks import inline_blocks, load_rows
from distributed.data.epoch import shard
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.training import collectives
from distributed.training.build import build_drel_learner, make_reader
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.held_out_fit import Decided, decide_by_second_fit, split_rows
from distributed.training.kernel_fit import fit_kernel, has_room
from distributed.training.run_spec import RunSpec
from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import DECISION, Decider
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.ranks import spawn_ranks
from tests.helpers.training import surveyed

CPU = torch.device("cpu")


def features_of(data: StoreSurvey, reads: list[Any]) -> np.ndarray:
    columns = DataConfig(train="").columns
    return load_rows(reads, columns, data.names).features_BD.numpy()


def sorted_rows(features: np.ndarray) -> np.ndarray:
    return features[np.lexsort(features.T)]


def test_both_parts_cover_every_training_row_once_and_no_other(tmp_path: Path) -> None:
    _, data = surveyed(tmp_path, validation=0.2)  # rows of validation are dropped from each unit
    every = features_of(data, data.train)
    rest, held = split_rows(data.train, 4, 10**6, seed=3)
    both = np.concatenate([features_of(data, rest), features_of(data, held)])
    assert (sorted_rows(both) == sorted_rows(every)).all()
    assert len(features_of(data, held)) == len(every) // 4
    assert len(features_of(data, split_rows(data.train, 4, 7, seed=3)[1])) == 7
    other = features_of(data, split_rows(data.train, 4, 10**6, seed=4)[1])
    assert not (other == features_of(data, held)).all()


def learn(
    config: TrainConfig, data: StoreSurvey, fingerprint: str, said: list[str]
) -> tuple[Decided, DRELLearner]:
    spec = RunSpec(config=config, survey=data, features=None, fingerprint={"data": fingerprint})
    blocks = inline_blocks(config.data.columns, data.names)
    torch.manual_seed(0)
    learner = build_drel_learner(config, data, CPU)
    kernel = None
    if config.kernel.landmarks:
        reader = make_reader(config, data, data.train, blocks, True)
        count_T = torch.tensor(data.count_T)
        kernel = fit_kernel(config.kernel, learner.model, reader, count_T, config.seed)
        learner.kernel = kernel.head
    decided = decide_by_second_fit(spec, blocks, learner, kernel, said.append)
    assert decided is not None
    return decided, learner


def work(folder: str) -> object:
    config, data = surveyed(Path(folder) / str(collectives.world_size()) / str(collectives.rank()))
    config.out = str(Path(folder) / "shared" / str(collectives.world_size()))
    Path(config.out).mkdir(exist_ok=True, parents=True)
    config.kernel.landmarks, config.kernel.least_gain = 100, 0.0
    decided, learner = learn(config, data, "a", [])
    decided.give(learner)
    assert learner.kernel is not None and learner.decider is not None
    decider = decided.decider
    calibration = decider.calibration
    return (
        (calibration.slope, calibration.shift_T, calibration.link, decider.gain_T, decider.cut_T),
        decided.found,
        float(learner.kernel.factor),
    )


def test_all_ranks_learn_one_decider(tmp_path: Path) -> None:
    (first, found, factor), (second, other_found, other_factor) = spawn_ranks(
        2, work, tmp_path, str(tmp_path)
    )
    assert found == other_found and factor == other_factor
    for one, other in zip(first, second, strict=True):
        assert (one == other).all()
    assert (first[3] > 0).all() and all(torch.isfinite(part).all() for part in first)
    assert found["images"] == 30 and found["F1"] > found["floor"]["F1"]


def test_a_run_taken_up_again_keeps_its_decider_and_another_run_learns_its_own(
    tmp_path: Path,
) -> None:
    config, data = surveyed(tmp_path)
    said: list[str] = []
    first, _ = learn(config, data, "a", said)
    assert [line.split(",")[0] for line in said] == [
        f"calibration: a fit without {first.found['images']} rows",
        "calibration: on these rows",
    ]
    assert 0 < first.found["floor"]["F1"] < 1
    again, _ = learn(config, data, "a", said)
    assert len(said) == 2 and (again.decider.gain_T == first.decider.gain_T).all()
    assert again.found == first.found and again.kernel_factor == first.kernel_factor
    learn(config, data, "b", said)
    assert len(said) == 4
    (Path(config.out) / DECISION).write_bytes(b"broken")
    third, _ = learn(config, data, "a", said)
    assert (third.decider.gain_T == first.decider.gain_T).all()


def shared_decider(tags: int) -> Decider:
    torch.manual_seed(0)
    calibration = Calibration(torch.ones(1), torch.randn(tags), torch.tensor([1.0, -0.2, 0.1, 0.0]))
    return Decider(calibration, torch.rand(tags), torch.randn(tags))


def evaluated(folder: str) -> object:
    """Metrics with a decider, and candidates of each rank's rows, of a table that lies in parts."""
    config, data = surveyed(Path(folder) / str(collectives.world_size()) / str(collectives.rank()))
    torch.manual_seed(7)
    learner = build_drel_learner(config, data, CPU)
    mine = load_rows(
        shard(data.train, collectives.world_size(), collectives.rank()),
        config.data.columns,
        data.names,
    )
    tags = len(data.count_T)
    held, start = learner.held_out(mine, None, 2)
    learner.decider = shared_decider(tags)
    trained_T = torch.ones(tags, dtype=torch.bool)
    metrics = [learner.evaluate([mine], 3, trained_T, block) for block in (2, 100)]
    return metrics, held, start, mine.tags.values, mine.tags.offsets


@pytest.mark.parametrize("world", [2])
def test_evaluating_and_candidates_are_the_same_at_any_world_size(
    tmp_path: Path, world: int
) -> None:
    [(alone, held, start, values, offsets)] = spawn_ranks(1, evaluated, tmp_path, str(tmp_path))
    ranks = spawn_ranks(world, evaluated, tmp_path, str(tmp_path))
    assert alone[0] == alone[1] and start == 0
    for metrics, same, *_ in ranks:
        assert metrics == alone
        assert (same.tag_nM == held.tag_nM).all() and (same.hit_nM == held.hit_nM).all()
        torch.testing.assert_close(same.score_nM, held.score_nM)
        assert same.relevant == held.relevant == len(values)
    assert ranks[1][2] == len(ranks[0][4]) - 1
    # By hand: the calibration on whole scores.
    tags = held.tag_nM.shape[1]
    score_nT = torch.zeros(held.score_nM.shape).scatter_(1, held.tag_nM, held.score_nM)
    assert (held.score_nM.diff(dim=1) <= 0).all()
    mask_nT = TagLists(values, offsets).mask(tags)
    assert (held.hit_nM == mask_nT.gather(1, held.tag_nM)).all()
    z_nT = shared_decider(tags).calibration.order(score_nT, slice(None))
    said_nT = torch.zeros(z_nT.shape, dtype=torch.bool).scatter_(
        1, z_nT.topk(3, dim=1).indices, True
    )
    hit_T = (said_nT & mask_nT).sum(0).double()
    precision = float((hit_T / said_nT.sum(0).clamp(min=1)).mean())
    assert alone[0]["mP"] == pytest.approx(precision)


def test_a_rank_without_rows_of_its_own_still_takes_part(tmp_path: Path) -> None:
    config, data = surveyed(tmp_path, rows=40)
    learner = build_drel_learner(config, data, CPU)
    none = Rows(torch.empty(0, data.image_dim), TagLists.cat([]))
    held, start = learner.held_out(none, None)
    assert len(held) == 0 and start == 0 and held.says_nothing


def test_large_vocabularies_have_no_kernel() -> None:
    assert has_room(1000) and not has_room(100_000)


def test_left_out_estimates_are_those_of_a_fit_without_the_row(tmp_path: Path) -> None:
    """The towers' part is left aside: candidates carry the logs of the estimates."""
    config, data = surveyed(tmp_path, rows=60)
    config.kernel.landmarks = 1000
    blocks = inline_blocks(config.data.columns, data.names)
    learner = build_drel_learner(config, data, CPU)
    count_T = torch.tensor(data.count_T)
    reader = make_reader(config, data, data.train, blocks, True)
    fitted = fit_kernel(config.kernel, learner.model, reader, count_T, 0)
    learner.kernel = fitted.head
    rows = reader.load()
    held, _ = learner.held_out(rows, fitted)
    assert held.evidence_nM is not None
    tags = len(count_T)
    found_nT = torch.zeros(len(rows), tags).scatter_(1, held.tag_nM, held.evidence_nM)
    input_ND = learner.model.standardised(rows.features_BD).double()
    relevant_NT = rows.tags.mask(tags).double()
    share_T = fitted.head.share_T.double()
    square_NN = torch.cdist(input_ND, input_ND).square()
    kernel_NN = (-float(fitted.head.sharpness) * square_NN).exp()
    for row in (0, 17, 41):
        rest = torch.arange(len(rows)) != row
        system = kernel_NN[rest][:, rest] + config.kernel.ridge * torch.eye(len(rows) - 1)
        weight = torch.linalg.solve(system, relevant_NT[rest] - share_T)
        expected_T = kernel_NN[row, rest] @ weight + share_T
        noise_T = 0.01 + share_T / 2
        found_T = found_nT[row].double().exp() - noise_T
        torch.testing.assert_close(found_T, expected_T.clamp(min=0), rtol=1e-2, atol=2e-3)


def test_scores_that_lie_elsewhere_and_spread_further_have_the_same_probabilities(
    tmp_path: Path,
) -> None:
    config, data = surveyed(tmp_path)
    config.kernel.landmarks, config.kernel.least_gain = 100, 0.0
    first, learner = learn(config, data, "a", [])
    scores = learner.moments(every_row(config, data))
    assert scores.deviation > 0
    assert learner.model.log_scale is not None
    with torch.no_grad():
        learner.model.log_scale += np.log(1.25)  # biases are still 0
    further = learner.moments(every_row(config, data))
    assert further.deviation == pytest.approx(1.25 * scores.deviation)
    assert further.mean == pytest.approx(1.25 * scores.mean, rel=1e-4)
    assert first.kernel_factor is not None
    moved = replace(further, mean=further.mean + 3)
    second = replace(first, scores=scores).for_scores(moved)
    assert second.kernel_factor == pytest.approx(1.25 * first.kernel_factor)
    # The same orders and probabilities come from the scores that spread further.
    score_BT = torch.randn(5, len(data.count_T))
    one, other = first.decider.calibration, second.decider.calibration
    z_BT = one.order(score_BT.clone(), slice(None))
    torch.testing.assert_close(z_BT, other.order(1.25 * score_BT + 3, slice(None)))


def test_moments_are_of_all_ranks_rows(tmp_path: Path) -> None:
    config, data = surveyed(tmp_path)
    torch.manual_seed(0)
    learner = build_drel_learner(config, data, CPU)
    rows = every_row(config, data)
    learner.model.eval()
    image_NL = learner.model.encode_images(rows.features_BD.float(), with_metric=False)
    tag_TL1 = learner.model.encode_tags(
        learner.table.rows(torch.arange(len(data.count_T))), with_metric=True
    )
    score_NT = learner.model.score(image_NL, tag_TL1).detach().double()
    expected = float(score_NT.mean()), float(score_NT.std(correction=0))
    assert astuple(learner.moments(rows)) == pytest.approx(expected, rel=1e-5)
    one, other = spawn_ranks(2, moments_of_half, tmp_path, str(tmp_path))
    assert one == other == pytest.approx(expected, rel=1e-5)


def every_row(config: TrainConfig, data: StoreSurvey) -> Rows:
    return load_rows(data.train, config.data.columns, data.names)


def moments_of_half(folder: str) -> tuple[float, float]:
    config, data = surveyed(Path(folder) / str(collectives.rank()))
    rows, rank = every_row(config, data), collectives.rank()
    torch.manual_seed(0)
    learner = build_drel_learner(config, data, CPU)
    half = len(rows) // 3  # ranks need not have equally many
    part = slice(0, half) if rank == 0 else slice(half, len(rows))
    found = learner.moments(Rows(rows.features_BD[part], rows.tags[part]))
    return found.mean, found.deviation


def test_a_kernel_that_saves_too_little_is_left_out_and_a_line_says_so(tmp_path: Path) -> None:
    config, data = surveyed(tmp_path)
    config.kernel.landmarks, config.kernel.least_gain = 100, 0.9
    said: list[str] = []
    decided, learner = learn(config, data, "a", said)
    assert decided.kernel_factor is None and decided.kernel_gain is not None
    assert [line for line in said if line.startswith("kernel: left out, it saves ")]
    assert learner.kernel is not None
    decided.give(learner)
    assert learner.kernel is None
    # A run that is taken up does not ask again.
    again, learner = learn(config, data, "a", [])
    again.give(learner)
    assert again.kernel_factor is None and learner.kernel is None
