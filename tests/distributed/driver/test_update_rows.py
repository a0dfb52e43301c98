"""Which rows an update learns from, and what it says of rows that it cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import CheckpointConfig, DataConfig, ReservoirConfig, TrainConfig
from drel_core.errors import InputError
from tests.helpers.stores import planted_table


def learn(folder: Path, kept: int) -> None:
    pq.write_table(planted_table(200), folder / "train.parquet")
    config = TrainConfig(
        data=DataConfig(train=str(folder / "train.parquet")),
        out=str(folder / "v1"),
        epochs=1,
        checkpoint=CheckpointConfig(every=10**9),
        reservoir=ReservoirConfig(rows=kept),
    )
    train.run(config, lambda line: None, launcher=launch)


def teach(folder: Path, table: pa.Table, **options: float | str) -> list[str]:
    pq.write_table(table, folder / "new.parquet")
    config = UpdateConfig(
        model=str(folder / "v1"),
        data=UpdateData(new=str(folder / "new.parquet"), **options),  # type: ignore[arg-type]
        out=str(folder / "v2"),
        epochs=1,
        checkpoint=CheckpointConfig(every=10**9),
    )
    lines: list[str] = []
    update.run(config, lines.append, launcher=launch)
    return lines


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_few_kept_rows_may_all_be_held_out(tmp_path: Path, kept: int) -> None:
    learn(tmp_path, kept)
    lines = teach(tmp_path, planted_table(80, seed=2, first=1000), validation=0.95)
    assert any("and rehearses 0 rows" in line for line in lines), lines
    assert (tmp_path / "v2" / "model" / "config.json").is_file()


def test_new_rows_that_are_all_held_out_end_in_one_line(tmp_path: Path) -> None:
    learn(tmp_path, 64)
    with pytest.raises(InputError, match=r"or less of --data\.validation$"):
        teach(tmp_path, planted_table(1, first=1000), validation=0.99)


def test_a_bad_row_names_the_option_that_leaves_it_out(tmp_path: Path) -> None:
    learn(tmp_path, 64)
    table = planted_table(20, first=1000)
    value_ND = np.stack(table.column("features").to_numpy(zero_copy_only=False))
    value_ND[7, 3] = np.nan
    features = pa.FixedSizeListArray.from_arrays(pa.array(value_ND.ravel()), value_ND.shape[1])
    bad = table.set_column(1, "features", features)
    with pytest.raises(InputError, match=r"row 7: .*with --data\.on_bad_row skip"):
        teach(tmp_path, bad)
    assert teach(tmp_path, bad, on_bad_row="skip")
