"""What a report says, gathered from model, store and run; ``page.py`` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from distributed.inference.close_look import Said, SeenImage
from distributed.inference.evaluate import Evaluation
from distributed.reporting.curves import Curves
from distributed.reporting.pictures import Thumbnails
from distributed.reporting.shown_rows import Place, ShownRow, place_of
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import Decide

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Guess:
    """A tag on a card.

    Attributes:
        score: as text: percent, or the score itself where it is no probability; empty where none is known.
        share: length of its bar, from 0 to 1; None without.
        unseen: no training image has the tag; the model knows it by its name alone.
    """

    name: str
    score: str
    share: float | None = None
    right: bool = False
    unseen: bool = False


@dataclass(frozen=True)
class Card:
    """An image of the contact sheet.

    Attributes:
        said: what the model chose, best first.
        missed: true tags that it did not choose.
        unknown: true tags that it does not know.
        picture: a ``data:`` URI; empty without.
        doubt: the tag in which model and store disagree.
    """

    image_id: str
    said: tuple[Guess, ...]
    missed: tuple[Guess, ...]
    unknown: tuple[str, ...]
    picture: str = ""
    doubt: Guess | None = None


@dataclass(frozen=True)
class TagPlace:
    """A tag on the map, in [0, 1] both ways."""

    tag: int
    x: float
    y: float


@dataclass(frozen=True)
class Facts:
    """
    Attributes:
        model, data: as they were given.
        method: name of the method for people.
        decide, k: the decision of the main figures and of the cards.
        others: metrics of other methods on the same rows, by their names.
        sample: evenly spread images.
        wrong, missed: images with the most confident wrong tags, and the most confidently missed ones.
        tag_map: the most frequent tags by their vectors; empty without.
        notes: what was not possible, a sentence each.
    """

    model: str
    data: str
    method: str
    info: BundleInfo
    vocabulary: Vocabulary
    evaluation: Evaluation
    decide: Decide
    k: int
    others: Sequence[tuple[str, Metrics]]
    sample: list[Card]
    wrong: list[Card]
    missed: list[Card]
    curves: Curves
    tag_map: list[TagPlace]
    notes: list[str]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.evaluation.metrics

    @property
    def has_probabilities(self) -> bool:
        return "ece" in self.metrics


@dataclass(frozen=True)
class TagRow:
    """A tag of the table.

    Attributes:
        trained, tested: images that carry it.
        ap: average precision; None where the scores were too many to be kept.
        precision, recall: by the most probable tags.
    """

    name: str
    trained: int
    tested: int
    ap: float | None
    precision: float
    recall: float

    @property
    def quality(self) -> float:
        """What tags are ranked by."""
        both = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / both if both else 0.0
        return f1 if self.ap is None else self.ap


@dataclass(frozen=True)
class TagTables:
    """Some tags of each kind, and from how many test images on a tag is ranked."""

    frequent: list[TagRow]
    best: list[TagRow]
    worst: list[TagRow]
    least: int


def tag_tables(vocabulary: Vocabulary, evaluation: Evaluation, count: int = 12) -> TagTables:
    """The most frequent tags, and of those on at least five test images the best and worst.

    Where no tag is on five, all count.
    """
    top = evaluation.top
    tested_T = top.relevant_T.numpy()
    scored = np.flatnonzero((tested_T > 0) & (vocabulary.counts > 0))
    precision_T = top.average_precision_T()
    least = 5 if (tested_T[scored] >= 5).any() else 1

    def row(tag: int) -> TagRow:
        hits = int(top.hit_T[tag])
        return TagRow(
            vocabulary.names[tag],
            int(vocabulary.counts[tag]),
            int(tested_T[tag]),
            None if precision_T is None else float(precision_T[tag]),
            hits / max(1, int(top.predicted_T[tag])),
            hits / max(1, int(tested_T[tag])),
        )

    frequent = scored[np.argsort(-vocabulary.counts[scored], kind="stable")][:count]
    ranked = sorted(
        (row(tag) for tag in scored[tested_T[scored] >= least].tolist()),
        key=lambda one: (-one.quality, -one.tested, one.name),
    )
    return TagTables(
        [row(tag) for tag in frequent.tolist()], ranked[:count], ranked[: -count - 1 : -1], least
    )


def as_card(
    image: SeenImage,
    rows: Mapping[Place, ShownRow],
    pictures: Thumbnails,
    vocabulary: Vocabulary,
    is_probability: bool,
    unseen_T: np.ndarray | None = None,
) -> Card:
    """An image of the close look as people read it.

    Args:
        unseen_T: bool, tags that the model knows by name alone; None: it has no such tag.
    """
    place = place_of(image.place)
    names = vocabulary.names

    def guess(said: Said, right: bool) -> Guess:
        share = min(1.0, max(0.0, said.score)) if is_probability else None
        unseen = unseen_T is not None and bool(unseen_T[said.tag])
        return Guess(names[said.tag], score_text(said, is_probability), share, right, unseen)

    true = {said.tag for said in image.true}
    chosen = {said.tag for said in image.said}
    known = {names[tag] for tag in true}
    missed = sorted(
        (said for said in image.true if said.tag not in chosen), key=lambda said: -said.score
    )
    return Card(
        rows[place].image_id,
        tuple(guess(said, said.tag in true) for said in image.said),
        tuple(guess(said, True) for said in missed),
        tuple(name for name in rows[place].tags if name not in known),
        pictures.uri.get(place, ""),
        None if image.doubt is None else guess(image.doubt, image.doubt.tag in true),
    )


def score_text(said: Said, is_probability: bool) -> str:
    """``46%``, ``4.6%``, ``<0.1%``, or the score itself."""
    if not is_probability:
        return f"{'<' if said.bound else ''}{said.score:.2f}"
    text = percent(said.score)
    return f"<{text}" if said.bound and not text.startswith("<") else text


def percent(share: float) -> str:
    if share < 0.001:
        return "<0.1%"
    return f"{share:.1%}" if share < 0.095 else f"{share:.0%}"


def share_of_training(vocabulary: Vocabulary, info: BundleInfo) -> Tensor:
    """float32 ``[T]``: share of training images with each tag. Older bundles do not say how many there were:
    then at least as many as carry the most frequent one."""
    import torch

    images = max(info.images or 0, int(vocabulary.counts.max(initial=1)), 1)
    return torch.from_numpy(vocabulary.counts / images).float()
