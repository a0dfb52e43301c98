"""Training rows that a bundle keeps, so that later updates can rehearse what the model knows.

A weighted sample without replacement (Efraimidis and Spirakis, 2006): a row's key is ``log(u) / w`` with u
from a hash of its image_id and w = (count of its rarest tag)^-1/2, and the rows with the highest keys stay.
Keys need no state, so the sample of old and new rows together is the best of both by key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.canonical_tags import encode_tags
from distributed.data.columns import Columns
from distributed.data.feature_store import (
    FeatureBatch,
    FeatureStore,
    RowSelection,
    feature_columns,
    one_chunk,
    read_table,
    read_unit,
)
from distributed.data.row_hash import hash_ids
from distributed.data.survey import StoreSurvey
from distributed.storage.folder import Folder
from drel_core.auto import AUTO

RESERVOIR = "reservoir.parquet"
REPLAY = "replay.parquet"
_LEAST, _MOST = 2048, 32_768


@dataclass(kw_only=True)
class ReservoirConfig:
    """Training rows kept in the bundle for jobs.update."""

    rows: int = AUTO
    """how many rows are kept (methods drel and wsabie); rows with rare tags are preferred; 0 keeps none; \
    -1: by the size of the data"""

    def __post_init__(self) -> None:
        if self.rows < 0 and self.rows != AUTO:
            raise ValueError(f"reservoir.rows is {self.rows}; it must be 0 or more, or -1")


def reservoir_rows(rows: int) -> int:
    """How many of ``rows`` training rows a bundle keeps, if nobody says it: a tenth, from 2048 to 32,768."""
    return max(_LEAST, min(_MOST, rows // 10))


def fill_reservoir(
    folder: Path, survey: StoreSurvey, columns: Columns, rows: int, seed: int
) -> None:
    """Choose rows of a surveyed store and write them into a bundle.

    Of a large store only some units are looked at, drawn at random, with 20 times the rows, or 8 times
    where that is more than 100,000.
    """
    if rows == AUTO:
        rows = reservoir_rows(survey.train_rows)
    if not rows:
        return
    kept: pa.Table | None = None
    for selection in _some(survey.train, _candidates(rows), seed):
        part = _keyed(read_unit(selection, columns), survey)
        kept = (
            part if kept is None else pa.concat_tables([kept, part], promote_options="permissive")
        )
        kept = _best(kept, rows)
    assert kept is not None
    write_kept_rows(kept.drop_columns(["key"]).sort_by("image_id"), folder / RESERVOIR)


def write_kept_rows(table: pa.Table, path: Path) -> None:
    """Write image_id, features and tags of training rows as a bundle keeps them."""
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=["image_id"],
        use_byte_stream_split=[_leaf(table)],
        write_page_checksum=True,
    )


def _leaf(table: pa.Table) -> str:
    return f"features.list.{table.schema.field('features').type.value_field.name}"


def _candidates(rows: int) -> int:
    return min(20 * rows, max(8 * rows, 100_000))


def _some(selections: list[RowSelection], enough: int, seed: int) -> list[RowSelection]:
    if sum(selection.take for selection in selections) <= enough:
        return selections
    found, count = [], 0
    for place in np.random.default_rng(seed).permutation(len(selections)):
        found.append(selections[place])
        count += selections[place].take
        if count >= enough:
            break
    return found


def _keyed(batch: FeatureBatch, survey: StoreSurvey) -> pa.Table:
    ids, offsets = encode_tags(batch.tag_values, batch.tag_offsets, survey.index)
    image_id = batch.image_id_B.cast(pa.string())
    hashed = hash_ids(image_id.to_numpy(zero_copy_only=False).astype(object), "reservoir")
    chance_B = (hashed.astype(np.float64) + 1) / (2.0**64 + 2)
    count_n = np.append(survey.count_T[ids], np.iinfo(np.int64).max)
    rarest_B = np.minimum.reduceat(count_n, offsets[:-1])
    rarest_B = np.where(np.diff(offsets) > 0, rarest_B, np.iinfo(np.int64).max)
    tags = pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), survey.names.take(pa.array(ids))
    )
    dim = batch.features_BD.shape[1]
    flat = pa.array(batch.features_BD.reshape(-1))
    return pa.table(
        {
            "image_id": image_id,
            "features": pa.FixedSizeListArray.from_arrays(flat, dim),
            "tags": tags,
            "key": pa.array(np.log(chance_B) * np.sqrt(np.maximum(rarest_B, 1).astype(np.float64))),
        }
    )


def _best(table: pa.Table, rows: int) -> pa.Table:
    """The rows with the highest keys; of rows with one image_id the first."""
    code = table.column("image_id").combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(code, return_index=True)
    key = table.column("key").to_numpy()
    if len(first) > rows:
        first = first[np.argpartition(-key[first], rows - 1)[:rows]]
    return table.take(pa.array(np.sort(first))).combine_chunks()


def kept_features(bundle: Path, dim: int, limit: int) -> np.ndarray:
    """float32 ``[N, D]``: up to ``limit`` of the training rows that a bundle keeps, evenly spaced, without
    those that are not finite; no rows where it keeps none, or none of ``dim`` features."""
    path = bundle / RESERVOIR
    none_ND = np.empty((0, dim), dtype=np.float32)
    if not path.is_file():
        return none_ND
    parts = []
    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
        wanted = np.unique(np.linspace(0, count - 1, min(limit, count), dtype=np.int64))
        start = 0
        for batch in file.iter_batches(1024, columns=["features"]):  # never all of it in memory
            flat = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            if flat.size != len(batch) * dim:
                return none_ND
            mine = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
            parts.append(flat.reshape(-1, dim)[mine].astype(np.float32))
            start += len(batch)
    rows_ND = np.concatenate(parts) if parts else none_ND
    return rows_ND[np.isfinite(rows_ND).all(1)]


def replay_store(
    bundle: Path, columns: Columns, out: Folder, other_than: list[FeatureStore]
) -> FeatureStore | None:
    """The reservoir of a bundle as a store with the column names of ``columns``; None where it has none.

    Images that ``other_than`` holds as well are left out: their newer tags count.

    Args:
        out: folder of the file to write.
        other_than: at least one store, with the same features columns.
    """
    if not (bundle / RESERVOIR).is_file():
        return None
    table = pq.read_table(bundle / RESERVOIR)
    mine = table.column("image_id").combine_chunks()
    known = np.zeros(len(mine), dtype=bool)
    for unit in [unit for store in other_than for unit in store.units]:
        ids = read_table(unit, [columns.image_id]).column(0).combine_chunks().cast(pa.string())
        known |= pc.is_in(mine, value_set=ids).to_numpy(zero_copy_only=False)
    table = table.filter(pa.array(~known))
    if not len(table):
        return None
    stored = {
        columns.image_id: table.column("image_id"),
        **feature_columns(one_chunk(table.column("features")), columns, other_than[0].dims),
        columns.tags: table.column("tags"),
    }
    with out.writing(REPLAY) as path:
        pq.write_table(pa.table(stored), path)
    return FeatureStore.open(out.file(REPLAY), columns, "--data.replay")
