"""Tags on a plane: near each other where their vectors are. Shapes: n tags, L latent size."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.cnn import CNNAnnotator
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.svm import SVMAnnotator

_LEAST = 3  # fewer tags have no map
_FEW = 12  # t-SNE needs neighbours: fewer are projected
_PERPLEXITY = 12
_LETTERS = 22
_COVERED = 2  # most dots under a name
_ALWAYS = 40  # of so many names it does not matter


@dataclass(frozen=True)
class Label:
    """The place of a name, where there is room for it.

    Attributes:
        text: the name, shortened.
        x, y: where its text begins, on the baseline.
        size: of its letters.
    """

    text: str
    x: float
    y: float
    size: float


def tag_vectors(annotator: TrainedAnnotator, tags: Tensor) -> Tensor | None:
    """float32 ``[n, L]``: what images are compared with; None where a method has no such thing."""
    if isinstance(annotator, DRELAnnotator):
        return annotator.tag_TL[tags]
    if isinstance(annotator, SVMAnnotator):
        return annotator.weight_TD[tags]
    if isinstance(annotator, CNNAnnotator):
        return annotator.model.head.weight.detach()[tags]
    return None


def on_a_plane(vector_nL: Tensor) -> np.ndarray | None:
    """float64 ``[n, 2]`` in [0, 1]: t-SNE of the directions (van der Maaten and Hinton, 2008), of a few tags
    their principal components; None where there is nothing to tell them apart."""
    direction_nL = torch.nn.functional.normalize(vector_nL.double()).numpy()
    if len(direction_nL) < _LEAST or not np.isfinite(direction_nL).all():
        return None
    if len(np.unique(direction_nL.round(9), axis=0)) < _LEAST:
        return None
    centred_nL = direction_nL - direction_nL.mean(0)
    left, size, _ = np.linalg.svd(centred_nL, full_matrices=False)
    place_n2 = (left * size)[:, :2]
    if place_n2.shape[1] < 2:
        place_n2 = np.pad(place_n2, ((0, 0), (0, 1)))
    if len(direction_nL) > _FEW:
        from sklearn.manifold import TSNE  # slow to import

        # Its threads wait for one another in busy loops: on busy cores they take ten times as long as one.
        start_n2 = place_n2 / max(place_n2[:, 0].std(), 1e-12) * 1e-4
        fit = TSNE(
            perplexity=min(_PERPLEXITY, (len(direction_nL) - 1) / 3),
            init=start_n2.astype(np.float32),
            max_iter=500,
            random_state=0,
            n_jobs=1,
        )
        with threadpool_limits(1):
            place_n2 = fit.fit_transform(direction_nL.astype(np.float32)).astype(np.float64)
    low, high = place_n2.min(0), place_n2.max(0)
    place_n2 = (place_n2 - low) / np.where(high > low, high - low, 1.0)
    rank_n2 = place_n2.argsort(0, kind="stable").argsort(0, kind="stable") / (len(place_n2) - 1)
    return (place_n2 + rank_n2) / 2  # order alone fills the plane, which gives names room


def labels(
    place_n2: np.ndarray,
    names: Sequence[str],
    sizes: Sequence[float],
    radii: Sequence[float],
    width: float,
    height: float,
) -> list[Label | None]:
    """Names beside their places, none over another, and over as few places as can be; None where there is no
    room.

    Args:
        place_n2: on the drawing.
        names: the most important first.
        sizes, radii: of the letters and of the dot of each.
    """
    radius_n1 = np.asarray(radii)[:, None]
    dots = np.concatenate([place_n2 - radius_n1, place_n2 + radius_n1], 1)
    boxes = np.empty((0, 4))
    found: list[Label | None] = []
    for (x, y), name, size, radius in zip(place_n2, names, sizes, radii, strict=True):
        text = shortened(name)
        wide, gap = text_width(text, size), radius + 2
        starts = (
            (x + gap, y + size * 0.35),
            (x - gap - wide, y + size * 0.35),
            (x - wide / 2, y - gap - size * 0.2),
            (x - wide / 2, y + gap + size * 0.8),
        )
        free: list[tuple[int, int, np.ndarray, Label]] = []
        for left, base in starts:
            box = np.array([left - 4, base - size * 0.8, left + wide + 4, base + size * 0.25])
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
            if inside and not _overlapped(box, boxes):
                free.append((_overlapped(box, dots), len(free), box, Label(text, left, base, size)))
        most = _COVERED if len(found) >= _ALWAYS else len(dots)
        if not free or (best := min(free, key=lambda one: one[:2]))[0] > most:
            found.append(None)
            continue
        boxes = np.concatenate([boxes, best[2][None]])
        found.append(best[3])
    return found


def _overlapped(box: np.ndarray, boxes: np.ndarray) -> int:
    across = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0])
    return int((across & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])).sum())


def shortened(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1].rstrip() + "…"


def text_width(text: str, size: float) -> float:
    """About as wide as a browser draws it, rather more than less."""
    wide = sum(1.05 if unicodedata.east_asian_width(c) in "WF" else 0.61 for c in text)
    return wide * size
