"""Per-tag thresholds: the best F1 that brute force finds, and what happens to tags too rare to tell."""

from __future__ import annotations

import numpy as np
import pytest

from drel_core.decision.thresholds import learn_thresholds


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
    assert threshold.dtype == np.float32
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
    assert threshold[0] == 1.5  # halfway between the last one taken and the next
    common = threshold[1]
    assert (threshold[1:] == common).all()
    said = score >= common
    assert f1(said, hit, 4) == max(f1(score >= cut, hit, 4) for cut in score)


def test_no_pairs_or_no_hits_say_nothing() -> None:
    none = np.array([], dtype=np.int64)
    nothing = learn_thresholds(none, none.astype(np.float32), none.astype(bool), np.zeros(3, int))
    assert np.isinf(nothing).all()
    wrong = learn_thresholds(
        np.array([0, 1]), np.ones(2, dtype=np.float32), np.zeros(2, bool), np.array([5, 5])
    )
    assert np.isinf(wrong).all()
