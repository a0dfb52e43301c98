"""Hard tags: the same at any world size, those of the plain definition, and counted once by the loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distributed.training import collectives, hard_tags
from distributed.training.config import DataConfig, TrainConfig
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.hard_tags import find_hard_tags, ramped_count
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig, PooledBatch, PooledStep
from drel_core.model.sampling import step_generator, tags_outside
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists
from tests.helpers.ranks import spawn_ranks

IMAGES, DIM, TAGS = 150, 6, 300
MODEL = ModelConfig(
    image_hidden=8, tag_dim=5, tag_hidden=8, latent=7, activation="gelu", dropout=0.5, tag_bias=True
)


def make(pool: PoolConfig) -> DRELLearner:
    torch.manual_seed(0)
    model = DREL(DIM, MODEL)
    assert model.bias_head is not None
    torch.nn.init.normal_(model.bias_head.weight)
    table = ShardedTagEmbedding(TAGS, MODEL, TableConfig(lr=0.1), seed=5)
    count_T = torch.ones(TAGS, dtype=torch.int64)
    loss = LossConfig(kind="smooth")
    return DRELLearner(model, table, count_T, loss, pool, OptimConfig(), seed=3)


def images() -> torch.Tensor:
    return torch.randn(IMAGES, DIM, generator=torch.Generator().manual_seed(1))


def work_find(sought: list[int], count: int) -> torch.Tensor:
    learner = make(PoolConfig())
    world, rank = collectives.world_size(), collectives.rank()
    cuts = {1: [0, IMAGES], 2: [0, 31, IMAGES], 3: [0, 100, 100, IMAGES]}[world]
    mine = images()[cuts[rank] : cuts[rank + 1]]
    generator = step_generator(3, 6, 0, 1)
    found = find_hard_tags(
        learner.model, learner.table, mine, torch.tensor(sought), count, generator
    )
    assert learner.model.training
    return found


@pytest.mark.parametrize("sought", [range(0, TAGS, 3), range(40)])
def test_hard_tags_are_those_of_the_definition_at_any_world_size(
    tmp_path: Path, sought: range
) -> None:
    learner = make(PoolConfig())
    model = learner.model.eval()
    chosen = torch.randperm(IMAGES, generator=step_generator(3, 6, 0, 1))[: hard_tags._IMAGES]
    with torch.no_grad():
        image = model.encode_images(images()[chosen], with_metric=True)
        rows = learner.table.rows(torch.tensor(sought))
        score = model.score(image, model.encode_tags(rows, with_metric=False)).double()
    share = torch.stack([(row - row.max()).exp() for row in score]).sum(0)
    expected = sorted(sought[i] for i in share.argsort(descending=True)[:9].tolist())
    for world in (1, 2, 3):  # of range(40) late ranks own none
        for found in spawn_ranks(world, work_find, tmp_path, list(sought), 9):
            assert found.tolist() == expected


def test_a_step_takes_more_hard_tags_as_training_goes_on_none_of_them_relevant() -> None:
    learner = make(PoolConfig(candidates=10, hard=20, hard_from=100, hard_ramp=0.5))
    tags = TagLists.from_lists([[3, 9], [40], [41, 80, 299]])
    pool = learner.draw_pool(tags, 0, 7)
    sizes = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        hard = learner.hard_tags(images()[:3], pool, 0, 7, progress)
        assert not torch.isin(hard, pool).any()
        sizes.append(len(hard))
        stats = learner.run(images()[:3], tags, epoch=0, step=7, progress=progress, global_batch=3)
        assert stats.pool == len(pool) + len(hard)
    assert sizes == [0, 10, 20, 20]
    assert ramped_count(20, 0.0, 0.0) == 20


def test_tags_outside_a_pool() -> None:
    pool = torch.tensor([0, 5, 6, 19])
    every = tags_outside(20, 20, pool, torch.Generator())
    assert every.tolist() == [t for t in range(20) if t not in (0, 5, 6, 19)]
    some = tags_outside(1000, 300, pool, torch.Generator().manual_seed(0))
    assert 200 < len(some) <= 300 and not torch.isin(some, pool).any()
    assert (some.diff() > 0).all()


def test_smooth_loss_counts_a_hard_tag_once_and_a_random_one_for_many() -> None:
    config = ModelConfig(
        image_tower="linear",
        tag_tower="none",
        tag_dim=1,
        latent=1,
        metric="none",
        standardise=False,
    )
    model = DREL(1, config)
    with torch.no_grad():
        model.image_tower.weight.fill_(1.0)  # a score is the tag's embedding
    every, pool, hard = 20_000, 1000, 30
    score = torch.zeros(pool, 1)
    score[-hard:] = 5.0
    score.requires_grad_()
    batch = PooledBatch(
        torch.ones(1, 1),
        TagLists.from_lists([[0]]),
        torch.arange(pool),
        every,
        False,
        torch.arange(pool - hard, pool),
    )
    loss, _ = PooledStep(model, LossConfig(kind="smooth"), torch.ones(every))(batch, score, 1.0)
    total = (every - hard - 1) + hard * math.exp(5.0)
    assert float(loss.detach()) == pytest.approx(math.log1p(total), rel=1e-4)
    loss.backward()
    assert score.grad is not None
    assert float(score.grad[-hard:].sum()) == pytest.approx(
        hard * math.exp(5.0) / (1 + total), rel=2e-3
    )


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pool\.hard is -1"):
        PoolConfig(hard=-1)
    with pytest.raises(ValueError, match=r"pool\.hard_from is 5"):
        PoolConfig(hard=6, hard_from=5)
    with pytest.raises(ValueError, match=r"pool\.hard_ramp is 2"):
        PoolConfig(hard_ramp=2)
    with pytest.raises(ValueError, match=r"pool\.hard is 6 with loss\.weighting warp"):
        TrainConfig(
            data=DataConfig(train="x"),
            out="y",
            pool=PoolConfig(hard=6),
            loss=LossConfig(weighting="warp"),
        )
