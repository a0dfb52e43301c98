"""Scoring an annotator over a store, and the bound that no annotator passes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distributed.data.blocks import load_rows
from distributed.data.canonical_tags import TagIndex
from distributed.data.columns import Columns
from distributed.data.feature_store import RowSelection
from distributed.data.survey import OnBadRow, StoreSurvey
from distributed.inference.close_look import CloseLook
from distributed.inference.scored import Scored
from distributed.runtime.progress import Log, Progress, saying
from distributed.runtime.tasks import map_units
from drel_core.annotators.base import (
    UNSCORABLE,
    Annotator,
    Decision,
    choose_of,
    decision_of,
    row_by_row,
    rules_of,
)
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.cuts import DEPTH
from drel_core.decision.decider import Chosen, Decide
from drel_core.errors import InputError
from drel_core.scoring.metrics import MetricCounts, fits_map
from drel_core.scoring.reliability import (
    RELIABILITY_BINS,
    expected_calibration_error,
    reliability_of_groups,
    reliability_table,
)
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import NoBestScore, topk
from drel_core.version import written_by

_BATCH = 1024
_SPEED_SECONDS = 0.3


_FIGURES = ("mP", "mR", "F1", "N+", "oP", "oR", "oF1", "P@1")


def evaluate_store(
    annotator: Annotator,
    vocabulary: Vocabulary,
    survey: StoreSurvey,
    columns: Columns,
    k: int = 5,
    decide: Decide = "top",
    precision: float | None = None,
    on_bad_row: OnBadRow = "fail",
    log: Log | None = None,
) -> dict[str, Any]:
    """Metrics of an annotator over a surveyed store, beside the popularity floor (``evaluate_closely``)."""
    return evaluate_closely(
        annotator, vocabulary, survey, columns, k, decide, precision, on_bad_row, log=log
    ).metrics


def evaluate_closely(
    annotator: Annotator,
    vocabulary: Vocabulary,
    survey: StoreSurvey,
    columns: Columns,
    k: int = 5,
    decide: Decide = "top",
    precision: float | None = None,
    on_bad_row: OnBadRow = "fail",
    look: CloseLook | None = None,
    log: Log | None = None,
) -> Evaluation:
    """Metrics of an annotator over a surveyed store, beside the popularity floor, and what they are made of.

    Args:
        vocabulary: the annotator's, with training counts; other tags do not count.
        decide: which decision the main figures are of; ``decisions`` has all that the annotator can make.
        precision: wanted with ``threshold``.
        on_bad_row: whether rows without scores end the evaluation, or are left out and counted.
        look: keeps some images in the same pass; it is filled.
        log: takes lines of progress, where it takes long.

    Raises:
        InputError: the annotator cannot decide that way, or a row has no scores and may not be left out.
    """
    names = _index(annotator, vocabulary)
    deciding = _Deciding.of(annotator, decide, precision)
    floor = PopularityAnnotator(vocabulary)
    started = time.perf_counter()

    # mAP needs the scores of all tags; they are not kept where there are too many.
    search = isinstance(annotator, DRELAnnotator) and annotator.search is not None
    whole = not search or fits_map(survey.train_rows, len(vocabulary))

    def score(selection: RowSelection) -> _Counts:
        rows = load_rows(selection, columns, names)
        seen = _Counts.none(len(vocabulary), k, deciding, look)
        row_N = selection.rows() if look is not None else np.empty(0, np.int64)
        for start in range(0, len(rows), _BATCH):
            tags = rows.tags[start : start + _BATCH]
            features_BD = rows.features_BD[start : start + _BATCH].float()
            row_B = row_N[start : start + _BATCH]
            try:
                scored = Scored.of(annotator, features_BD, k, whole)
            except NoBestScore as error:
                bad_n = start + error.bad_B.nonzero()[:, 0].numpy()
                _refuse(selection, bad_n, on_bad_row)
                seen.unscorable += len(bad_n)
                good_n = (~error.bad_B).nonzero()[:, 0]
                tags, row_B = tags.select(good_n), row_B[good_n.numpy()] if len(row_B) else row_B
                scored = Scored.of(annotator, features_BD[good_n], k, whole)
            seen.floor.update_topk(floor.topk(len(tags), k), tags)
            chosen = deciding.count(seen, scored, tags, k, class_T)
            if seen.look is not None:
                seen.look.see(scored, tags, chosen[decide], selection.unit, row_B)
        return seen

    class_T = frequency_class(vocabulary.counts)
    found = _Counts.none(len(vocabulary), k, deciding, look)
    progress = Progress(log, "scoring", survey.train_rows, "rows")
    for part in map_units(score, survey.train, survey.num_bytes):
        found.merge(part)
        progress.step(found.top.images + found.unscorable - progress.done)
    seconds = time.perf_counter() - started
    trained_T = torch.from_numpy(vocabulary.counts) > 0
    with saying(log, "adding up what was scored"):
        figures = found.top.result(trained_T)
    metrics = {"method": annotator.name, "written_by": written_by(), **figures}
    metrics["bands"] = found.top.bands(torch.from_numpy(vocabulary.counts))
    floor_figures = found.floor.result(trained_T)
    metrics["floor"] = {key: floor_figures[key] for key in _FIGURES}
    metrics["floor"]["mAP"] = found.floor.chance_map(trained_T)
    metrics["decisions"] = {"top": _figures(metrics, found.top)}
    for how, decided in found.decided.items():
        metrics["decisions"][how] = _figures(decided.result(trained_T), decided)
    metrics["decide"] = decide
    metrics["skipped_rows"] = len(survey.skipped) + found.unscorable
    metrics |= {key: metrics["decisions"][decide][key] for key in _FIGURES}
    if annotator.decider is not None:
        whole_b2 = found.reliability_cb2.sum(0)
        metrics["ece"] = expected_calibration_error(whole_b2)
        metrics["reliability"] = reliability_table(whole_b2)
    metrics["score"] = {
        "seconds": round(seconds, 3),
        "images_per_second": round(found.top.images / max(seconds, 1e-9), 1),
        "topk_images_per_second": round(topk_speed(annotator, survey, columns, names, k), 1),
    }
    if look is not None and found.look is not None:
        look.merge(found.look)
    return Evaluation(metrics, found.top, found.reliability_cb2)


def check_scored(metrics: dict[str, Any], data: str) -> None:
    """Figures of no image, or of no tag, would look as if the model were wrong.

    Raises:
        InputError: every row was left out, or none has a tag of the model.
    """
    if not metrics["images"]:
        raise InputError(
            f"{data}: no row is left to score: of {metrics['skipped_rows']} bad rows all were left out; give "
            "--data rows that this model can score"
        )
    if not metrics["tags_scored"]:
        raise InputError(
            f"{data}: none of the model's {metrics['tags']} tags is on any of these "
            f"{metrics['images']} images; give images with tags of this model, or the model of this store"
        )


@dataclass(frozen=True)
class Evaluation:
    """
    Attributes:
        metrics: what ``metrics.json`` holds.
        top: counts of the most probable tags, of each tag.
        reliability_cb2: int64 ``[classes, 1000, 2]``: see ``reliability_of_groups``; the classes are those of
            ``FREQUENCIES``.
    """

    metrics: dict[str, Any]
    top: MetricCounts
    reliability_cb2: torch.Tensor


FREQUENCIES = (10, 100, 1000)
"""Training images at which a tag comes into the next class of frequency."""


def frequency_class(counts: np.ndarray) -> torch.Tensor:
    """int64 ``[T]``: the class of each tag, 0 for the rarest."""
    return torch.from_numpy(np.searchsorted(FREQUENCIES, counts, side="right"))


@dataclass
class _Counts:
    """What is counted of some images: of the most probable tags, of the floor, of the other decisions."""

    top: MetricCounts
    floor: MetricCounts
    decided: dict[Decide, MetricCounts]
    reliability_cb2: torch.Tensor
    look: CloseLook | None
    unscorable: int = 0
    """rows without scores, which count nowhere else"""

    @staticmethod
    def none(num_tags: int, k: int, deciding: _Deciding, look: CloseLook | None) -> _Counts:
        return _Counts(
            MetricCounts(num_tags, k),
            MetricCounts(num_tags, k),
            {how: MetricCounts(num_tags, k) for how in deciding.others},
            torch.zeros(len(FREQUENCIES) + 1, RELIABILITY_BINS, 2, dtype=torch.int64),
            None if look is None else look.empty(),
        )

    def merge(self, other: _Counts) -> None:
        self.top.merge(other.top)
        self.floor.merge(other.floor)
        for how, counts in self.decided.items():
            counts.merge(other.decided[how])
        self.reliability_cb2 += other.reliability_cb2
        if self.look is not None and other.look is not None:
            self.look.merge(other.look)
        self.unscorable += other.unscorable


@dataclass(frozen=True)
class _Deciding:
    """The decisions beside ``top`` that an annotator can make."""

    annotator: Annotator
    others: dict[Decide, Decision]

    @staticmethod
    def of(annotator: Annotator, decide: Decide, precision: float | None) -> _Deciding:
        wanted = [] if annotator.decider is None else annotator.decider.decisions[1:]
        if decide not in wanted:
            decision_of(annotator, decide)  # says why not
        cuts = {"threshold": precision}
        return _Deciding(
            annotator, {how: decision_of(annotator, how, cuts.get(how)) for how in wanted}
        )

    def count(
        self, seen: _Counts, scored: Scored, tags: TagLists, k: int, class_T: torch.Tensor
    ) -> dict[Decide, Chosen]:
        """The tags of each image by each decision."""
        chosen: dict[Decide, Chosen] = {"top": self._of(scored, k, Decision())}
        if scored.score_BT is None:
            seen.top.update_topk(chosen["top"].ids, tags)
        else:
            seen.top.update(scored.score_BT, tags, chosen["top"].ids)
        if self.annotator.decider is None:
            return chosen
        for how, decision in self.others.items():
            most = k if how == "macro" else DEPTH
            chosen[how] = self._of(scored, most, decision)
            seen.decided[how].update_topk(chosen[how].ids, tags)
        row_p, tag_p, probability_p = scored.likely()
        width = seen.top.num_tags
        hit_p = torch.isin(row_p * width + tag_p, tags.keys(width))
        seen.reliability_cb2 += reliability_of_groups(
            probability_p, hit_p, class_T[tag_p], len(FREQUENCIES) + 1
        )
        return chosen

    def _of(self, scored: Scored, k: int, decision: Decision) -> Chosen:
        """The tags that ``choose`` gives."""
        return choose_of(self.annotator, *scored.plain, k, decision, scored.more)


def _index(annotator: Annotator, vocabulary: Vocabulary) -> TagIndex:
    """Which tags the texts of a store are, by the rules that the answers keep to."""
    return TagIndex(pa.array(list(vocabulary.names), pa.string()), rules_of(annotator))


def _refuse(selection: RowSelection, bad_n: np.ndarray, on_bad_row: OnBadRow) -> None:
    """Raises:
    InputError: rows without scores may not be left out. ``bad_n`` are their places in the selection.
    """
    if on_bad_row == "fail":
        row, path = int(selection.rows()[bad_n[0]]), selection.unit.path
        others = f" (and {len(bad_n) - 1} more near it)" if len(bad_n) > 1 else ""
        raise InputError(
            f"{path}: row {row}: {UNSCORABLE}{others}; mend the file, or leave bad rows out with "
            "--on_bad_row skip (jobs.train, jobs.update: --data.on_bad_row skip)"
        )


def _figures(result: dict[str, Any], counts: MetricCounts) -> dict[str, Any]:
    said = int(counts.predicted_T.sum())
    return {
        **{key: result[key] for key in _FIGURES},
        "tags_per_image": round(said / max(1, counts.images), 2),
    }


def topk_speed(
    annotator: Annotator, survey: StoreSurvey, columns: Columns, names: TagIndex, k: int
) -> float:
    """Images/s of finding the best k tags, for images in memory in one batch of up to 1024.

    No reading and no counting in it: the model alone, as a server would use it.
    """
    if not survey.train:
        return 0.0
    first = load_rows(survey.train[0], columns, names)
    batch = first.features_BD[:_BATCH].float()
    # What is made at the first call is not measured; rows without scores are left out.
    _, bad_B = row_by_row(lambda rows_BD: annotator.annotate(rows_BD, k), batch)
    batch = batch[~bad_B]
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < _SPEED_SECONDS:
        annotator.annotate(batch, k)
        calls += 1
    return calls * len(batch) / seconds


def upper_bound(
    vocabulary: Vocabulary, survey: StoreSurvey, columns: Columns, k: int = 5, seed: int = 0
) -> dict[str, Any]:
    """What k tags an image can reach: the image's own, and random others where it has fewer than k.

    As Gong et al. (2014), section 4.2, bound their tables.
    """
    names = TagIndex(pa.array(list(vocabulary.names), pa.string()), survey.rules)
    counts = MetricCounts(len(vocabulary), k)
    generator = torch.Generator().manual_seed(seed)
    for selection in survey.train:
        tags = load_rows(selection, columns, names).tags
        for start in range(0, len(tags), _BATCH):
            part = tags[start : start + _BATCH]
            noise_BT = torch.rand(len(part), len(vocabulary), generator=generator)
            best_Bk = topk(noise_BT + part.mask(len(vocabulary)), k)[1]
            counts.update_topk(best_Bk, part)
    bands = counts.bands(torch.from_numpy(vocabulary.counts))
    return {
        "method": "upper bound",
        **counts.result(torch.from_numpy(vocabulary.counts) > 0),
        "bands": bands,
    }
