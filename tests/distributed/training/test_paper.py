"""The model as printed, with momentum: alike on any number of ranks, and after a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distributed.training import checkpoint, collectives
from distributed.training.build import build_drel_learner
from distributed.training.checkpoint import Cursor
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.optim import OptimConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.ranks import spawn_ranks
from tests.helpers.training import surveyed

STEPS, IMAGES = 6, 12


def learner(folder: str, seed: int = 0) -> DRELLearner:
    name = f"{collectives.world_size()}-{collectives.rank()}-{seed}"
    _, survey = surveyed(Path(folder) / name)
    config = TrainConfig(
        data=DataConfig(train=""),
        out="",
        model=ModelConfig(image_hidden=16, tag_dim=8, tag_hidden=12, latent=14, start="centred"),
        table=TableConfig(optimiser="sgd", lr=1.0),
        optim=OptimConfig(lr=0.05, momentum=0.9),
    )
    torch.manual_seed(seed)
    return build_drel_learner(config, survey, torch.device("cpu"))


def steps(stepper: DRELLearner, first: int, last: int) -> dict[str, torch.Tensor]:
    """The state after some steps on random batches, this rank's share of each."""
    world, rank = collectives.world_size(), collectives.rank()
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        features = torch.randn(IMAGES, stepper.model.image_dim, generator=generator)
        tag_n = torch.randint(stepper.num_tags, (IMAGES,), generator=generator)
        tags = TagLists.from_lists([[int(tag)] for tag in tag_n])
        mine = slice(IMAGES * rank // world, IMAGES * (rank + 1) // world)
        stepper.run(
            features[mine], tags[mine], epoch=0, step=step, progress=0.0, global_batch=IMAGES
        )
    state = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    counts = stepper.table.split_pool(torch.arange(stepper.num_tags))[1]
    state["table"] = collectives.gather_rows(stepper.table.local.weight_nE, counts).clone()
    return state


def work(folder: str, stop: int) -> dict[str, torch.Tensor]:
    return steps(learner(folder), 0, stop)


@pytest.mark.parametrize("world", [2, 3])
def test_start_and_steps_do_not_depend_on_the_number_of_ranks(tmp_path: Path, world: int) -> None:
    for stop, tolerance in ((0, 0.0), (STEPS, 1e-4)):
        alone = work(str(tmp_path), stop)
        for state in spawn_ranks(world, work, tmp_path, str(tmp_path), stop):
            for name, value in alone.items():
                torch.testing.assert_close(state[name], value, atol=tolerance, rtol=tolerance)


def test_momentum_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    whole = work(str(tmp_path), STEPS)
    half = learner(str(tmp_path))
    steps(half, 0, STEPS // 2)
    checkpoint.save(tmp_path, half, Cursor(step=STEPS // 2), {})
    other = learner(str(tmp_path), seed=1)
    checkpoint.load(tmp_path, other, {})
    resumed = steps(other, STEPS // 2, STEPS)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_momentum_takes_the_last_step_again() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    config = OptimConfig(lr=0.1, momentum=0.9)
    optimiser = config.build([{"params": [weight]}], torch.device("cpu"))
    for expected in (-0.1, -0.29):  # then 0.1 (1 + 0.9)
        weight.grad = torch.ones(1)
        config.step(optimiser, 0.0)
        assert weight.item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"optim\.momentum is 1\.5; it must be in \[0, 1\)"):
        OptimConfig(momentum=1.5)
