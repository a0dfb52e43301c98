"""kNN in shards, each in an actor, answers as it does in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from distributed.bundles.open import ShardedKNN
from distributed.bundles.write import BundleWriter
from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver.knn import choose, write_shards
from distributed.storage.folder import Folder
from drel_core.annotators.knn import KNNAnnotator
from drel_core.bundle.format import read_info, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from tests.helpers.stores import write_planted


def test_shards_in_actors_answer_as_one_process(tmp_path: Path, shared_ray: None) -> None:
    path = write_planted(tmp_path / "train.parquet", 101)
    survey = survey_store(FeatureStore.open(str(path)), "fail")
    rows = load_rows(survey.train, Columns(), survey.names)
    whole = KNNAnnotator.fit(rows.features_BD, rows.tags, 12, 7, "distance")
    vocabulary = Vocabulary(tuple(survey.names.to_pylist()), survey.count_T)
    queries = rows.features_BD[:40] + 0.01 * torch.randn(40, 16)
    for parts in (1, 2, 3):
        writer = BundleWriter(Folder(str(tmp_path / str(parts))))
        writer.clear()
        write_shards(survey, Columns(), parts, writer)
        about = {
            "parts": parts,
            "k_neighbours": 7,
            "weighting": "distance",
            "image_dim": 16,
            "train": {},
        }
        writer.finish(write_bundle(writer.folder, "knn", vocabulary, about))
        folder = tmp_path / str(parts)
        loaded = KNNAnnotator.load(folder, read_info(folder), vocabulary)
        torch.testing.assert_close(
            loaded.scores(queries), whole.scores(queries), atol=1e-4, rtol=1e-4
        )
    sharded = ShardedKNN(str(folder), read_info(folder), vocabulary)
    torch.testing.assert_close(sharded.scores(queries), loaded.scores(queries))
    k, weighting = choose(survey, Columns(), 12, seed=0)
    assert k in (5, 10, 20, 50) and weighting in ("uniform", "distance")
    assert np.isfinite(sharded.annotate(queries, 3)[0].numpy()).all()
