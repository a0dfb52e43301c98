"""The tag vocabulary. It only grows at its end: an id keeps its tag for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drel_core.errors import InputError


@dataclass(frozen=True)
class Vocabulary:
    """Tag names and training counts; the id of a tag is its position.

    Args:
        names: T different, non-empty tag names.
        counts: int64 ``[T]``, images in training that carry the tag.

    Raises:
        InputError: a name occurs twice, or the lengths differ.
    """

    names: tuple[str, ...]
    counts: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "counts", np.asarray(self.counts, dtype=np.int64))
        if len(self.names) != len(self.counts):
            raise InputError(
                f"vocabulary has {len(self.names)} names but {len(self.counts)} counts"
            )
        if len(set(self.names)) != len(self.names):
            seen: set[str] = set()
            twice = next(name for name in self.names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise InputError(f"vocabulary names the tag {twice!r} twice; every tag may occur once")

    def __len__(self) -> int:
        return len(self.names)

    def extended(self, names: Sequence[str], counts: Sequence[int] | np.ndarray) -> Vocabulary:
        """With more training images: counts of known tags are added, unknown tags appended. Old ids stay.

        Args:
            names: different tags.
            counts: how many of the new images carry each.
        """
        place = {name: tag for tag, name in enumerate(self.names)}
        grown_names, grown_counts = list(self.names), self.counts.tolist()
        for name, count in zip(names, np.asarray(counts).tolist(), strict=True):
            tag = place.setdefault(name, len(grown_names))
            if tag == len(grown_names):
                grown_names.append(name)
                grown_counts.append(0)
            grown_counts[tag] += count
        return Vocabulary(tuple(grown_names), np.array(grown_counts, dtype=np.int64))

    def to_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "counts": self.counts.tolist()}

    @staticmethod
    def from_dict(state: dict[str, Any]) -> Vocabulary:
        """The vocabulary of a parsed file.

        Raises:
            ValueError: a name is no text or empty, or a count is no whole number from 0 up.
        """
        names, counts = state["names"], np.array(state["counts"])
        if set(map(type, names)) - {str} or not all(names):
            raise ValueError("a tag is no text, or empty")
        if counts.size and (counts.dtype != np.int64 or counts.ndim != 1 or counts.min() < 0):
            raise ValueError("counts must be whole numbers from 0 up")
        return Vocabulary(tuple(names), counts.astype(np.int64))
