"""The names of a model's tags, found by how they begin.

Kept by pyarrow: a million names as Python objects would take more memory than the codes of their tags.
"""

from __future__ import annotations

from bisect import bisect_left
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drel_core.bundle.tag_rules import TagRules
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.answer_rules import AnswerRules
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


def _key(prefix: str) -> str:
    """What is typed, as names are compared."""
    return normalize("NFC", prefix).lstrip(TRIMMED).casefold()


class TagNames:
    """Looks up tags of a vocabulary, in any case."""

    def __init__(self, vocabulary: Vocabulary, rules: AnswerRules | None = None) -> None:
        self._names, self._counts = vocabulary.names, vocabulary.counts
        self._hidden_T = None if rules is None else rules.hidden_T.numpy()
        self._rules = TagRules() if rules is None else rules.rules
        keys = pa.array([name.casefold() for name in self._names], pa.large_string())
        order = pc.sort_indices(keys)  # by code points, as Python compares text
        self._order = order.to_numpy()
        self._keys = _Sorted(keys.take(order))
        self._others = [] if rules is None else self._other_names()

    def _other_names(self) -> list[tuple[str, str, int]]:
        """Spellings and display names, in order: as they are compared, as they stand, id of their tag."""
        named = {*self._rules.aliases.values(), *self._rules.names}
        place = {name: tag for tag, name in enumerate(self._names) if name in named}
        pairs = [*self._rules.aliases.items()]
        pairs += [(name, tag) for tag, of in self._rules.names.items() for name in of.values()]
        return sorted((name.casefold(), name, place[tag]) for name, tag in pairs if tag in place)

    def found(
        self, prefix: str, limit: int, only_T: np.ndarray | None = None
    ) -> list[tuple[int, str | None]]:
        """Tags that may be said and whose name, other spelling or display name begins with ``prefix``, the
        most frequent first, each with the other name where its own begins otherwise.

        Args:
            only_T: bool, tags that are asked for.
        """
        by: dict[int, str | None] = dict.fromkeys(self.beginning_with(prefix, limit, only_T))
        key = _key(prefix)
        low = bisect_left(self._others, (key,)) if key else len(self._others)
        while low < len(self._others) and self._others[low][0].startswith(key):
            _, name, tag = self._others[low]
            low += 1
            # A tag that begins so itself was found before, or others are more frequent.
            begins = self._names[tag].casefold().startswith(key)
            if tag not in by and not begins and self._may_be_said(tag, only_T):
                by[tag] = name
        return [(tag, by[tag]) for tag in sorted(by, key=lambda tag: -self._counts[tag])[:limit]]

    def _may_be_said(self, tag: int, only_T: np.ndarray | None) -> bool:
        hidden = self._hidden_T is not None and bool(self._hidden_T[tag])
        return not hidden and (only_T is None or bool(only_T[tag]))

    def beginning_with(
        self, prefix: str, limit: int, only_T: np.ndarray | None = None
    ) -> list[int]:
        """Ids of tags that may be said and begin with ``prefix`` in any case, the most frequent first."""
        key = _key(prefix)
        low = bisect_left(self._keys, key)
        high = bisect_left(self._keys, key + "\U0010ffff") if key else len(self._keys)
        # Of equally frequent tags the first by name.
        found = self._order[low:high].astype(np.int64)
        if self._hidden_T is not None:
            found = found[~self._hidden_T[found]]
        if only_T is not None:
            found = found[only_T[found]]
        if len(found) > limit:
            # A place in the order by name tells equal counts apart: argpartition takes any of equals.
            key = np.arange(len(found)) - self._counts[found].astype(np.int64) * len(found)
            most = np.argpartition(key, limit - 1)[:limit]
            found = found[np.sort(most)]
        tags: list[int] = found[np.argsort(-self._counts[found], kind="stable")].tolist()
        return tags

    def id_of(self, tag: str) -> int:
        """Of a tag as it is written, or else as ``clean_tag`` writes it; of another spelling that of its tag,
        where the model has that.

        Raises:
            KeyError: no such tag.
        """
        clean = clean_tag(tag)
        for name in (self._rules.tag_of(tag), self._rules.tag_of(clean), tag, clean):
            key = name.casefold()
            place = bisect_left(self._keys, key)
            while place < len(self._keys) and self._keys[place] == key:
                if self._names[found := int(self._order[place])] == name:
                    return found
                place += 1
        raise KeyError(tag)
