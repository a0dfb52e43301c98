"""Every row of an epoch once, whatever happens to the number of ranks in its middle."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.blocks import BlockSource, inline_blocks
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.reshard import epoch_reader
from distributed.data.shard_layout import ShardLayout
from distributed.data.survey import StoreSurvey, survey_store
from tests.helpers.stores import planted_table

ROWS = 131


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> StoreSurvey:
    """131 rows in two files, every 16th without tags; the first feature numbers the row."""
    folder = tmp_path_factory.mktemp("store")
    for file, (first, rows) in enumerate([(0, 70), (70, ROWS - 70)]):
        table = planted_table(rows, seed=file, first=first)
        features = np.stack(table.column("features").to_numpy(zero_copy_only=False))
        features[:, 0] = np.arange(first, first + rows)
        tags = [
            [] if (first + row) % 16 == 0 else row_tags
            for row, row_tags in enumerate(table.column("tags").to_pylist())
        ]
        table = table.set_column(
            1, "features", pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 16)
        ).set_column(2, "tags", pa.array(tags))
        pq.write_table(table, folder / f"{file}.parquet", row_group_size=17)
    return survey_store(FeatureStore.open(str(folder)), "fail")


def seen_rows(
    survey: StoreSurvey, readings: list[ShardLayout], steps: int, epoch: int, blocks: BlockSource
) -> list[list[int]]:
    """Row numbers of each step of an epoch (all ranks together), read as ``readings`` say."""
    seen: list[list[int]] = [[] for _ in range(steps)]
    last = [*(reading.first_step for reading in readings[1:]), steps]
    for count, (reading, stop) in enumerate(zip(readings, last, strict=True), 1):
        for rank in range(reading.world):
            reader = epoch_reader(survey.train, readings[:count], steps, rank, 7, epoch, blocks)
            batches = reader.epoch(epoch)
            for step in range(reading.first_step, stop):
                rows = next(batches)
                seen[step] += rows.features_BD[:, 0].long().tolist() if len(rows) else []
                assert len(rows) == reader.plan.size(rank, step - reading.first_step)
    return seen


@pytest.mark.parametrize("resident", [True, False])
def test_rows_are_seen_once_when_ranks_change_at_random_steps(
    survey: StoreSurvey, resident: bool
) -> None:
    expected = [row for row in range(ROWS) if row % 16]
    blocks = inline_blocks(Columns(), survey.names)
    draw = random.Random(5)
    for _ in range(12):
        steps = draw.choice([3, 8, 25])
        cuts = sorted(draw.sample(range(1, steps), min(3, steps - 1)))
        worlds = [draw.choice([1, 2, 3, 5, 40]) for _ in range(len(cuts) + 1)]
        readings = [
            ShardLayout(first, world, resident, 0 if resident else 20)
            for first, world in zip([0, *cuts], worlds, strict=True)
        ]
        seen = seen_rows(survey, readings, steps, draw.randrange(4), blocks)
        assert Counter(row for step in seen for row in step) == Counter(expected), readings
        # Steps keep their size whoever takes them: the mean, give or take a row a rank.
        if max(worlds) < 40:  # 40 ranks do not have a row each in every step
            mean = len(expected) / steps
            assert max(abs(len(step) - mean) for step in seen) <= max(worlds), readings


def test_memory_and_stream_may_change_places_as_well(survey: StoreSurvey) -> None:
    """With fewer ranks a rank's rows may no longer fit into memory."""
    blocks = inline_blocks(Columns(), survey.names)
    readings = [
        ShardLayout(0, 3, True, 0),
        ShardLayout(4, 1, False, 25),
        ShardLayout(9, 2, True, 0),
    ]
    seen = seen_rows(survey, readings, 13, 1, blocks)
    assert sorted(row for step in seen for row in step) == [r for r in range(ROWS) if r % 16]


def test_rows_that_stand_in_the_set_twice_are_seen_twice(survey: StoreSurvey) -> None:
    """jobs.update rehearses rows by repeating their units."""
    twice = StoreSurvey(**{**vars(survey), "train": [*survey.train, *survey.train]})
    blocks = inline_blocks(Columns(), survey.names)
    readings = [ShardLayout(0, 2, True, 0), ShardLayout(5, 3, True, 0)]
    seen = seen_rows(twice, readings, 11, 0, blocks)
    counts = Counter(row for step in seen for row in step)
    assert set(counts.values()) == {2} and len(counts) == survey.train_rows
