"""Tags of images by rules: spellings become tags, implied tags are added, blocked ones go.

This is the one place where rules meet the tags of a store, as texts for a survey and as ids for a reader.
Shapes: nnz (image, tag) pairs, B rows, T tags of a vocabulary.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.tag_values import lookup
from distributed.storage.files import READ_ERRORS, cannot_be_read, past_short_errors, read_bytes
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError


def open_rules(path: str) -> TagRules | None:
    """The rules of ``--tags.vocabulary``, local or on S3; None where no file is named.

    Raises:
        InputError: it cannot be read, or a rule cannot hold.
    """
    if not path:
        return None
    if "://" not in path:
        return TagRules.load(path)
    try:
        text = past_short_errors(lambda: read_bytes(path))
    except READ_ERRORS as error:
        raise InputError(f"{path}: {cannot_be_read(error, 'give a vocabulary file')}") from error
    return TagRules.parse(text, path)


class CanonicalTags:
    """What the rules make of the texts of a store.

    Args:
        rules: only other spellings, implications and blocked tags count here.
    """

    def __init__(self, rules: TagRules) -> None:
        self.texts = [*{**rules.aliases, **rules.implied, **dict.fromkeys(rules.blocked)}]
        self.targets = [rules.applied([text]) for text in self.texts]

    def __bool__(self) -> bool:
        """Whether there is any text that does not stay as it is."""
        return bool(self.texts)

    @cached_property
    def _arrays(self) -> tuple[pa.Array, pa.Array, np.ndarray]:
        flat = [tag for tags in self.targets for tag in tags]
        counts = np.array([len(tags) for tags in self.targets], dtype=np.int64)
        return pa.array(self.texts, pa.string()), pa.array(flat, pa.string()), counts

    def applied(self, values: pa.Array, offsets: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Flat clean tags with their offsets ``[B + 1]``, after the rules; a tag may be in a row twice."""
        if not self:
            return values, offsets
        text, target, count = self._arrays
        place_n = pc.fill_null(pc.index_in(values, value_set=text), -1)
        place_n = place_n.to_numpy(zero_copy_only=False).astype(np.int64)
        changed_n = place_n >= 0
        if not changed_n.any():
            return values, offsets
        count_n = np.ones(len(values), dtype=np.int64)
        count_n[changed_n] = count[place_n[changed_n]]
        # Where each value's tags begin: itself, or those of its text, which lie behind all values.
        start_n = np.arange(len(values), dtype=np.int64)
        start_n[changed_n] = len(values) + (np.cumsum(count) - count)[place_n[changed_n]]
        every = pa.concat_arrays([values, target.cast(values.type)])
        ends = np.concatenate([[0], np.cumsum(count_n)])
        return every.take(pa.array(_spread(start_n, count_n))), ends[offsets]

    def lists(self, column: pa.Array) -> pa.Array:
        """list<string> of clean tags after the rules, each once a row, in the order in which they come."""
        offsets = column.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        values, ends = self.applied(column.flatten(), offsets - offsets[0])
        row_n = np.repeat(np.arange(len(column)), np.diff(ends))
        encoded = pc.dictionary_encode(values)
        code_n = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        _, first = np.unique(row_n * max(len(encoded.dictionary), 1) + code_n, return_index=True)
        first.sort()
        ends = np.zeros(len(column) + 1, dtype=np.int32)
        np.cumsum(np.bincount(row_n[first], minlength=len(column)), out=ends[1:])
        return pa.ListArray.from_arrays(pa.array(ends), values.take(pa.array(first)))


class TagIndex:
    """Which tags of a vocabulary the texts of a store are.

    Args:
        names: pa.StringArray ``[T]``, the vocabulary.
        rules: applied to the texts; None: each text is its own tag.
    """

    def __init__(self, names: pa.Array, rules: TagRules | None = None) -> None:
        self.names = names
        self.rules = rules

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        return {"names": self.names, "rules": self.rules}  # what is made of them is larger

    def ids(self, values: pa.Array) -> tuple[np.ndarray | None, np.ndarray]:
        """Of flat texts the (place of the text, tag id) pairs, int64, by place. Unknown texts have none, and
        a text has one for each tag that it implies. Of two texts of a row both may give a tag. No places:
        each text has one."""
        if self._by_rules is None:
            id_n = lookup(values, self.names)
            known_n = id_n >= 0
            return (None, id_n) if known_n.all() else (np.flatnonzero(known_n), id_n[known_n])
        texts, start, count, target = self._by_rules
        text_n = lookup(values, texts)
        place = np.flatnonzero(text_n >= 0)
        text_n = text_n[place]
        count_n = count[text_n]
        return np.repeat(place, count_n), target[_spread(start[text_n], count_n)]

    @cached_property
    def _by_rules(self) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray] | None:
        """Every text that means tags of the vocabulary or that rules name, where its tags begin, how many
        there are, and all of their ids."""
        canonical = None if self.rules is None else CanonicalTags(self.rules)
        if not canonical:
            return None
        ruled = pa.array(canonical.texts, pa.string())
        sizes = np.array([len(tags) for tags in canonical.targets], dtype=np.int64)
        flat = pa.array([tag for tags in canonical.targets for tag in tags], pa.string())
        id_n = lookup(flat, self.names)
        row_n = np.repeat(np.arange(len(ruled)), sizes)[id_n >= 0]
        plain = pc.invert(pc.is_in(self.names, value_set=ruled)).to_numpy(zero_copy_only=False)
        plain = np.flatnonzero(plain)
        texts = pa.concat_arrays([ruled, self.names.take(pa.array(plain)).cast(pa.string())])
        count = np.concatenate(
            [np.bincount(row_n, minlength=len(ruled)), np.ones(len(plain), np.int64)]
        )
        target = np.concatenate([id_n[id_n >= 0], plain])
        return texts, np.cumsum(count) - count, count.astype(np.int64), target


def encode_tags(
    tag_values: pa.Array, tag_offsets: np.ndarray, names: pa.Array | TagIndex
) -> tuple[np.ndarray, np.ndarray]:
    """Known tags as ids + offsets, each once a row and in rising order; unknown ones are left out.

    Args:
        names: a vocabulary alone, or one with rules.
    """
    index = names if isinstance(names, TagIndex) else TagIndex(names)
    place, ids = index.ids(tag_values)
    row = np.repeat(np.arange(len(tag_offsets) - 1), np.diff(tag_offsets))
    key = np.unique((row if place is None else row[place]) * max(len(index), 1) + ids)
    row, ids = np.divmod(key, max(len(index), 1))
    offsets = np.zeros(len(tag_offsets), dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(tag_offsets) - 1), out=offsets[1:])
    return ids, offsets


def _spread(start_n: np.ndarray, count_n: np.ndarray) -> np.ndarray:
    """``start, start + 1, …`` as many as each counts, one after another."""
    ends = np.cumsum(count_n)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - count_n - start_n, count_n)
