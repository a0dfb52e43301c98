"""Data sets as other tools wrote them (tests/data/others): what is read, and that it can be learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver.in_process import launch
from distributed.ingest.parts import PartPlan, matrix, read_chunk, with_features
from distributed.ingest.sources.base import FEATURES, Source
from distributed.ingest.sources.picture_options import PictureOptions
from distributed.ingest.sources.picture_parquet import PictureParquet
from distributed.ingest.sources.table import TableOptions, TableSource
from distributed.training.run_spec import RunSpec
from drel_core.annotators.load import load_bundle
from tests.helpers.commands import ROOT
from tests.helpers.training import small_config

OTHERS = ROOT / "tests" / "data" / "others"
ROWS = 24
NAMES = ["blue", "green", "red", "white"]
TAGS = [[NAMES[r % 4], NAMES[(r + 1) % 4]] if r % 2 else [NAMES[r % 4]] for r in range(ROWS)]
IDS = [f"{row:03d}" for row in range(ROWS)]


def single() -> Source:
    return PictureParquet.open(str(OTHERS / "hugging_face" / "single"), PictureOptions())


def objects() -> PictureParquet:
    options = PictureOptions(tags_column="objects.category")
    return PictureParquet.open(str(OTHERS / "hugging_face" / "objects.parquet"), options)


def features(column: str) -> Source:
    path = str(OTHERS / "hugging_face" / "features.parquet")
    return TableSource.open(path, TableOptions(features_column=column))


KINDS: dict[str, Callable[[Path], Source]] = {
    "single": lambda _: single(),
    "objects": lambda _: objects(),
    "matrix": lambda _: features("matrix"),
    "vector": lambda _: features("vector"),
}


def rows_of(source: Source) -> list[tuple[Any, ...]]:
    chunk = source.read(0, source.num_rows)
    assert chunk.rejected.num_rows == 0
    pieces = [source.read(start, 5).table for start in range(0, source.num_rows, 5)]
    assert pa.concat_tables(pieces).to_pylist() == chunk.table.to_pylist()
    names = ("image_id", "tags", "split")
    return list(zip(*(chunk.table.column(name).to_pylist() for name in names), strict=True))


def test_one_class_an_image_of_datasets() -> None:
    """Test rows come first: files are read in order of their names."""
    found = rows_of(single())
    order = [*range(18, ROWS), *range(18)]
    assert found == [
        (f"{row:03d}.jpg", [NAMES[row % 4]], "test" if row >= 18 else "train") for row in order
    ]


def test_objects_of_datasets() -> None:
    source = objects()
    assert rows_of(source) == [(f"objects-{r}", tags, None) for r, tags in enumerate(TAGS)]
    assert "pictures are named by file and row" in source.notes[0]


@pytest.mark.parametrize("column", ["matrix", "vector"])
def test_arrays_of_datasets(column: str) -> None:
    source = features(column)
    assert [row[:2] for row in rows_of(source)] == list(zip(IDS, TAGS, strict=True))
    value_BD = matrix(source.read(0, ROWS).table)
    assert value_BD.shape == (ROWS, 8)
    for row, tags in enumerate(TAGS):
        assert sorted(np.argsort(-value_BD[row])[: len(tags)]) == sorted(map(NAMES.index, tags))


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_learned(kind: str, tmp_path: Path) -> None:
    """Ingested as jobs.ingest does it, with the mean colours of a picture's halves for its features."""
    source = KINDS[kind](tmp_path)
    plan = PartPlan(str(tmp_path / "parts"), 100, False, "float32", 1_000_000)
    read = read_chunk(source, plan, 0)
    table = read.table
    if FEATURES not in table.column_names:
        halves = [
            np.asarray(picture, np.float32).reshape(-1, 2, 12, 3) for picture in read.pictures
        ]
        colours_BD = np.stack([h.mean((0, 2)).ravel() for h in halves])
        table, _ = with_features(table, {FEATURES: colours_BD}, "float32")
    assert len(table) == source.num_rows
    path = tmp_path / "train.parquet"
    pq.write_table(table, path)
    config = small_config(path, tmp_path / "out", epochs=40)
    survey = survey_store(FeatureStore.open(str(path)), "fail")
    assert survey.names.to_pylist() == NAMES
    launch(
        RunSpec(config=config, survey=survey, features=None, fingerprint={"seed": 0}),
        lambda _: None,
    )
    annotator = load_bundle(tmp_path / "out" / "model")
    _, tag_B1 = annotator.annotate(torch.from_numpy(matrix(table)), 1)
    names = [annotator.vocabulary.names[tag] for tag in tag_B1[:, 0].tolist()]
    right = [
        name in tags for name, tags in zip(names, table.column("tags").to_pylist(), strict=True)
    ]
    assert np.mean(right) >= 0.9
