"""Metrics and top-k against brute force and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_score, recall_score

from drel_core.annotators.knn import KNNAnnotator
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk, topk_blockwise


def random_tags(rows: int, tags: int, seed: int) -> TagLists:
    generator = np.random.default_rng(seed)
    return TagLists.from_lists(
        sorted(generator.choice(tags, generator.integers(0, 5), replace=False).tolist())
        for _ in range(rows)
    )


def test_metrics_equal_scikit_learn_in_any_merge_order() -> None:
    images, tags, k = 60, 15, 4
    score = torch.randn(images, tags).round(decimals=1)  # with ties
    relevant = random_tags(images, tags, 1)
    parts = []
    for low in range(0, images, 25):
        part = MetricCounts(tags, k)
        part.update(score[low : low + 25], relevant[low : low + 25])
        parts.append(part)
    trained = torch.ones(tags, dtype=torch.bool)
    trained[3] = False
    results = []
    for order in itertools.permutations(range(3)):
        total = MetricCounts(tags, k)
        for place in order:
            total.merge(parts[place])
        results.append(total.result(trained))
    for result in results[1:]:
        assert result == pytest.approx(results[0])
    truth = relevant.mask(tags).numpy()
    predicted = np.zeros_like(truth)
    for row in range(images):
        best = sorted(range(tags), key=lambda tag: (-float(score[row, tag]), tag))[:k]
        predicted[row, best] = True
    scored = [tag for tag in range(tags) if truth[:, tag].any() and tag != 3]
    options = {"average": "macro", "zero_division": 0, "labels": scored}
    mean_precision = precision_score(truth, predicted, **options)
    mean_recall = recall_score(truth, predicted, **options)
    found = results[0]
    assert found["mP"] == pytest.approx(mean_precision)
    assert found["mR"] == pytest.approx(mean_recall)
    assert found["F1"] == pytest.approx(
        2 * mean_precision * mean_recall / (mean_precision + mean_recall)
    )
    assert found["P@1"] == np.mean(
        [truth[row, topk(score[row : row + 1], 1)[1].item()] for row in range(images)]
    )
    assert found["N+"] == sum((truth & predicted)[:, tag].any() for tag in scored)
    assert found["tags_scored"] == len(scored)
    assert found["oP"] == pytest.approx(precision_score(truth, predicted, average="micro"))
    assert found["oR"] == pytest.approx(recall_score(truth, predicted, average="micro"))
    precisions = [average_precision_score(truth[:, t], score[:, t].numpy()) for t in scored]
    assert found["mAP"] == pytest.approx(np.mean(precisions))


def test_perfect_terrible_and_empty() -> None:
    relevant = TagLists.from_lists([[0], [1]])
    every = torch.ones(3, dtype=torch.bool)
    perfect, terrible, empty = (MetricCounts(3, 1) for _ in range(3))
    perfect.update(relevant.mask(3).float(), relevant)
    terrible.update(-relevant.mask(3).float(), relevant)
    assert (perfect.result(every)["F1"], perfect.result(every)["mAP"]) == (1.0, 1.0)
    assert terrible.result(every)["F1"] == 0.0
    assert empty.result(every)["F1"] == 0.0
    assert empty.result(every)["images"] == 0
    with pytest.raises(ValueError, match="NaN"):
        empty.update(torch.full((2, 3), float("nan")), relevant)


def test_the_floor_of_map_is_that_of_images_in_random_order() -> None:
    images, tags = 40, 8
    relevant = random_tags(images, tags, 2)
    counts = MetricCounts(tags, 3)
    counts.update_topk(torch.zeros(images, 1, dtype=torch.int64), relevant)
    trained = torch.ones(tags, dtype=torch.bool)
    trained[2] = False
    mean = []
    for seed in range(300):
        noise = MetricCounts(tags, 3)
        noise.update(
            torch.rand(images, tags, generator=torch.Generator().manual_seed(seed)), relevant
        )
        mean.append(noise.result(trained)["mAP"])
    assert counts.chance_map(trained) == pytest.approx(np.mean(mean), abs=0.005)
    assert MetricCounts(tags, 3).chance_map(trained) == 0.0


def test_mean_average_precision_is_not_given_above_its_budget() -> None:
    counts = MetricCounts(3, 1, keep_scores_bytes=20)
    counts.update(torch.randn(2, 3), TagLists.from_lists([[0], [1]]))
    assert counts.result(torch.ones(3, dtype=torch.bool))["mAP"] is None


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_blockwise_top_k_equals_a_stable_sort_of_all_scores(block: int, k: int) -> None:
    torch.manual_seed(0)
    image = torch.randint(-2, 3, (6, 4)).float()  # many ties
    tag, bias = torch.randint(-2, 3, (20, 4)).float(), torch.randint(0, 2, (20,)).float()
    score, ids = topk_blockwise(image, tag, k, bias, block)
    all_scores, order = (image @ tag.T + bias).sort(dim=1, descending=True, stable=True)
    assert torch.equal(ids, order[:, :k])
    assert torch.equal(score, all_scores[:, :k])
    assert topk(torch.empty(0, 4), 2)[1].shape == (0, 2)


@pytest.mark.parametrize("k", [1, 3, 6, 9])
def test_top_k_without_ties_with_infinities_and_with_nan(k: int) -> None:
    score = torch.tensor([[5.0, -1, 3, 2, 4, 0], [-torch.inf, 1, -torch.inf, 7, torch.inf, 2]])
    value, order = score.sort(dim=1, descending=True, stable=True)
    best, ids = topk(score[:1], k)
    assert torch.equal(best, value[:1, :k]) and torch.equal(ids, order[:1, :k])
    best, ids = topk(score, k)
    assert torch.equal(best, value[:, :k]) and torch.equal(ids, order[:, :k])
    score[1, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        topk(score, k)


def test_knn_equals_a_loop() -> None:
    torch.manual_seed(1)
    train, query, tags = torch.randn(30, 4) * 5, torch.randn(3, 4), random_tags(30, 8, 2)
    mean, std = train.mean(0), train.std(0, correction=0)
    for weighting in ("uniform", "distance"):
        found = KNNAnnotator.fit(train, tags, 8, k=6, weighting=weighting).scores(query)  # type: ignore[arg-type]
        for row in range(3):
            distance = ((train - query[row]) / std).norm(dim=1)
            near = distance.argsort()[:6]
            weight = torch.ones(6) if weighting == "uniform" else 1 / (distance[near] + 1e-6)
            expected = (weight[:, None] * tags.select(near).mask(8)).sum(0) / weight.sum()
            torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
    assert mean.shape == (4,)


def test_popularity_is_the_same_for_every_image() -> None:
    floor = PopularityAnnotator(Vocabulary(("a", "b", "c", "d"), np.array([3, 9, 1, 9])))
    assert floor.topk(2, 3).tolist() == [[1, 3, 0], [1, 3, 0]]
    assert floor.scores(torch.zeros(2, 5)).argmax(1).tolist() == [1, 1]


def test_tag_lists_select_slice_and_join_like_python_lists() -> None:
    rows = [[1, 2], [], [0], [5, 6, 7], []]
    lists = TagLists.from_lists(rows)
    assert lists.tolist() == rows
    assert lists[1:4].tolist() == rows[1:4]
    assert lists[4:2].tolist() == []
    order = [3, 3, 0, 4]
    assert lists.select(torch.tensor(order)).tolist() == [rows[i] for i in order]
    assert TagLists.cat([lists[:2], lists[2:]]).tolist() == rows
    assert lists.mask(8).sum() == 6
