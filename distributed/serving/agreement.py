"""How far two versions agree on the same rows.

Shapes: B rows, k tags that one version says of a row, T tags of a version's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from distributed.serving.model import ServedModel
from distributed.serving.scoring import Scored

_NO_TAG = -1


@dataclass(frozen=True)
class Agreement:
    """Sums over rows that two versions scored; sums of several batches add up.

    Attributes:
        rows: how many.
        agreed: sum of each row's share of common tags: |A and B| / max(|A|, |B|), 1 where both say nothing.
        same_first: rows whose first tag is the same, or that have none by both.
        common_tags: tags that both said of a row.
        score_gap: sum of the absolute differences of their scores; 0 unless both give probabilities.
        scored_rows: rows of which both said a tag; 0 unless both give probabilities.
        live_score, trial_score: sum of these rows' first scores.
    """

    rows: int = 0
    agreed: float = 0.0
    same_first: int = 0
    common_tags: int = 0
    score_gap: float = 0.0
    scored_rows: int = 0
    live_score: float = 0.0
    trial_score: float = 0.0

    def __add__(self, other: Agreement) -> Agreement:
        parts = (field.name for field in fields(self))
        return Agreement(**{part: getattr(self, part) + getattr(other, part) for part in parts})


def shared_ids(live: ServedModel, trial: ServedModel) -> np.ndarray:
    """int64 ``[T]``: for each tag of ``trial`` its id in ``live``; tags that ``live`` does not know follow
    its own."""
    place = {name: tag for tag, name in enumerate(live.names)}
    known = len(place)
    ids = (place.get(name, known + tag) for tag, name in enumerate(trial.names))
    return np.fromiter(ids, np.int64, len(trial.names))


def compare(live: Scored, trial: Scored, id_T: np.ndarray) -> Agreement:
    """Of the answers of two versions to one request.

    Args:
        id_T: see ``shared_ids``.
    """
    live_Bk = _said(live, live.tag_Bk)
    trial_Bk = _said(trial, id_T[trial.tag_Bk])
    rows = len(live_Bk)
    width = 1 + max(int(live_Bk.max(initial=0)), int(trial_Bk.max(initial=0)))
    row_B = np.arange(rows)[:, None] * width
    has_live_Bk, has_trial_Bk = live_Bk != _NO_TAG, trial_Bk != _NO_TAG
    # A (row, tag) pair as one number, so that one intersection finds all common ones.
    _, live_at, trial_at = np.intersect1d(
        (live_Bk + row_B)[has_live_Bk],
        (trial_Bk + row_B)[has_trial_Bk],
        assume_unique=True,
        return_indices=True,
    )
    common_B = np.bincount(np.nonzero(has_live_Bk)[0][live_at], minlength=rows)
    most_B = np.maximum(has_live_Bk.sum(1), has_trial_Bk.sum(1))
    agreed_B = np.where(most_B > 0, common_B / np.maximum(most_B, 1), 1.0)
    first_live_B, first_trial_B = _first(live_Bk), _first(trial_Bk)
    counted = Agreement(
        rows=rows,
        agreed=float(agreed_B.sum()),
        same_first=int((first_live_B == first_trial_B).sum()),
        common_tags=len(live_at),
    )
    if live.model.annotator.decider is None or trial.model.annotator.decider is None:
        return counted  # scores of another scale say nothing beside each other
    gap = live.score_Bk[has_live_Bk][live_at] - trial.score_Bk[has_trial_Bk][trial_at]
    both_B = (first_live_B != _NO_TAG) & (first_trial_B != _NO_TAG)
    return counted + Agreement(
        score_gap=float(np.abs(gap.astype(np.float64)).sum()),
        scored_rows=int(both_B.sum()),
        live_score=_first_scores(live.score_Bk, has_live_Bk, both_B),
        trial_score=_first_scores(trial.score_Bk, has_trial_Bk, both_B),
    )


def _said(scored: Scored, id_Bk: np.ndarray) -> np.ndarray:
    """Ids of the tags that are said, ``_NO_TAG`` elsewhere."""
    return id_Bk if scored.keep_Bk is None else np.where(scored.keep_Bk, id_Bk, _NO_TAG)


def _first(id_Bk: np.ndarray) -> np.ndarray:
    """Of each row the id of the first tag that is said, or ``_NO_TAG``."""
    return id_Bk[np.arange(len(id_Bk)), (id_Bk != _NO_TAG).argmax(1)]


def _first_scores(score_Bk: np.ndarray, has_Bk: np.ndarray, row_B: np.ndarray) -> float:
    """Sum over the rows ``row_B`` of the scores of their first tags."""
    first_B = score_Bk[np.arange(len(score_Bk)), has_Bk.argmax(1)]
    return float(first_B[row_B].sum(dtype=np.float64))
