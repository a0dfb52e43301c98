"""Per-tag thresholds: the best F1 that brute force finds, and what happens to tags too rare to tell."""

from __future__ import annotations

import numpy as np
import pytest

from drel_core.decision.thresholds import extended_thresholds, learn_thresholds


def f1(said: np.ndarray, hit: np.ndarray, relevant: int) -> float:
    return 2 * (said & hit).sum() / max(1, said.sum() + relevant)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_each_tag_reaches_the_best_f1_there_is(seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    tags, pairs = 6, 300
    tag = generator.integers(0, tags, pairs)
    score = generator.normal(size=pairs).astype(np.float32)
    if ties:
        score = np.round(score)
    hit = generator.random(pairs) < 1 / (1 + np.exp(-2 * score))
    relevant = np.bincount(tag[hit], minlength=tags) + generator.integers(0, 4, tags)
    threshold = learn_thresholds(tag, score, hit, relevant)
    assert threshold is not None and threshold.dtype == np.float32
    for t in range(tags):
        mine = tag == t
        reached = f1(score[mine] >= threshold[t], hit[mine], relevant[t])
        best = max(f1(score[mine] >= cut, hit[mine], relevant[t]) for cut in score[mine])
        assert reached == pytest.approx(best)


def test_rare_and_unseen_tags_take_the_common_threshold() -> None:
    tag = np.array([0, 0, 0, 0, 1, 1, 2])
    score = np.array([4.0, 3.0, 2.0, 1.0, 3.5, 0.5, 9.0], dtype=np.float32)
    hit = np.array([True, True, True, False, True, False, False])
    threshold = learn_thresholds(tag, score, hit, np.array([3, 1, 0, 0]))
    assert threshold is not None
    assert threshold[0] == 1.5  # halfway between the last one taken and the next
    common = threshold[1]
    assert (threshold[1:] == common).all()
    said = score >= common
    assert f1(said, hit, 4) == max(f1(score >= cut, hit, 4) for cut in score)


def test_no_pairs_or_no_hits_give_no_threshold() -> None:
    none = np.array([], dtype=np.int64)
    empty = (none, none.astype(np.float32), none.astype(bool), np.zeros(3, int))
    wrong = (np.array([0, 1]), np.ones(2, dtype=np.float32), np.zeros(2, bool), np.array([5, 5]))
    assert learn_thresholds(*empty) is None
    assert learn_thresholds(*wrong) is None
    kept = learn_thresholds(*wrong, before_T=np.array([0.5, 0.25]))
    assert kept is not None and kept.tolist() == [0.5, 0.25]


def test_a_tag_with_few_images_keeps_the_threshold_that_it_had() -> None:
    tag = np.array([0, 0, 0, 0, 1, 1, 2])
    score = np.array([4.0, 3.0, 2.0, 1.0, 3.5, 0.5, 9.0], dtype=np.float32)
    hit = np.array([True, True, True, False, True, False, False])
    before = np.array([7.0, 8.0, 9.0])
    threshold = learn_thresholds(tag, score, hit, np.array([3, 1, 0]), before_T=before)
    assert threshold is not None and threshold.tolist() == [1.5, 8.0, 9.0]


def test_new_tags_take_the_threshold_of_tags_of_like_count() -> None:
    generator = np.random.default_rng(0)
    count = generator.permutation(np.arange(1, 101))
    threshold = (1 / count).astype(np.float32)  # the commoner, the lower
    now = np.concatenate([count + 3, [1, 50, 1000, 0]])
    grown = extended_thresholds(threshold, count, now)
    assert grown.dtype == np.float32 and (grown[:100] == threshold).all()
    by_count = threshold[np.argsort(count)]
    naive = [np.median(part) for part in (by_count[:20], by_count[39:59], by_count[-20:])]
    assert grown[100:103] == pytest.approx(naive)
    assert grown[103] == grown[100]
    assert (extended_thresholds(threshold[:3], count[:3], now[:4])[:3] == threshold[:3]).all()
    assert len(extended_thresholds(threshold, count, count)) == 100
