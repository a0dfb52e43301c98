"""The last step of every method: what was trained becomes a bundle, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distributed.bundles.open import open_annotator
from distributed.bundles.write import BundleWriter
from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection
from distributed.data.picture_columns import PictureColumns
from distributed.data.replay_buffer import RESERVOIR, fill_reservoir
from distributed.data.survey import StoreSurvey
from distributed.runtime.progress import Log
from drel_core.annotators.base import DenseScores, TrainedAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.card import CARD, CardFacts, model_card
from drel_core.bundle.format import CODEBOOK, read_info, read_rules, write_bundle, write_rules
from drel_core.bundle.tensor_files import save_tensors
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import DECISION, Decider, learn_decider
from drel_core.decision.held_out import LEAST_ROWS, best_of_all
from drel_core.decision.kernel import KERNEL
from drel_core.scoring.reliability import expected_calibration_error
from drel_core.scoring.tag_lists import TagLists

_BATCH = 1024


def finish_bundle(
    writer: BundleWriter,
    method: str,
    survey: StoreSurvey,
    columns: Columns,
    about: dict[str, Any],
    log: Log,
    reservoir_rows: int = 0,
    codebook: np.ndarray | None = None,
) -> TrainedAnnotator | None:
    """Describe the tensors in the writer's folder, learn decisions from the rows held out for validation
    where none were learned, and finish it.

    Nothing gets its name before it has been loaded; rows of kNN, which may be more than a process can hold,
    only where decisions need it.

    Args:
        about: what ``config.json`` says beside format, method and version.
        log: takes a line where these rows say nothing.
        reservoir_rows: training rows to keep for later updates.
        codebook: visual words of low-level features, to describe pictures as the store was.

    Returns:
        the bundle, where it was loaded.

    Raises:
        InputError: what was written cannot be loaded.
    """
    if not isinstance(columns, PictureColumns):
        named = zip(columns.blocks, survey.dims, strict=True)
        about = {**about, "columns": [{"name": name, "dim": dim} for name, dim in named]}
    vocabulary = Vocabulary(tuple(survey.names.to_pylist()), survey.count_T)
    partial = writer.folder
    if codebook is not None:
        save_tensors({"word_K128": torch.from_numpy(codebook)}, partial / CODEBOOK)
    write_rules(partial, survey.rules)
    version = write_bundle(partial, method, vocabulary, about)
    asked = method != "popularity" and about["config"]["decision"]["held_out"]
    learns = bool(asked) and survey.validation_rows >= LEAST_ROWS
    annotator = _opened(writer) if method != "knn" or learns else None
    if learns and isinstance(annotator, DenseScores) and annotator.decider is None:
        annotator.decider = decider_by(annotator, survey.validation, survey, columns, about["k"])
        if annotator.decider is not None:
            annotator.decider.save(partial / DECISION)
            version = write_bundle(partial, method, vocabulary, about)  # covers the decisions
        else:
            log("calibration: none of the held-out rows has a tag that the model knows")
    fill_reservoir(partial, survey, columns, reservoir_rows, about["seed"])
    decider = None if annotator is None else annotator.decider
    write_card(partial, vocabulary, survey.train_rows, decider)
    writer.finish(version)
    return annotator


def write_card(folder: Path, vocabulary: Vocabulary, rows: int, decider: Decider | None) -> None:
    """Write ``README.md`` of a bundle whose other files are there.

    Args:
        rows: training rows.
    """
    table_b2 = None if decider is None else decider.reliability_b2
    kept = folder / RESERVOIR
    facts = CardFacts(
        rows,
        () if decider is None else tuple(decider.decisions),
        None if table_b2 is None else expected_calibration_error(table_b2),
        pq.read_metadata(kept).num_rows if kept.is_file() else 0,
        read_rules(folder),
        (folder / KERNEL).is_file(),
    )
    text = model_card(read_info(folder), vocabulary, facts)
    (folder / CARD).write_text(text, encoding="utf-8")


def _opened(writer: BundleWriter) -> TrainedAnnotator:
    # Another node sees the unfinished bundle only where the output is a shared folder.
    partial = writer.folder
    return load_bundle(partial) if writer.final.remote else open_annotator(str(partial), "exact")


def decider_by(
    annotator: DenseScores,
    selections: list[RowSelection],
    survey: StoreSurvey,
    columns: Columns,
    k: int,
) -> Decider | None:
    """Calibration and decisions of an annotator from rows that it was not fitted to; None where they say
    nothing."""

    def scored() -> Iterator[tuple[Tensor, TagLists]]:
        for selection in selections:
            rows = load_rows(selection, columns, survey.index)
            for start in range(0, len(rows), _BATCH):
                batch_BD = rows.features_BD[start : start + _BATCH].float()
                yield annotator.log_scores(batch_BD), rows.tags[start : start + _BATCH]

    learned = learn_decider(
        best_of_all(scored()), torch.from_numpy(survey.count_T), survey.train_rows, k
    )
    return None if learned is None else learned[0]
