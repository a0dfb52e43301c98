"""Every row once: shards, epochs, resident and streaming, at any world size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from distributed.data.blocks import BlockSource, inline_blocks
from distributed.data.check_rows import Validation
from distributed.data.columns import Columns
from distributed.data.epoch import EpochPlan, ShardReader, shard
from distributed.data.feature_store import FeatureStore
from distributed.data.ray_reader import ray_blocks
from distributed.data.survey import StoreSurvey, survey_store
from tests.helpers.stores import planted_table, write_planted


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> StoreSurvey:
    """103 rows in two files, a few without tags; the first feature numbers the row."""
    folder = tmp_path_factory.mktemp("store")
    import pyarrow.parquet as pq

    for file, (first, rows) in enumerate([(0, 70), (70, 40)]):
        table = planted_table(rows, seed=file, first=first)
        features = np.stack(table.column("features").to_numpy(zero_copy_only=False))
        features[:, 0] = np.arange(first, first + rows)
        tags = table.column("tags").to_pylist()
        for row in range(0, rows, 16):
            tags[row] = []
        table = table.set_column(
            1, "features", pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 16)
        ).set_column(2, "tags", pa.array(tags))
        pq.write_table(table, folder / f"{file}.parquet", row_group_size=17)
    return survey_store(FeatureStore.open(str(folder)), "fail")


def seen_rows(
    survey: StoreSurvey, world: int, batch: int, resident: bool, epoch: int, blocks: BlockSource
) -> list[list[list[int]]]:
    """Row numbers by rank and step."""
    plan = EpochPlan.make(survey.train_rows, world, batch)
    seen = []
    for rank in range(world):
        reads = shard(survey.train, world, rank)
        reader = ShardReader(reads, plan, rank, 7, blocks, resident, shuffle_rows=20)
        seen.append(
            [
                rows.features_BD[:, 0].long().tolist() if len(rows) else []
                for rows in reader.epoch(epoch)
            ]
        )
    return seen


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("world", "batch"), [(1, 10), (2, 10), (3, 7), (5, 1000), (120, 40)])
def test_every_row_of_an_epoch_is_seen_once_at_any_world_size(
    survey: StoreSurvey, world: int, batch: int, resident: bool
) -> None:
    expected = sorted(set(range(110)) - {*range(0, 70, 16), *range(70, 110, 16)})
    assert (survey.train_rows, survey.tagless) == (len(expected), 110 - len(expected))
    blocks = inline_blocks(Columns(), survey.names)
    seen = seen_rows(survey, world, batch, resident, 0, blocks)
    assert sorted(row for rank in seen for step in rank for row in step) == expected
    assert {len(rank) for rank in seen} == {max(1, -(-len(expected) // batch))}
    again = seen_rows(survey, world, batch, resident, 0, blocks)
    assert again == seen
    if world < 100:
        assert seen_rows(survey, world, batch, resident, 1, blocks) != seen


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_entered_in_the_middle_gives_the_rest(survey: StoreSurvey, resident: bool) -> None:
    blocks = inline_blocks(Columns(), survey.names)
    plan = EpochPlan.make(survey.train_rows, 2, 9)
    reader = ShardReader(shard(survey.train, 2, 1), plan, 1, 7, blocks, resident, 20)
    whole = [rows.features_BD for rows in reader.epoch(3)]
    rest = [rows.features_BD for rows in reader.epoch(3, first_step=4)]
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_ray_data_gives_the_same_batches_as_reading_inline(
    survey: StoreSurvey, shared_ray: None
) -> None:
    through_ray = ray_blocks(Columns(), survey.names, 16, 4)
    inline = inline_blocks(Columns(), survey.names)
    for resident in (True, False):
        assert seen_rows(survey, 2, 9, resident, 1, through_ray) == seen_rows(
            survey, 2, 9, resident, 1, inline
        )
    # As in a cluster whose CPUs are all held by workers.
    held = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    try:
        assert held.wait(30)
        beside = ray_blocks(Columns(), survey.names, 16, 4, own_cpus=False)
        assert seen_rows(survey, 2, 9, False, 1, beside) == seen_rows(
            survey, 2, 9, False, 1, inline
        )
    finally:
        ray.util.remove_placement_group(held)


def test_survey_counts_and_statistics_do_not_depend_on_the_layout(tmp_path: Path) -> None:
    from collections import Counter

    write_planted(tmp_path / "one" / "a.parquet", 100, row_group=100)
    write_planted(tmp_path / "many" / "a.parquet", 100, row_group=7)
    hold = Validation(0.3, 5)
    one, many = (
        survey_store(FeatureStore.open(str(tmp_path / name)), "fail", hold)
        for name in ("one", "many")
    )
    assert one.names.equals(many.names)
    assert (one.count_T == many.count_T).all()
    assert one.validation_rows == many.validation_rows > 10
    np.testing.assert_allclose(one.mean_D, many.mean_D)
    table = planted_table(100)
    held = {row for read in one.validation for row in range(100) if row not in read.dropped}
    kept = [row for row in range(100) if row not in held]
    counts = Counter(tag for row in kept for tag in table.column("tags")[row].as_py())
    assert dict(zip(one.names.to_pylist(), one.count_T.tolist(), strict=True)) == counts
    features = np.stack(table.column("features").to_numpy(zero_copy_only=False))[kept]
    np.testing.assert_allclose(one.mean_D, features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(one.std_D, features.std(0), rtol=1e-4)
