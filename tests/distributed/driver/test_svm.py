"""One-vs-all SVMs: their time is known before, and finished ones count whatever their batches were."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_matrix

from distributed.driver.svm import (
    batches_left,
    check_time,
    finished_batches,
    one_tag_seconds,
    save_batch,
)
from distributed.storage.folder import Folder
from drel_core.annotators.svm import SVMConfig, TagSVM
from drel_core.errors import TooLargeError


@pytest.mark.parametrize(
    ("done", "size", "left"),
    [
        ({}, 4, [range(0, 4), range(4, 8), range(8, 10)]),
        ({0: 8}, 4, [range(8, 10)]),
        ({3: 2, 8: 2}, 2, [range(0, 2), range(2, 3), range(5, 7), range(7, 8)]),
        ({0: 10}, 4, []),
    ],
)
def test_batches_hold_the_tags_that_are_not_fitted(
    done: dict[int, int], size: int, left: list[range]
) -> None:
    assert batches_left(10, done, size) == left


def test_finished_batches_come_back_with_the_log_odds_that_are_asked_for(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    machines = [
        TagSVM(generator.normal(size=3), 0.5, -2.0, 1.0, generator.normal(size=4).astype("f4"))
        for _ in range(5)
    ]
    kept, mark = Folder.of(str(tmp_path)), {"seed": 0}
    assert finished_batches(kept, mark, 4) == {}
    save_batch(kept, range(0, 2), machines[:2])
    save_batch(kept, range(2, 5), machines[2:])
    with io.BytesIO() as of_before:  # an earlier version kept no log odds
        np.savez(of_before, weight=np.zeros((1, 3)), rest=np.zeros((1, 3)))
        kept.write("tags-00000005.npz", of_before.getvalue())
    done = finished_batches(kept, mark, 4)
    assert {start: len(batch) for start, batch in done.items()} == {0: 2, 2: 3}
    for there, back in zip(machines, [*done[0], *done[2]], strict=True):
        assert (there.b, there.a, there.c) == (back.b, back.a, back.c)
        np.testing.assert_array_equal(there.weight_D, back.weight_D)
        np.testing.assert_array_equal(there.odds_n, back.odds_n)
    assert finished_batches(kept, mark, 7) == {}  # of another sample
    save_batch(kept, range(0, 2), machines[:2])
    assert finished_batches(kept, {"seed": 1}, 4) == {}
    assert kept.files().keys() == {"mark.json"}


def test_the_time_of_all_follows_from_one_and_a_limit_refuses_it() -> None:
    assert check_time(20_000, 6.0, 1, 0) == "20,000 SVMs take about 33 hours (6 s a tag, 1 CPUs)"
    assert "about 17 hours" in check_time(20_000, 6.0, 2, 17)
    assert "about 7 days" in check_time(98_000, 12.0, 2, 0)
    with pytest.raises(TooLargeError, match=r"33 hours .*above the limit of 33 hours; raise it"):
        check_time(20_000, 6.0, 1, 33)


def test_one_tag_is_timed_where_there_is_one_to_fit() -> None:
    features_ND = np.random.default_rng(0).normal(size=(60, 8))
    everywhere_or_nowhere = csc_matrix(np.tile(np.array([1.0, 0.0]), (60, 1)))
    assert one_tag_seconds(features_ND, everywhere_or_nowhere, SVMConfig(), 0) == 0.0
    some = csc_matrix((np.arange(60)[:, None] % 3 == 0).astype(float))
    assert 0 < one_tag_seconds(features_ND, some, SVMConfig(), 0) < 10
