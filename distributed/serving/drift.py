"""Whether what a scorer is asked still looks like what its model learned from.

Two figures, of rows drawn from the requests:

Unseen-looking features. A row is compared with the training rows that the bundle keeps. It looks unseen
where its standardised length is outside their range, or where its direction is farther from its 10th
nearest of them than theirs is from each other (Sun et al., Out-of-Distribution Detection with Deep Nearest
Neighbors, ICML 2022). Limits are quantiles of the kept rows' own values, so that of rows like those of
training about 1% look unseen, whatever the features are (conformal anomaly detection: Laxhammar and
Falkman, 2010). The length finds another scale, another network and empty rows; the direction finds other
pictures.

Tags. By calibrated probabilities the expected share of each tag in the traffic is the mean of its
probability, and without a change it is the tag's share in training. Their distance is the population
stability index over bins of equal training share (Siddiqi, Credit Risk Scorecards, 2006): below .1 nothing
has moved, above .25 much has. Figures by which this was chosen: docs/log.md.

Shapes: B rows of traffic, N training rows, D feature size, T tags, M tags with probabilities, G bins.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import numpy as np
import torch

from distributed.data.replay_buffer import kept_features
from distributed.serving.beside import Beside, Work
from distributed.serving.metrics import DriftMetrics
from distributed.serving.model import ServedModel
from distributed.serving.scoring import INLINE_SECONDS, Scored
from drel_core.decision.cuts import DEPTH

_LOG = logging.getLogger("ray.serve.drel")

EXPECTED_UNSEEN = 0.01
"""Share of rows like those of training that look unseen."""
_KEPT_ROWS = 2048  # training rows to compare with: 2048 x D x 4 bytes, 2048 D multiplications a row
_LEAST_KEPT = 200  # with fewer their quantiles say nothing
_NEAREST = 10
_BINS = 20
_RECENT_ROWS = 1000  # a row counts 1/e after so many more
_LEAST_ROWS = 100  # before, a figure would be chance
_MOVED = 10
_DRAWN_ROWS = 16  # looked at together
_MOST_SHARE = 0.02  # of a replica's time goes into looks
_LEAST_SECONDS = 0.1  # between two looks


class SeenFeatures:
    """What training rows look like.

    Args:
        features_ND: training rows.
    """

    def __init__(self, features_ND: np.ndarray) -> None:
        varies_D = features_ND.std(0) > 0
        self._column_D = np.flatnonzero(varies_D)
        kept_ND = features_ND[:, self._column_D].astype(np.float32)
        self._mean_D, self._std_D = kept_ND.mean(0), kept_ND.std(0)
        unit_ND, length_N = self._standardised(features_ND)
        self._unit_ND = unit_ND
        nearness_NN = _cosines(unit_ND, unit_ND)
        np.fill_diagonal(nearness_NN, -np.inf)
        # Half of the expected share for each rule, and a quarter for either end of the lengths.
        part = EXPECTED_UNSEEN / 4
        self._least, self._most = np.quantile(length_N, [part, 1 - part])
        self._nearness = np.quantile(_tenth(nearness_NN), 2 * part)

    def unseen(self, features_BD: np.ndarray) -> np.ndarray:
        """bool ``[B]``: rows that look like none of training."""
        unit_BD, length_B = self._standardised(features_BD)
        far_B = _tenth(_cosines(unit_BD, self._unit_ND)) < self._nearness
        unseen_B: np.ndarray = far_B | (length_B < self._least) | (length_B > self._most)
        return unseen_B

    def _standardised(self, features_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised rows of length 1, and their lengths."""
        rows_BD = (features_BD[:, self._column_D] - self._mean_D) / self._std_D
        length_B = np.linalg.norm(rows_BD, axis=1)
        return rows_BD / np.maximum(length_B, 1e-12)[:, None], length_B


def _cosines(unit_BD: np.ndarray, unit_ND: np.ndarray) -> np.ndarray:
    """``[B, N]``, with the threads that a replica may use: numpy would take every core."""
    found_BN: np.ndarray = (torch.from_numpy(unit_BD) @ torch.from_numpy(unit_ND).T).numpy()
    return found_BN


def _tenth(nearness_BN: np.ndarray) -> np.ndarray:
    """Cosine of the 10th nearest."""
    place = nearness_BN.shape[1] - _NEAREST
    found_B: np.ndarray = np.partition(nearness_BN, place, axis=1)[:, place]
    return found_B


