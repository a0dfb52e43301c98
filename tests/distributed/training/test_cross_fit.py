"""Fits that leave rows out: which rows, and the rule that comes of them, kept for a run taken up again."""

from __future__ import annotations

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
from distributed.training.build import build_drel_learner
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.cross_fit import Decision, has_room, learn_decision, split_rows
from distributed.training.drel_learner import DRELLearner
from distributed.training.run_spec import RunSpec
from drel_core.decision.rule import DECISION, DecisionRule
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.ranks import spawn_ranks
from tests.helpers.training import surveyed


def features_of(data: StoreSurvey, reads: list[Any]) -> np.ndarray:
    columns = DataConfig(train="").columns
    return load_rows(reads, columns, data.names).features_BD.numpy()


def test_parts_cover_every_training_row_once_and_no_other(tmp_path: Path) -> None:
    _, data = surveyed(tmp_path, validation=0.2)  # rows of validation are dropped from each unit
    every = features_of(data, data.train)
    seen = []
    for part in range(4):
        rest, held = split_rows(data.train, 4, part, 10**6, seed=3)
        both = np.concatenate([features_of(data, rest), features_of(data, held)])
        assert (both[np.lexsort(both.T)] == every[np.lexsort(every.T)]).all()
        seen.append(features_of(data, held))
    together = np.concatenate(seen)
    assert (together[np.lexsort(together.T)] == every[np.lexsort(every.T)]).all()
    assert len(features_of(data, split_rows(data.train, 4, 0, 7, seed=3)[1])) == 7
    other = features_of(data, split_rows(data.train, 4, 0, 10**6, seed=4)[1])
    assert len(other) == len(seen[0]) and not (other == seen[0]).all()


def learn(config: TrainConfig, data: StoreSurvey, fingerprint: str, said: list[str]) -> Decision:
    spec = RunSpec(config=config, survey=data, features=None, fingerprint={"data": fingerprint})
    blocks = inline_blocks(config.data.columns, data.names)
    return learn_decision(spec, blocks, torch.device("cpu"), said.append)


def work(folder: str) -> object:
    config, data = surveyed(Path(folder) / str(collectives.world_size()) / str(collectives.rank()))
    config.out = str(Path(folder) / "shared")
    Path(config.out).mkdir(exist_ok=True)
    config.kernel.landmarks = 100
    decision = learn(config, data, "a", [])
    rule = decision.rule
    return (rule.slope, rule.shift_T, rule.gain_T, rule.offset_T), decision.found


def test_all_ranks_learn_one_rule(tmp_path: Path) -> None:
    (first, found), (second, other_found) = spawn_ranks(2, work, tmp_path, str(tmp_path))
    assert found == other_found and found["images"] == 60
    for one, other in zip(first, second, strict=True):
        assert (one == other).all()
    assert (first[2] > 0).all() and torch.isfinite(first[3]).all()


def test_a_run_taken_up_again_keeps_its_rule_and_another_run_learns_its_own(tmp_path: Path) -> None:
    config, data = surveyed(tmp_path)
    said: list[str] = []
    first = learn(config, data, "a", said)
    assert [line.split(",")[0] for line in said] == [
        "decision rule: fit 1 of 2",
        "decision rule: fit 2 of 2",
        "decision rule: on the 60 rows left out",
    ]
    assert first.found["images"] == 60 and 0 < first.found["floor"]["F1"] < 1
    again = learn(config, data, "a", said)
    assert len(said) == 3 and (again.rule.gain_T == first.rule.gain_T).all()
    assert again.found == first.found
    learn(config, data, "b", said)
    assert len(said) == 6
    (Path(config.out) / DECISION).write_bytes(b"broken")
    assert (learn(config, data, "a", said).rule.gain_T == first.rule.gain_T).all()


def evaluated(folder: str) -> object:
    """Metrics with a rule, and each rank's scores, of a table that lies in parts."""
    config, data = surveyed(Path(folder) / str(collectives.world_size()) / str(collectives.rank()))
    torch.manual_seed(7)
    stepper = build_drel_learner(config, data, torch.device("cpu"))
    mine = load_rows(
        shard(data.train, collectives.world_size(), collectives.rank()),
        config.data.columns,
        data.names,
    )
    torch.manual_seed(0)
    tags = len(data.count_T)
    stepper.rule = DecisionRule(
        torch.ones(1), torch.randn(tags), torch.rand(tags), torch.randn(tags)
    )
    trained_T = torch.ones(tags, dtype=torch.bool)
    metrics = [stepper.evaluate([mine], 3, trained_T, block) for block in (2, 100)]
    return metrics, stepper.scores(mine, 2), mine.tags.values, mine.tags.offsets


def test_large_vocabularies_have_no_rule() -> None:
    assert has_room(1000) and not has_room(100_000)


@pytest.mark.parametrize("world", [2])
def test_evaluating_by_a_rule_is_the_same_at_any_world_size(tmp_path: Path, world: int) -> None:
    [(alone, score_nT, values, offsets)] = spawn_ranks(1, evaluated, tmp_path, str(tmp_path))
    ranks = spawn_ranks(world, evaluated, tmp_path, str(tmp_path))
    assert alone[0] == alone[1]
    for metrics, *_ in ranks:
        assert metrics == alone
    torch.testing.assert_close(torch.cat([part[1] for part in ranks]), score_nT)
    # By hand: the rule on whole scores.
    torch.manual_seed(0)
    tags = score_nT.shape[1]
    rule = DecisionRule(torch.ones(1), torch.randn(tags), torch.rand(tags), torch.randn(tags))
    best_nk = rule.utility(score_nT, slice(None)).topk(3, dim=1).indices
    said_nT = torch.zeros(score_nT.shape, dtype=torch.bool).scatter_(1, best_nk, True)
    hit_T = (said_nT & TagLists(values, offsets).mask(tags)).sum(0).double()
    precision = float((hit_T / said_nT.sum(0).clamp(min=1)).mean())
    assert alone[0]["mP"] == pytest.approx(precision)


def test_a_stepper_without_rows_of_its_own_still_takes_part(tmp_path: Path) -> None:
    config, data = surveyed(tmp_path, rows=40)
    stepper: DRELLearner = build_drel_learner(config, data, torch.device("cpu"))
    none = Rows(torch.empty(0, data.image_dim), TagLists.cat([]))
    assert stepper.scores(none).shape == (0, len(data.count_T))
