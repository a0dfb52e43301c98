"""From a model and a store to one HTML file that shows what the model does there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distributed.bundles.open import open_annotator
from distributed.data.survey import StoreSurvey, survey_store
from distributed.inference.close_look import CloseLook, SeenImage, spread_rows
from distributed.inference.evaluate import Evaluation, check_scored, evaluate_closely
from distributed.inference.open_for import open_for
from distributed.inference.score_config import ScoreConfig
from distributed.reporting.curves import Curves, read_curves
from distributed.reporting.facts import Facts, Metrics, TagPlace, as_card, share_of_training
from distributed.reporting.figures import NAMES
from distributed.reporting.page import page
from distributed.reporting.pictures import check_pictures, thumbnails
from distributed.reporting.shown_rows import read_rows
from distributed.reporting.tag_map import on_a_plane, tag_vectors
from distributed.runtime.progress import Log, counted
from distributed.storage.files import READ_ERRORS, one_line, read_bytes, write_text
from distributed.storage.folder import Folder, check_file
from drel_core.annotators.base import TrainedAnnotator, rules_of, unseen_of
from drel_core.errors import InputError
from drel_core.tag_text import some_names


@dataclass(kw_only=True)
class ReportConfig(ScoreConfig):
    """Which model to show, on what, and how much."""

    out: str
    """the HTML file to write, local or on s3://"""
    pictures: str | None = None
    """folder of pictures, or Parquet store that holds them, found by image_id; by default the store's own \
    column of pictures or paths, else where jobs.ingest found them"""
    beside: str | None = None
    """figures of other methods on the same rows, shown in the table: metrics.json files, or results.json of \
    jobs.compare, with commas between"""
    samples: int = 24
    """pictures of the fair sample; half as many of the most confident wrong tags, and of the missed ones"""
    map_tags: int = 500
    """most frequent tags on the map of tags; 0: no map"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.samples <= 500:
            raise ValueError(f"samples is {self.samples}; it must be in [1, 500]")
        if not 0 <= self.map_tags <= 3000:
            raise ValueError(f"map_tags is {self.map_tags}; it must be in [0, 3000]")


def write_report(
    config: ReportConfig, others: Sequence[tuple[str, Metrics]] = (), log: Log = print
) -> dict[str, Any]:
    """Score a model as ``jobs.evaluate`` does, and write the page; whole or not at all.

    Args:
        others: metrics of other methods on the same rows, beside those of ``config.beside``.
        log: takes a line for the person who waits.

    Returns:
        the metrics.

    Raises:
        InputError: model, data, or what was given beside them cannot be used.
    """
    others = [*others, *check_given(config)]
    opened = open_for(config.model, config.data, config.columns)
    annotator = open_annotator(opened.address, config.search)
    survey = survey_store(
        opened.store, config.on_bad_row, statistics=False, log=log, rules=rules_of(annotator)
    )
    is_probability = annotator.decider is not None
    share_T = share_of_training(annotator.vocabulary, annotator.info) if is_probability else None
    look = CloseLook(
        spread_rows(survey.train, config.samples), max(1, config.samples // 2), share_T
    )
    columns = opened.store.columns
    log(f"scoring {survey.train_rows:,} images")
    evaluation = evaluate_closely(
        annotator,
        annotator.vocabulary,
        survey,
        columns,
        config.k,
        config.decide,
        config.precision,
        config.on_bad_row,
        look,
        log,
    )
    check_scored(evaluation.metrics, config.data)
    _check_same_rows(evaluation.metrics, others)
    evaluation.metrics["train"] = annotator.info.train
    log("reading the pictures that are shown")
    kinds = [look.sample, look.most_wrong(), look.most_missed()]
    units = [image.place for images in kinds for image in images]
    rows = read_rows(units, columns)
    pictures = thumbnails(units, rows, config.data, columns, config.pictures)

    unseen_T = unseen_of(annotator)

    def cards(images: Sequence[SeenImage]) -> list[Any]:
        return [
            as_card(image, rows, pictures, annotator.vocabulary, is_probability, unseen_T)
            for image in images
        ]

    log("drawing curves and the map of tags")
    curves = read_curves(Folder(opened.address))
    places = _tag_places(annotator, config.map_tags)
    sample, wrong, missed = map(cards, kinds)
    facts = Facts(
        config.model,
        config.data,
        NAMES.get(annotator.info.method, annotator.info.method),
        annotator.info,
        annotator.vocabulary,
        evaluation,
        config.decide,
        config.k,
        others,
        sample,
        wrong,
        missed,
        curves,
        places or [],
        [
            *([pictures.note] if pictures.note else []),
            *_notes(annotator, survey, evaluation, curves, places),
        ],
    )
    # Names of files need not be UTF-8, and escapes of JSON may be halves of characters.
    write_text(config.out, page(facts).encode("utf-8", "replace").decode())
    return evaluation.metrics


def check_given(config: ReportConfig) -> list[tuple[str, Metrics]]:
    """Metrics of other methods. Scoring may take hours, so that all that is given beside model and data is
    looked at before.

    Raises:
        InputError: ``out`` is no place to write to; pictures or figures are not there, or no such thing.
    """
    check_file(config.out, "--out", "report.html")
    if config.pictures is not None:
        check_pictures(config.pictures)
    return _others(config.beside)


_UNREADABLE = (*READ_ERRORS, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What files raise that are no JSON, or hold no metrics."""