class TagShares:
    """The expected share of each tag in recent traffic, beside its share in training.

    Args:
        counts_T: training images of each tag.
    """

    def __init__(self, counts_T: np.ndarray) -> None:
        # Half an image for tags that training never saw: a share of 0 has no logarithm.
        weight_T = np.maximum(counts_T, 0.5)
        self._training_T = weight_T / weight_T.sum()
        self._mass_T = np.zeros(len(counts_T))
        order_T = np.argsort(-self._training_T, kind="stable")
        before_T = np.cumsum(self._training_T[order_T]) - self._training_T[order_T]
        bin_T = np.empty(len(counts_T), dtype=np.int64)
        bin_T[order_T] = np.minimum(before_T * _BINS, _BINS - 1)
        self._bin_T = np.unique(bin_T, return_inverse=True)[1]

    def add(self, tag_BM: np.ndarray, probability_BM: np.ndarray) -> None:
        """Rows with the probabilities of their best tags."""
        self._mass_T *= np.exp(-len(tag_BM) / _RECENT_ROWS)
        np.add.at(self._mass_T, tag_BM, probability_BM)

    def index(self) -> float:
        """Population stability index: sum over bins of (share - training) ln(share / training)."""
        return float(_parts(*(np.bincount(self._bin_T, of_T) for of_T in self._both())).sum())

    def moved(self) -> list[tuple[int, float, float]]:
        """Tags that moved most: ids, shares in the traffic and in training."""
        share_T, training_T = self._both()
        part_T = _parts(share_T, training_T)
        most = np.argpartition(-part_T, min(_MOVED, len(part_T)) - 1)[:_MOVED]
        most = most[np.argsort(-part_T[most], kind="stable")]
        return [(int(tag), float(share_T[tag]), float(training_T[tag])) for tag in most]

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares ``[T]`` in the traffic and in training. One more tag, drawn from training, keeps the
        first from being 0."""
        return (self._mass_T + self._training_T) / (self._mass_T.sum() + 1), self._training_T


def _parts(share: np.ndarray, training: np.ndarray) -> np.ndarray:
    parts: np.ndarray = (share - training) * np.log(share / training)
    return parts


class Drift:
    """The figures of one version of a model. ``look`` is for one thread.

    Attributes:
        rows: rows looked at.
    """

    def __init__(self, served: ServedModel, metrics: DriftMetrics) -> None:
        self.served, self._metrics = served, metrics
        self.rows = 0
        self._recent = self._recent_unseen = 0.0
        self._seen: SeenFeatures | None = None
        self._is_read = False
        has_probabilities = served.annotator.decider is not None
        self._tags = TagShares(served.counts) if has_probabilities else None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Read the training rows that the bundle keeps, once."""
        if not self._is_read:
            self._is_read = True
            kept_ND = kept_features(self.served.folder, self.served.image_dim, _KEPT_ROWS)
            self._seen = SeenFeatures(kept_ND) if len(kept_ND) >= _LEAST_KEPT else None

    def look(self, features_BD: np.ndarray) -> None:
        """Take rows of the traffic into the figures. Rows that have no scores look unseen."""
        rows = len(features_BD)
        best = self.served.best(features_BD, DEPTH)
        unseen = 0
        if self._seen is not None:
            unseen_B = self._seen.unseen(features_BD)
            unseen = int((unseen_B if best.bad_B is None else unseen_B | best.bad_B).sum())
        fade = np.exp(-rows / _RECENT_ROWS)
        with self._lock:
            self.rows += rows
            self._recent = self._recent * fade + rows
            self._recent_unseen = self._recent_unseen * fade + unseen
            if self._tags is not None:
                good_B = slice(None) if best.bad_B is None else ~best.bad_B
                self._tags.add(best.tag_Bk[good_B], best.score_Bk[good_B])
            index = self._index()
        seen = self._seen is not None
        self._metrics.record(self.served.version, rows, unseen if seen else None, index)

    def report(self) -> dict[str, Any]:
        """A ``DriftResponse``."""
        with self._lock:
            enough = self.rows >= _LEAST_ROWS
            has_seen = self._seen is not None and enough
            unseen = self._recent_unseen / self._recent if has_seen else None
            index = self._index()
            moved = self._tags.moved() if self._tags is not None and index is not None else []
        names = self.served.names
        return {
            "model": self.served.version,
            "rows": self.rows,
            "unseen": unseen,
            "expected_unseen": EXPECTED_UNSEEN,
            "tags_index": index,
            "moved": [
                {"tag": names[tag], "share": share, "training": training}
                for tag, share, training in moved
            ],
        }

    def _index(self) -> float | None:
        return self._tags.index() if self._tags is not None and self.rows >= _LEAST_ROWS else None


class DriftWatch:
    """Draws rows from the answers of the version that answers, and has them looked at. For one event loop.

    Args:
        beside: does the looking.
    """

    def __init__(self, beside: Beside) -> None:
        self._beside, self._metrics = beside, DriftMetrics()
        self._drift: Drift | None = None
        self._drawn: list[np.ndarray] = []
        self._next = 0.0

    def watch(self, served: ServedModel) -> None:
        """The version that answers from now on."""
        self._drift, self._drawn, self._next = Drift(served, self._metrics), [], 0.0

    def offer(self, scored: Scored) -> None:
        """An answer, some of whose rows may be drawn."""
        drift, now = self._drift, time.monotonic()
        if drift is None or now < self._next or scored.model is not drift.served:
            return
        if scored.features_BD is None or not drift.served.takes_features:
            return
        most = max(1, min(_DRAWN_ROWS, int(INLINE_SECONDS / max(drift.served.row_seconds, 1e-9))))
        self._drawn.append(scored.features_BD[:most].copy())  # a view would keep the whole request
        if sum(map(len, self._drawn)) < most:
            return
        rows_BD, self._drawn = np.concatenate(self._drawn)[:most], []
        self._next = math.inf  # until this look is done

        def look() -> None:
            spent = math.inf
            try:
                drift.prepare()
                started = time.perf_counter()
                drift.look(rows_BD)
                spent = time.perf_counter() - started
            except Exception:  # a damaged file of kept rows
                _LOG.exception("no figures of drift for version %s", drift.served.version)
            self._next = time.monotonic() + max(_LEAST_SECONDS, spent / _MOST_SHARE)

        def again() -> None:
            self._next = now + _LEAST_SECONDS

        self._beside.offer(Work(look, 0, again))  # there is one at a time: it needs no room

    def report(self) -> dict[str, Any]:
        """A ``DriftResponse``. There must be a version."""
        assert self._drift is not None
        return self._drift.report()
