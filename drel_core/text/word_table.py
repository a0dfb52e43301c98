"""A table of words or names and their vectors, and how the name of a tag finds its vector there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from drel_core.tag_text import clean_tag
from drel_core.text.vectors import Progress, TextVectors, unit_rows
from drel_core.text.words import counted, forms, is_number, words_of

_PART = 65_536  # names at a time: memory does not grow with the vocabulary beyond its vectors


class WordTable(TextVectors):
    """Vectors by entry. The rules are those of ``drel_core.text.vectors``.

    Args:
        entries: words or names, in the order of the rows; of equal ones the first counts.
        rows: the vectors ``[k, d]`` of k rows, asked for in rising order without repeats.
        numbers: whether an entry that is a number may be a name's vector.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        entries: Iterable[str],
        rows: Callable[[np.ndarray], np.ndarray],
        numbers: bool,
    ) -> None:
        self.name, self.dim = name, dim
        self._rows, self._numbers = rows, numbers
        self._row: dict[str, int] = {}
        for row, entry in enumerate(entries):
            self._row.setdefault(entry, row)
        small: dict[str, int] = {}
        for entry, row in self._row.items():
            if (key := entry.casefold()) != entry:
                small.setdefault(key, row)
        for key, row in small.items():  # an entry in small letters comes before a capitalised one
            self._row.setdefault(key, row)

    def vectors(
        self, names: Sequence[str], progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        vector_nd = torch.zeros(len(names), self.dim)
        has_n = torch.zeros(len(names), dtype=torch.bool)
        for start in range(0, len(names), _PART):
            part = slice(start, min(start + _PART, len(names)))
            vector_nd[part], has_n[part] = self._part(names[part])
            if progress is not None:
                progress(part.stop, len(names))
        return vector_nd, has_n

    def _part(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [self.find(name) for name in names]
        row_m = np.array([row for rows in found for row in rows], dtype=np.int64)
        needed_k, place_m = np.unique(row_m, return_inverse=True)
        word_kd, _ = unit_rows(torch.from_numpy(self._rows(needed_k)))
        owner_m = torch.from_numpy(np.repeat(np.arange(len(names)), [len(rows) for rows in found]))
        sum_nd = torch.zeros(len(names), self.dim)
        sum_nd.index_add_(0, owner_m, word_kd[torch.from_numpy(place_m)])
        return unit_rows(sum_nd)

    def find(self, name: str) -> list[int]:
        """The rows whose mean is the name's vector; empty where it has none."""
        name = clean_tag(name)
        words = words_of(name)
        if self._numbers or not all(is_number(word) for word in words):
            for whole in (name, name.casefold(), *(sign.join(words).casefold() for sign in " -_")):
                if (row := self._row.get(whole)) is not None:
                    return [row]
        words = counted(words)
        rows = [row for word in words if (row := self._word(word)) is not None]
        return rows if 2 * len(rows) > len(words) else []

    def _word(self, word: str) -> int | None:
        if is_number(word):
            return None
        return next((self._row[form] for form in forms(word) if form in self._row), None)
