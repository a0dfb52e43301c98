"""Some images of an evaluation with their scores, kept in the same pass: a fair sample, and the tags in which
model and store disagree most.

Shapes: B images, M best tags of each, T tags, p (image, tag) pairs.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distributed.data.feature_store import RowGroupSlice, RowSelection
from distributed.inference.scored import Scored
from drel_core.decision.decider import Chosen
from drel_core.scoring.tag_lists import TagLists

_SPARE = 6  # times as many as are shown, since some are of the same tag
_SAME_TAG = 2
"""Faults of one tag that are shown before any third one."""


class Said(NamedTuple):
    """A tag of an image, and its score.

    Attributes:
        bound: the score is at most this; it was not computed.
    """

    tag: int
    score: float
    bound: bool = False


@dataclass(frozen=True)
class SeenImage:
    """An image as the model sees it.

    Attributes:
        place: its row.
        said: the tags that the decision chose, best first.
        true: the store's tags, as far as the model knows them.
        doubt: the tag in which the two disagree; None in a sample.
        weight: how much they disagree; the greatest comes first.
    """

    place: RowGroupSlice
    said: tuple[Said, ...]
    true: tuple[Said, ...]
    doubt: Said | None = None
    weight: float = 0.0


Wanted = dict[tuple[str, int], np.ndarray]


def spread_rows(selections: Sequence[RowSelection], count: int) -> Wanted:
    """Evenly spread rows of a store: of each unit, by its path and first row, the rows of the file."""
    total = sum(selection.take for selection in selections)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    wanted: Wanted = {}
    start = 0
    for selection in selections:
        here = chosen[(chosen >= start) & (chosen < start + selection.take)]
        if len(here):
            key = (selection.unit.path, selection.unit.file_row)
            wanted[key] = selection.rows()[here - start]
        start += selection.take
    return wanted


@dataclass
class CloseLook:
    """What is kept. Parts of a store are looked at by empty copies, which ``merge`` adds up.

    Args:
        wanted: rows of the sample, see ``spread_rows``.
        most: images with a wrong tag, and images with a missed tag, that are shown.
        share_T: float32, share of training images with each tag, where scores are probabilities: what is
            missed is a tag that is far less probable than on any image. None: the lowest score.
    """

    wanted: Wanted
    most: int
    share_T: Tensor | None
    sample: list[SeenImage] = field(default_factory=list)
    wrong: list[SeenImage] = field(default_factory=list)
    missed: list[SeenImage] = field(default_factory=list)

    def empty(self) -> CloseLook:
        return CloseLook(self.wanted, self.most, self.share_T)

    def merge(self, other: CloseLook) -> None:
        self.sample = sorted([*self.sample, *other.sample], key=_place)
        self.wrong = self._first([*self.wrong, *other.wrong])
        self.missed = self._first([*self.missed, *other.missed])

    def most_wrong(self) -> list[SeenImage]:
        """The images with the most confident wrong tag, two of one tag where there are others."""
        return self._shown(self.wrong)

    def most_missed(self) -> list[SeenImage]:
        """The images with the most confidently missed tag, two of one tag where there are others."""
        return self._shown(self.missed)

    def see(
        self, scored: Scored, tags: TagLists, chosen: Chosen, unit: RowGroupSlice, row_B: np.ndarray
    ) -> None:
        """A batch of images.

        Args:
            chosen: the tags of the decision.
            row_B: their rows of the file.
        """
        if not len(tags):
            return
        pairs = _Pairs.of(scored, tags, chosen)

        def seen(row: int, doubt: Said | None = None, weight: float = 0.0) -> SeenImage:
            at = int(row_B[row])
            place = replace(unit, start=unit.start + at - unit.file_row, rows=1, file_row=at)
            return SeenImage(place, pairs.said(row), pairs.true(row), doubt, weight)

        here = np.isin(row_B, self.wanted.get((unit.path, unit.file_row), ()))
        self.sample += [seen(row) for row in here.nonzero()[0].tolist()]
        self.wrong = self._first([*self.wrong, *self._wrong(pairs, seen)])
        self.missed = self._first([*self.missed, *self._missed(pairs, seen)])

    def _wrong(self, pairs: _Pairs, seen: Callable[..., SeenImage]) -> list[SeenImage]:
        """Of each image the most probable tag that it does not have."""
        scored, hit_BM = pairs.scored, pairs.hit_BM
        rows = (~hit_BM).any(1).nonzero()[:, 0]
        place_n = (~hit_BM[rows]).to(torch.uint8).argmax(1)
        score_n, tag_n = scored.best_BM[rows, place_n], scored.tag_BM[rows, place_n]
        first = score_n.topk(min(len(rows), self.most * _SPARE)).indices.tolist()
        return [
            seen(int(rows[n]), Said(int(tag_n[n]), float(score_n[n])), float(score_n[n]))
            for n in first
        ]

    def _missed(self, pairs: _Pairs, seen: Callable[..., SeenImage]) -> list[SeenImage]:
        """Of each image the true tag that the decision did not choose and the model finds least fitting."""
        left_p = ~pairs.is_said_p
        row_p, tag_p, score_p = pairs.row_p[left_p], pairs.tag_p[left_p], pairs.score_p[left_p]
        bound_p = pairs.bound_p[left_p]
        weight_p = -score_p
        if self.share_T is not None:
            weight_p = self.share_T[tag_p].clamp(min=1e-9).log() - score_p.clamp(min=1e-9).log()
        order = weight_p.argsort(descending=True)
        _, first = np.unique(row_p[order].numpy(), return_index=True)
        chosen = order[torch.from_numpy(np.sort(first))][: self.most * _SPARE].tolist()
        return [
            seen(
                int(row_p[p]),
                Said(int(tag_p[p]), float(score_p[p]), bool(bound_p[p])),
                float(weight_p[p]),
            )
            for p in chosen
        ]

    def _first(self, images: list[SeenImage]) -> list[SeenImage]:
        return heapq.nsmallest(self.most * _SPARE, images, key=_by_weight)

    def _shown(self, images: list[SeenImage]) -> list[SeenImage]:
        first: list[SeenImage] = []
        rest: list[SeenImage] = []
        times = Counter[int]()
        for image in images:
            assert image.doubt is not None
            times[image.doubt.tag] += 1
            (first if times[image.doubt.tag] <= _SAME_TAG else rest).append(image)
        return sorted([*first, *rest][: self.most], key=_by_weight)


def _place(image: SeenImage) -> tuple[str, int]:
    return image.place.path, image.place.file_row


def _by_weight(image: SeenImage) -> tuple[float, str, int]:
    """Units may be looked at in any order: of equals the first of the store."""
    return (-image.weight, *_place(image))


@dataclass(frozen=True)
class _Pairs:
    """A batch, and of its (image, tag) pairs that are true what the model gives them.

    Attributes:
        hit_BM: which of the best tags are true.
        row_p, tag_p: the true pairs, in order of images.
        score_p: what the model gives them, or where ``bound_p`` says so what it is below.
        is_said_p: the decision chose it.
    """

    scored: Scored
    tags: TagLists
    chosen: Chosen
    hit_BM: Tensor
    row_p: Tensor
    tag_p: Tensor
    score_p: Tensor
    bound_p: Tensor
    is_said_p: Tensor

    @staticmethod
    def of(scored: Scored, tags: TagLists, chosen: Chosen) -> _Pairs:
        row_p, tag_p = tags.row_ids(), tags.values
        row_B1 = torch.arange(len(tags))[:, None]
        every = scored.tag_BM.flatten(), chosen.ids.flatten(), tag_p
        width = 1 + int(torch.cat(every).max())
        key_p = row_p * width + tag_p
        said_p = (row_B1 * width + chosen.ids)[chosen.ids >= 0]
        bound_p = torch.zeros(len(tag_p), dtype=torch.bool)
        if scored.score_BT is not None:
            score_p = scored.score_BT[row_p, tag_p]
        else:
            same_pM = scored.tag_BM[row_p] == tag_p[:, None]
            bound_p = ~same_pM.any(1)
            best_pM = scored.best_BM[row_p]
            found_p = best_pM.gather(1, same_pM.to(torch.uint8).argmax(1, keepdim=True))[:, 0]
            score_p = torch.where(bound_p, best_pM[:, -1], found_p)
        return _Pairs(
            scored,
            tags,
            chosen,
            torch.isin(row_B1 * width + scored.tag_BM, key_p),
            row_p,
            tag_p,
            score_p,
            bound_p,
            torch.isin(key_p, said_p),
        )

    def said(self, row: int) -> tuple[Said, ...]:
        """What the decision chose for an image."""
        pairs = zip(
            self.chosen.ids[row].tolist(), self.chosen.probability_Bk[row].tolist(), strict=True
        )
        return tuple(Said(tag, score) for tag, score in pairs if tag >= 0)

    def true(self, row: int) -> tuple[Said, ...]:
        """The true tags of an image."""
        part = slice(int(self.tags.offsets[row]), int(self.tags.offsets[row + 1]))
        found = (self.tag_p[part], self.score_p[part], self.bound_p[part])
        return tuple(map(Said, *(values.tolist() for values in found)))