def _others(beside: str | None) -> list[tuple[str, Metrics]]:
    """Metrics of other methods from their files.

    Raises:
        InputError: a file cannot be read, or holds no metrics.
    """
    found: list[tuple[str, Metrics]] = []
    for path in filter(None, (part.strip() for part in (beside or "").split(","))):
        try:
            content = json.loads(read_bytes(path))
            if "methods" in content:
                runs = [(entry["name"], entry["runs"][:1]) for entry in content["methods"]]
                here = [(name, metrics) for name, several in runs for metrics in several]
                here = [(name, metrics) for name, metrics in here if metrics.get("decisions")]
            else:
                folder = Folder.of(path).parent.name
                here = [(f"{content['method']} ({folder})", content)]
            for name, metrics in here:
                method, _, rest = str(name).partition(" ")
                _check_numbers(metrics)
                found.append((f"{NAMES.get(method, method)} {rest}".strip(), metrics))
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: no metrics can be read ({one_line(error)}); give --beside a metrics.json, what "
                "jobs.evaluate --json wrote, or results.json of jobs.compare"
            ) from None
    return found


_MOST = 1e15


def _check_numbers(metrics: Metrics) -> None:
    """Raises:
    TypeError, KeyError: a figure of a decision is no number, or there is none.
    """
    figures = [value for found in metrics["decisions"].values() for value in found.values()]
    for value in (*figures, metrics.get("mAP") or 0.0):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not -_MOST < value < _MOST:  # nor NaN, which JSON of Python may hold
            raise TypeError(f"{str(value)[:40]!r} is no number")


def _check_same_rows(metrics: Metrics, others: Sequence[tuple[str, Metrics]]) -> None:
    """Raises:
    InputError: other methods were scored on another number of images, or with another k.
    """
    for name, other in others:
        for key in ("images", "k"):
            if other.get(key, metrics[key]) != metrics[key]:
                raise InputError(
                    f"--beside: {name} was scored with {key} = {other[key]}, this model with {key} = "
                    f"{metrics[key]}; score both on the same store with the same --k"
                )


def _tag_places(annotator: TrainedAnnotator, most: int) -> list[TagPlace] | None:
    """The most frequent tags on a plane; None of a method without vectors of tags, or of too few."""
    counts = annotator.vocabulary.counts
    tags = np.argsort(-counts, kind="stable")[:most]
    vectors = tag_vectors(annotator, torch.from_numpy(tags)) if most else None
    place_n2 = None if vectors is None else on_a_plane(vectors)
    if place_n2 is None:
        return None
    return [
        TagPlace(tag, x, y) for tag, (x, y) in zip(tags.tolist(), place_n2.tolist(), strict=True)
    ]


def _notes(
    annotator: TrainedAnnotator,
    survey: StoreSurvey,
    evaluation: Evaluation,
    curves: Curves,
    places: list[TagPlace] | None,
) -> list[str]:
    """What is not in the report, and why."""
    metrics = evaluation.metrics
    method = NAMES.get(annotator.info.method, annotator.info.method)
    notes = []
    if survey.tagless:
        notes.append(f"{survey.tagless:,} rows without tags were left out.")
    if survey.undecided_rows:
        notes.append(
            f"{counted(survey.undecided_rows, 'row')} with a tag that is split and none of its parts "
            f"({some_names(tuple(survey.undecided))}) were left out."
        )
    if metrics["skipped_rows"]:
        notes.append(f"{metrics['skipped_rows']:,} bad rows were left out.")
    if (unseen_T := unseen_of(annotator)) is not None:
        notes.append(
            f"{counted(int(unseen_T.sum()), 'tag')} without any training image, known by name alone: figures "
            "of tags do not count them."
        )
    if "ece" not in metrics:
        notes.append(
            "No probabilities: scores of this model are not calibrated, so there is no calibration, no curve "
            "of precision and recall, and no decision beside top."
        )
    if metrics["mAP"] is None:
        notes.append("No mAP: the scores of so many images and tags are not kept.")
    if not curves.loss and not curves.quality:
        notes.append(
            "No curves of training: there are no event files (tensorboard/) beside the model."
        )
    if places is None:
        why = "it was not asked for, or there are too few tags"
        if tag_vectors(annotator, torch.zeros(0, dtype=torch.int64)) is None:
            why = f"{method} has no vectors of tags"
        notes.append(f"No map of the tags: {why}.")
    return notes
