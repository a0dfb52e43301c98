"""The names of a model's tags, found by how they begin.

Kept by pyarrow: a million names as Python objects would take more memory than the codes of their tags.
"""

from __future__ import annotations

from bisect import bisect_left
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drel_core.bundle.vocabulary import Vocabulary
from drel_core.tag_text import TRIMMED, clean_tag


class _Sorted:
    """A sorted array of pyarrow's as ``bisect`` needs it."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, place: int) -> str:
        key: str = self._array[place].as_py()
        return key


class TagNames:
    """Looks up tags of a vocabulary, in any case."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._names, self._counts = vocabulary.names, vocabulary.counts
        keys = pa.array([name.casefold() for name in self._names], pa.large_string())
        order = pc.sort_indices(keys)  # by code points, as Python compares text
        self._order = order.to_numpy()
        self._keys = _Sorted(keys.take(order))

    def beginning_with(self, prefix: str, limit: int) -> list[int]:
        """Ids of tags that begin with ``prefix`` in any case, the most frequent first."""
        key = normalize("NFC", prefix).lstrip(TRIMMED).casefold()
        low = bisect_left(self._keys, key)
        high = bisect_left(self._keys, key + "\U0010ffff") if key else len(self._keys)
        # Of equally frequent tags the first by name.
        found = self._order[low:high].astype(np.int64)
        if len(found) > limit:
            # A place in the order by name tells equal counts apart: argpartition takes any of equals.
            key = np.arange(len(found)) - self._counts[found].astype(np.int64) * len(found)
            most = np.argpartition(key, limit - 1)[:limit]
            found = found[np.sort(most)]
        tags: list[int] = found[np.argsort(-self._counts[found], kind="stable")].tolist()
        return tags

    def id_of(self, tag: str) -> int:
        """Of a tag as it is written, or else as ``clean_tag`` writes it.

        Raises:
            KeyError: no such tag.
        """
        for name in (tag, clean_tag(tag)):
            key = name.casefold()
            place = bisect_left(self._keys, key)
            while place < len(self._keys) and self._keys[place] == key:
                if self._names[found := int(self._order[place])] == name:
                    return found
                place += 1
        raise KeyError(tag)
