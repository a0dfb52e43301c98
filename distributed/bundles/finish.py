"""The last step of every method: what was trained becomes a bundle, whole or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from distributed.bundles.open import open_annotator
from distributed.bundles.write import BundleWriter
from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.replay_buffer import fill_reservoir
from distributed.data.survey import StoreSurvey
from distributed.runtime.progress import Log
from drel_core.annotators.base import Annotator, TrainedAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import THRESHOLDS, read_thresholds, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.thresholds import DEPTH, learn_thresholds

_BATCH = 1024


def finish_bundle(
    writer: BundleWriter,
    method: str,
    survey: StoreSurvey,
    columns: Columns,
    about: dict[str, Any],
    log: Log,
    reservoir_rows: int = 0,
    before_T: np.ndarray | None = None,
) -> TrainedAnnotator | None:
    """Describe the tensors in the writer's folder, learn thresholds where rows are held out, and finish it.

    Nothing gets its name before it has been loaded; rows of kNN, which may be more than a process can hold,
    only where thresholds need it.

    Args:
        about: what ``config.json`` says beside format, method and version.
        reservoir_rows: training rows to keep for later updates.
        before_T: thresholds of the model that this one came from.

    Returns:
        the bundle, where it was loaded.

    Raises:
        InputError: what was written cannot be loaded.
    """
    vocabulary = Vocabulary(tuple(survey.names.to_pylist()), survey.count_T)
    partial = writer.folder
    version = write_bundle(partial, method, vocabulary, about)
    annotator = _opened(writer) if method != "knn" or survey.validation else None
    threshold_T = before_T
    if annotator is not None and survey.validation:
        threshold_T = validation_thresholds(annotator, survey, columns, before_T)
        if threshold_T is None:
            log(
                f"no per-tag thresholds: none of {survey.validation_rows} held-out images has one of its "
                f"tags among its best {DEPTH}"
            )
    if threshold_T is not None:
        save_file({"threshold": torch.from_numpy(threshold_T)}, partial / THRESHOLDS)
        version = write_bundle(partial, method, vocabulary, about)  # covers the thresholds
        read_thresholds(partial)
    fill_reservoir(partial, survey, columns, reservoir_rows, about["seed"])
    writer.finish(version)
    return annotator


def _opened(writer: BundleWriter) -> TrainedAnnotator:
    # Another node sees the unfinished bundle only where the output is a shared folder.
    partial = writer.folder
    return load_bundle(partial) if writer.final.remote else open_annotator(str(partial))


def validation_thresholds(
    annotator: Annotator, survey: StoreSurvey, columns: Columns, before_T: np.ndarray | None = None
) -> np.ndarray | None:
    """Thresholds ``[T]`` from the held-out rows, of the best ``DEPTH`` tags an image: memory does not
    grow with T times rows. None and ``before_T``: see ``learn_thresholds``."""
    total = annotator.num_tags
    tags, scores, hits = [], [], []
    relevant_T = np.zeros(total, dtype=np.int64)
    for selection in survey.validation:
        rows = load_rows(selection, columns, survey.names)
        relevant_T += np.bincount(rows.tags.values.numpy(), minlength=total)
        for start in range(0, len(rows), _BATCH):
            part = rows.tags[start : start + _BATCH]
            batch_BD = rows.features_BD[start : start + _BATCH].float()
            score_Bk, tag_Bk = annotator.annotate(batch_BD, DEPTH)
            row_Bk = torch.arange(len(part))[:, None]
            wanted = part.row_ids() * total + part.values
            hits.append(torch.isin(row_Bk * total + tag_Bk, wanted).flatten().numpy())
            tags.append(tag_Bk.flatten().numpy())
            scores.append(score_Bk.flatten().numpy())
    return learn_thresholds(
        np.concatenate(tags),
        np.concatenate(scores),
        np.concatenate(hits),
        relevant_T,
        before_T=before_T,
    )
