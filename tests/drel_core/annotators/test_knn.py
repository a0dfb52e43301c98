"""kNN against scikit-learn's neighbours."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from distributed.driver.knn import left_out_scores, without_themselves
from drel_core.annotators.base import row_by_row
from drel_core.annotators.knn import KNNAnnotator, NeighbourShard, merge_nearest, shard_file
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import NoBestScore


def case(rows: int, seed: int = 0) -> tuple[torch.Tensor, TagLists]:
    generator = np.random.default_rng(seed)
    features = torch.from_numpy(generator.normal(size=(rows, 9)).astype(np.float32) * 3 + 1)
    features[:, 4] = 2.0  # a constant feature
    tags = TagLists.from_lists([sorted({i % 7, (i * 3) % 7}) for i in range(rows)])
    return features, tags


@pytest.mark.parametrize("weighting", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 5, 500])
def test_scores_equal_a_loop_over_scikit_learns_neighbours(k: int, weighting: str) -> None:
    features, tags = case(120)
    queries, _ = case(30, seed=1)
    annotator = KNNAnnotator.fit(features, tags, 7, k, weighting)  # type: ignore[arg-type]
    std = features.std(0, correction=0)
    scale = torch.where(std > 0, std, 1.0)
    x, q = ((part - features.mean(0)) / scale for part in (features, queries))
    model = NearestNeighbors(n_neighbors=min(k, 120), algorithm="brute").fit(x.numpy())
    distance, neighbour = model.kneighbors(q.numpy())
    expected = np.zeros((30, 7))
    for row in range(30):
        weight = (
            np.ones(len(distance[row])) if weighting == "uniform" else 1 / (distance[row] + 1e-6)
        )
        for share, near in zip(weight / weight.sum(), neighbour[row], strict=True):
            for tag in tags.tolist()[near]:
                expected[row, tag] += share
    np.testing.assert_allclose(annotator.scores(queries).numpy(), expected, atol=1e-5)
    best, ids = annotator.annotate(queries, 3)
    assert best.shape == ids.shape == (30, 3)


def test_shards_together_find_what_one_finds() -> None:
    features, tags = case(50)
    features[20] = features[30] = features[3]  # equal distances: the lower row first
    whole = NeighbourShard(features, tags)
    parts = [NeighbourShard(features[a:b], tags[a:b], a) for a, b in ((0, 17), (17, 18), (18, 50))]
    query = features[:10].numpy()
    distance, row = whole.nearest(query, 12)
    found, rows = merge_nearest([part.nearest(query, 12) for part in parts], 12)
    np.testing.assert_allclose(found, distance, atol=2e-3)
    assert rows[3, :3].tolist() == [3, 20, 30]
    assert (np.sort(rows, 1) == np.sort(row, 1)).mean() > 0.98


@pytest.mark.parametrize("parts", [1, 3])
def test_a_row_left_out_has_the_scores_of_a_model_without_it(parts: int, tmp_path: Path) -> None:
    features, tags = case(50)
    cuts = [0, 50] if parts == 1 else [0, 17, 18, 50]
    for part, (a, b) in enumerate(pairwise(cuts)):
        NeighbourShard(features[a:b], tags[a:b], a).save(tmp_path / shard_file(part, parts))
    rows = np.array([0, 16, 17, 40, 49])
    held = left_out_scores(tmp_path, parts, 7, 6, "distance", rows)
    assert held.relevant == int(tags.counts[torch.from_numpy(rows)].sum())
    for place, row in enumerate(rows.tolist()):
        others = torch.tensor([i for i in range(50) if i != row])
        shard = NeighbourShard(features[others], tags.select(others))
        alone = KNNAnnotator([shard], 7, np.zeros(9), np.ones(9), 6, "distance")
        expected = alone.log_scores(features[row : row + 1])[0]
        got = torch.empty(7).index_copy(0, held.tag_nM[place], held.score_nM[place])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        assert held.tag_nM[place][held.hit_nM[place]].sort().values.tolist() == tags.tolist()[row]


def test_a_row_that_is_not_its_own_neighbour_loses_the_last_one() -> None:
    place = np.array([[4, 2, 9], [5, 6, 7]])
    distance = np.array([[0.0, 1, 2], [0, 0, 0]])
    far, kept = without_themselves(distance, place, np.array([2, 3]))
    assert kept.tolist() == [[4, 9], [5, 6]] and far.tolist() == [[0, 2], [0, 0]]


def test_one_image_and_none() -> None:
    features, tags = case(1)
    assert KNNAnnotator.fit(features, tags, 7, 5).scores(features).tolist()[0][0] == 1.0
    assert KNNAnnotator.fit(features, tags, 7, 5).scores(features[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="at least one"):
        KNNAnnotator.fit(features[:0], tags[:0], 7, 5)


@pytest.mark.parametrize("weighting", ["uniform", "distance"])
def test_an_image_too_far_away_to_have_neighbours_has_no_scores(weighting: str) -> None:
    features, tags = case(40)
    annotator = KNNAnnotator.fit(features, tags, 7, 5, weighting)  # type: ignore[arg-type]
    queries, _ = case(6, seed=1)
    expected = annotator.annotate(queries, 3)
    far = queries.clone()
    far[4] = 3e38
    with pytest.raises(NoBestScore):
        annotator.annotate(far, 3)
    found, bad_B = row_by_row(lambda rows_BD: annotator.annotate(rows_BD, 3), far)
    assert bad_B.tolist() == [False] * 4 + [True, False]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[~bad_B], other[~bad_B])
