"""Losses, miners, samplers, table and the pooled step against their plain forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from drel_core.model.losses import (
    harmonic,
    smooth_triplet_loss,
    tag_frequency_weight,
    triplet_hinge,
    warp_weight,
)
from drel_core.model.mining import (
    mine_hard,
    mine_semi_hard,
    mine_uniform,
    mine_violating,
    ramped_negatives,
)
from drel_core.model.pooled_step import LossConfig, PooledBatch, PooledStep, literal_triplet_loss
from drel_core.model.sampling import CandidateSampler, step_generator
from drel_core.model.tag_embedding import TableConfig, TagEmbedding, row_wise_adagrad
from drel_core.model.towers import DREL, ModelConfig, init_embedding_rows, prior_bias
from drel_core.model.unit_rows import unit_rows
from drel_core.scoring.tag_lists import TagLists

SMALL = ModelConfig(image_hidden=12, tag_dim=6, tag_hidden=8, latent=9)


def random_case(seed: int, images: int = 7, pool: int = 11) -> tuple[torch.Tensor, TagLists]:
    generator = torch.Generator().manual_seed(seed)
    score_BP = torch.randn(images, pool, generator=generator)
    rows = [
        torch.randperm(pool, generator=generator)[: i % 4].sort().values.tolist()
        for i in range(images)
    ]
    rows[-1] = list(range(pool))  # an image with every tag has no irrelevant one
    return score_BP, TagLists.from_lists(rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3, 50])
def test_miners_return_the_best_irrelevant_columns_and_never_a_relevant_one(
    seed: int, k: int
) -> None:
    score, tags = random_case(seed)
    relevant = tags.mask(score.shape[1])
    row, column = tags.row_ids(), tags.values
    generator = torch.Generator().manual_seed(seed)
    uniform = mine_uniform(relevant, row, k, generator)
    hard = mine_hard(score, relevant, row, k)
    semi = mine_semi_hard(score, relevant, row, column, k)
    violating = mine_violating(score, relevant, row, column, 0.5)
    for mined in (uniform, hard, semi, violating, mine_uniform(relevant, row, 0)):
        assert not (relevant[row[:, None], mined.column_nK] & mined.valid_nK).any()
        for n in range(len(row)):
            chosen = mined.column_nK[n][mined.valid_nK[n]].tolist()
            assert len(set(chosen)) == len(chosen)
    for n in range(len(row)):
        scores, mask = score[row[n]], relevant[row[n]]
        order = [c for c in scores.argsort(descending=True).tolist() if not mask[c]]
        assert hard.column_nK[n][hard.valid_nK[n]].tolist() == order[:k]
        own = scores[column[n]]
        above = {c for c in order if scores[c] > own - 0.5}
        assert set(violating.column_nK[n][violating.valid_nK[n]].tolist()) == above
        band = [c for c in order if own - 1 < scores[c] < own]
        assert semi.column_nK[n][semi.valid_nK[n]].tolist() == (band or order)[:k]


def test_ramp_goes_from_the_whole_pool_to_the_hardest() -> None:
    counts = [ramped_negatives(1000, 10, progress, 0.5) for progress in (0, 0.25, 0.5, 1)]
    assert counts == [1000, 100, 10, 10]
    assert ramped_negatives(5, 10, 0.9, 0.5) == 5
    assert ramped_negatives(1000, 10, 0.0, 0.0) == 10


def test_hinge_equals_a_loop() -> None:
    positive, negative = torch.randn(6), torch.randn(6, 4)
    valid = torch.rand(6, 4) > 0.3
    loop = torch.zeros(6, 4)
    for n in range(6):
        for k in range(4):
            if valid[n, k]:
                loop[n, k] = max(0.0, 0.7 + float(negative[n, k]) - float(positive[n]))
    torch.testing.assert_close(triplet_hinge(positive, negative, valid, 0.7), loop)


def test_smooth_loss_equals_a_loop_and_a_pool_stands_for_every_tag() -> None:
    score, tags = random_case(3)
    relevant, row, column = tags.mask(11), tags.row_ids(), tags.values
    weight = torch.rand(len(row))
    leaf = score.clone().requires_grad_()
    got = smooth_triplet_loss(leaf.clone(), row, column, torch.zeros(7))  # it overwrites the scores
    loops = []
    plain = score.clone().requires_grad_()
    for n in range(len(row)):
        others = [k for k in range(11) if not relevant[row[n], k]]
        above = [(plain[row[n], k] - plain[row[n], column[n]]).exp() for k in others]
        loops.append(torch.stack(above).sum().log1p() if above else plain.new_zeros(()))
    torch.testing.assert_close(got, torch.stack(loops))
    (got * weight).sum().backward()
    (torch.stack(loops) * weight).sum().backward()
    assert leaf.grad is not None and plain.grad is not None
    torch.testing.assert_close(leaf.grad, plain.grad)
    assert (leaf.grad[-1] == 0).all()  # every tag is relevant there
    row = column = torch.zeros(1, dtype=torch.int64)
    whole = smooth_triplet_loss(torch.zeros(1, 1000), row, column, torch.zeros(1))
    left_out = torch.tensor([999 / 9]).log()
    part = smooth_triplet_loss(torch.zeros(1, 10), row, column, left_out)
    torch.testing.assert_close(part, whole)


def test_prior_lowers_frequent_tags_and_leaves_new_ones() -> None:
    bias = prior_bias(torch.tensor([0, 1, 100]), ModelConfig(tag_prior=0.5))
    torch.testing.assert_close(bias, torch.tensor([0.0, 0.0, -0.5 * float(np.log(100))]))
    assert (prior_bias(torch.tensor([5, 9]), ModelConfig()) == 0).all()


def test_warp_weight_is_exact_when_the_pool_is_every_tag() -> None:
    ranks = torch.tensor([0, 1, 2, 16, 17, 400])
    exact = torch.tensor([float(np.sum(1 / np.arange(1, r + 1))) for r in ranks.tolist()])
    torch.testing.assert_close(harmonic(ranks.float()), exact, atol=1e-6, rtol=1e-6)
    every = torch.full_like(ranks, 500)
    torch.testing.assert_close(warp_weight(ranks, every, every), exact, atol=1e-6, rtol=1e-6)


def test_tag_weights_average_to_one_over_training_pairs() -> None:
    count = torch.tensor([100, 4, 1])
    weight = tag_frequency_weight(count, 0.5)
    assert float((weight * count).sum() / count.sum()) == pytest.approx(1)
    assert float(weight[1] / weight[0]) == pytest.approx(5)


@pytest.mark.parametrize("miner", ["uniform", "hard"])
def test_pooled_step_equals_a_loop_over_triplets_and_the_literal_step(miner: str) -> None:
    torch.manual_seed(0)
    model = DREL(5, SMALL)
    table = TagEmbedding(0, 7, SMALL, TableConfig(), seed=1)
    features, tags = torch.randn(4, 5), TagLists.from_lists([[0, 2], [6], [], [1, 3, 4]])
    loss = LossConfig(miner=miner, negatives=0 if miner == "uniform" else 7)  # type: ignore[arg-type]
    pool = torch.arange(7)
    rows = table.rows(pool)
    step = PooledStep(model, loss, torch.ones(7))
    value, stats = step(PooledBatch(features, tags, pool, 7, True), rows, 0.0)
    value.backward()

    triplets = [
        (k, i, j)
        for i, own in enumerate(tags.tolist())
        for j in own
        for k in range(7)
        if k not in own
    ]
    assert int(stats.triplets) == len(triplets)
    other = table.rows(pool)
    negative, image, positive = torch.tensor(triplets).T
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    literal = literal_triplet_loss(model, features[image], other[negative], other[positive], 1.0)
    if miner == "uniform":  # the mean over triplets; hard means over pairs first
        literal.backward()
        torch.testing.assert_close(value, literal)
        torch.testing.assert_close(rows.grad, other.grad)
        for mine, theirs in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.grad)
        return
    with torch.no_grad():
        score = model.score(
            model.encode_images(features, with_metric=True),
            model.encode_tags(other, with_metric=False),
        )
    pairs = [(i, j) for i, own in enumerate(tags.tolist()) for j in own]
    means = [
        np.mean(
            [
                max(0.0, 1 + float(score[i, k] - score[i, j]))
                for kk, ii, jj in triplets
                if (ii, jj) == (i, j)
                for k in [kk]
            ]
        )
        for i, j in pairs
    ]
    assert value.item() == pytest.approx(np.mean(means), rel=1e-5)


def test_pool_may_leave_tags_out_and_an_empty_batch_has_a_zero_gradient() -> None:
    model = DREL(5, SMALL)
    table = TagEmbedding(0, 50, SMALL, TableConfig(), seed=1)
    pool = torch.tensor([3, 8, 20, 44])
    step = PooledStep(model, LossConfig(), torch.ones(50))
    rows = table.rows(pool)
    tags = TagLists.from_lists([[8], [3, 44]])
    value, stats = step(PooledBatch(torch.randn(2, 5), tags, pool, 50, False), rows, 0.0)
    assert int(stats.triplets) == 3 + 2 + 2
    rows = table.rows(pool)
    empty = PooledBatch(torch.zeros(0, 5), TagLists.cat([]), pool, 50, False)
    value, _ = step(empty, rows, 0.0)
    value.backward()
    assert value.item() == 0
    assert rows.grad is not None and not rows.grad.any()


def test_row_wise_adagrad_equals_adagrad_on_uniform_rows() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 1).expand(5, 4).clone())
    trusted = torch.optim.Adagrad([weight], lr=0.3, eps=1e-8)
    ours, state = weight.detach().clone(), torch.zeros(5)
    for step in range(4):
        gradient = torch.randn(5, 1, generator=torch.Generator().manual_seed(step)).expand(5, 4)
        weight.grad = gradient.clone()
        trusted.step()
        ours -= 0.3 * row_wise_adagrad(state, torch.arange(5), gradient, 1e-8)
    torch.testing.assert_close(ours, weight.detach())


def test_untouched_rows_and_their_state_stay_bit_identical() -> None:
    table = TagEmbedding(0, 9, SMALL, TableConfig(), seed=0)
    before = table.weight_nE.clone()
    touched = torch.tensor([1, 5])
    table.apply_gradient(touched, torch.ones(2, 6), 0.1)
    rest = [i for i in range(9) if i not in (1, 5)]
    assert torch.equal(table.weight_nE[rest], before[rest])
    assert not table.state_n[rest].any() and table.state_n[touched].all()


def test_a_row_starts_the_same_in_any_shard_and_at_any_vocabulary_size() -> None:
    whole = init_embedding_rows(torch.arange(1000), SMALL, seed=3)
    assert torch.equal(init_embedding_rows(torch.arange(400, 700), SMALL, seed=3), whole[400:700])
    assert float(whole.mean()) == pytest.approx(0, abs=0.05)
    assert float(whole.std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(init_embedding_rows(torch.arange(1000), SMALL, seed=4), whole)


def test_samplers_follow_their_distribution() -> None:
    count = torch.tensor([1, 16, 256, 0])
    draws = 200_000
    for kind, share in {
        "uniform": torch.full((4,), 0.25),
        "frequency": torch.tensor([1.0, 8, 64, 1]) / 74,
    }.items():
        tag = CandidateSampler(count, kind).draw(draws, step_generator(0, 1))  # type: ignore[arg-type]
        found = torch.bincount(tag, minlength=4) / draws
        torch.testing.assert_close(found, share, atol=0.005, rtol=0)
    mixed = CandidateSampler(count, "mixed").draw(7, step_generator(0, 1))
    assert len(mixed) == 7


def test_standardisation_and_power_are_part_of_the_model() -> None:
    config = ModelConfig(image_hidden=4, tag_dim=2, tag_hidden=2, latent=3, power=0.5)
    plain = ModelConfig(image_hidden=4, tag_dim=2, tag_hidden=2, latent=3)
    torch.manual_seed(0)
    model = DREL(2, config, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    torch.manual_seed(0)
    bare = DREL(2, plain)
    features = torch.tensor([[9.0, -4.0]])
    expected = bare.encode_images(torch.tensor([[1.0, -1.0]]), with_metric=True)
    torch.testing.assert_close(model.encode_images(features, with_metric=True), expected)
    with pytest.raises(ValueError, match=r"\[B, 2\]"):
        model.encode_images(torch.zeros(1, 3), with_metric=True)


WSABIE = ModelConfig(
    image_tower="linear",
    tag_tower="none",
    metric="none",
    latent=5,
    tag_dim=5,
    max_norm=1.0,
    embedding_std=0.1,
)


def test_wsabie_step_is_what_its_draws_give_on_average() -> None:
    """Weston et al. (2011), Algorithm 1: draw irrelevant tags until one violates the margin."""
    torch.manual_seed(3)
    model = DREL(4, WSABIE)
    images, tags = torch.randn(3, 4), TagLists.from_lists([[0, 2], [1], [3]])
    rows = torch.randn(9, 5) * 0.3
    step = PooledStep(model, LossConfig(miner="violating", weighting="warp"), torch.ones(9))
    batch = PooledBatch(images, tags, torch.arange(9), 9, metric_on_tags=True)
    loss, stats = step(batch, rows.clone().requires_grad_(), 0.0)

    score = images @ model.image_tower.weight.detach().T @ rows.T
    expected, triplets = 0.0, 0
    for image, own in enumerate(tags.tolist()):
        others = [t for t in range(9) if t not in own]
        for tag in own:
            hinge = [float(1 + score[image, t] - score[image, tag]) for t in others]
            violating = [h for h in hinge if h > 0]
            rank_weight = sum(1 / i for i in range(1, len(violating) + 1))
            expected += rank_weight * float(np.mean(violating)) if violating else 0.0
            triplets += len(violating)
    torch.testing.assert_close(float(loss.detach()), expected / 4, rtol=1e-5, atol=1e-6)
    assert int(stats.triplets) == triplets


def test_warp_weight_comes_to_the_exact_one_as_the_pool_grows() -> None:
    generator = np.random.default_rng(0)
    violates = np.zeros(2000, bool)
    violates[:70] = True  # the true rank is 70
    exact = float(np.sum(1 / np.arange(1, 71)))
    errors = []
    for pool in (20, 200, 2000):
        draws = [violates[generator.permutation(2000)[:pool]].sum() for _ in range(200)]
        counts = [torch.tensor(v) for v in (draws, [pool] * 200, [2000] * 200)]
        errors.append(abs(float(warp_weight(*counts).mean()) - exact))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


def test_norms_stay_bounded() -> None:
    model = DREL(4, WSABIE)
    assert isinstance(model.image_tower, torch.nn.Linear)
    with torch.no_grad():
        model.image_tower.weight.mul_(30)
    before = model.image_tower.weight.detach().clone()
    model.limit_norms()
    torch.testing.assert_close(model.image_tower.weight.norm(dim=0), torch.ones(4))
    cosine = torch.nn.functional.cosine_similarity(before, model.image_tower.weight.detach(), dim=0)
    torch.testing.assert_close(cosine, torch.ones(4))
    table = TagEmbedding(0, 6, WSABIE, TableConfig(optimiser="sgd"), seed=0)
    untouched = table.weight_nE[3:].clone()
    table.apply_gradient(torch.tensor([0, 1, 2]), -100 * torch.randn(3, 5), 1.0)
    torch.testing.assert_close(table.weight_nE[:3].norm(dim=1), torch.ones(3))
    assert torch.equal(table.weight_nE[3:], untouched)
    assert ModelConfig(tag_tower="none", tag_dim=4, latent=5).tag_dim == 5


def test_unit_rows_have_the_values_and_gradients_of_the_plain_form():
    value_nL = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    value_nL[3] = 0.0
    value_nL[4] *= 1e-3
    seed_nL = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    found, wanted = [], []
    for function, into in ((unit_rows, found), (lambda v: F.normalize(v, dim=1), wanted)):
        leaf = value_nL.clone().requires_grad_()
        unit_nL = function(leaf)
        (unit_nL * seed_nL).sum().backward()
        into += [unit_nL.detach(), leaf.grad]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # of a short row: thousands
    with torch.no_grad():
        torch.testing.assert_close(unit_rows(value_nL), wanted[0])
    half = value_nL.bfloat16().requires_grad_()
    unit_rows(half).sum().backward()
    assert unit_rows(half).dtype == torch.float32
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
