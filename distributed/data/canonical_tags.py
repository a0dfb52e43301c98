"""Tags of images by rules: spellings become tags, implied tags are added, blocked ones go.

This is the one place where rules meet the tags of a store, as texts for a survey and as ids for a reader.
Shapes: n texts of some rows, m (row, tag) pairs, B rows, C different texts, T tags of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.tag_values import TagCodes, lookup, places, sorted_unique
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


@dataclass(frozen=True)
class Meanings:
    """Which tags each of C texts stands for.

    Args:
        count_C: how many.
        target: int64 tag ids: those of the first text, then those of the next.
        num_tags: ids are below it.
    """

    count_C: np.ndarray
    target: np.ndarray
    num_tags: int

    @cached_property
    def _start_C(self) -> np.ndarray:
        start_C: np.ndarray = np.cumsum(self.count_C) - self.count_C
        return start_C

    @cached_property
    def _first_C(self) -> np.ndarray:
        """The first tag, raised by ``num_tags`` where there are more, -1 where there is none; last of all
        -1, for texts that are none of these."""
        first_C = np.full(len(self.count_C) + 1, -1, dtype=np.int64)
        has = np.flatnonzero(self.count_C)
        first_C[has] = self.target[self._start_C[has]]
        first_C[:-1][self.count_C > 1] += self.num_tags
        return first_C

    def pairs(self, text_n: np.ndarray, row_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (row, tag) pairs of texts in rows. A pair may be there twice; those of the second and
        further tags of a text stand behind all others.

        Args:
            text_n: places of texts, -1 for one that means nothing.
        """
        id_n = self._first_C[text_n]
        several = np.flatnonzero(id_n >= self.num_tags)
        if not len(several):
            known_n = id_n >= 0
            return (row_n, id_n) if known_n.all() else (row_n[known_n], id_n[known_n])
        id_n[several] -= self.num_tags
        text_s = text_n[several]
        more_s = self.count_C[text_s] - 1
        more = self.target[_spread(self._start_C[text_s] + 1, more_s)]
        more_row = np.repeat(row_n[several], more_s)
        known_n = id_n >= 0
        if not known_n.all():
            row_n, id_n = row_n[known_n], id_n[known_n]
        return np.concatenate([row_n, more_row]), np.concatenate([id_n, more])


class CanonicalTags:
    """What the rules make of the texts of a store.

    Args:
        rules: only other spellings, implications, blocked and split tags count here.
        keep_split: see ``TagRules.applied``.
    """

    def __init__(self, rules: TagRules, keep_split: bool = False) -> None:
        self.rules = rules
        self.texts = [*{**rules.aliases, **rules.implied, **dict.fromkeys(rules.blocked)}]
        self.targets = [rules.applied([text], keep_split) for text in self.texts]

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
        place_n = places(pc.index_in(values, value_set=text))
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

    def pairs(self, codes: TagCodes, row_n: np.ndarray) -> RuledPairs:
        """The tags of rows after the rules.

        Args:
            row_n: rows of the texts.
        """
        names, meanings = self._meanings(codes.names)
        if meanings is None:
            known_n = codes.code_n >= 0
            pairs = (row_n, codes.code_n)
            return RuledPairs(names, *(pairs if known_n.all() else (x[known_n] for x in pairs)))
        found = RuledPairs(names, *meanings.pairs(codes.code_n, row_n))
        return replace(found, undecided=self._undecided(codes, row_n, found))

    def _meanings(self, names: pa.Array) -> tuple[pa.Array, Meanings | None]:
        """What each of some different texts stands for, by places in them and in those that come to them.
        None: each for itself."""
        if not self:
            return names, None
        text, target, count = self._arrays
        place_C = places(pc.index_in(names, value_set=text.cast(names.type)))
        changed = np.flatnonzero(place_C >= 0)
        if not len(changed):
            return names, None
        place = place_C[changed]
        count_C = np.ones(len(names), dtype=np.int64)
        count_C[changed] = count[place]
        start_C = np.cumsum(count_C) - count_C
        # Most stand for themselves; of the others alone names are looked up.
        id_m = np.repeat(np.arange(len(names)), count_C)
        wanted = target.take(pa.array(_spread((np.cumsum(count) - count)[place], count[place])))
        wanted = pc.dictionary_encode(wanted.cast(names.type))
        id_W = places(pc.index_in(wanted.dictionary, value_set=names))
        come = np.flatnonzero(id_W < 0)
        id_W[come] = len(names) + np.arange(len(come))
        id_m[_spread(start_C[changed], count[place])] = id_W[places(wanted.indices)]
        names = pa.concat_arrays([names, wanted.dictionary.take(pa.array(come))])
        return names, Meanings(count_C, id_m, len(names))

    def _undecided(
        self, codes: TagCodes, row_n: np.ndarray, found: RuledPairs
    ) -> dict[str, np.ndarray]:
        """See ``RuledPairs``."""
        split = self.rules.split
        if not split:
            return {}
        number = {tag: place for place, tag in enumerate(split)}
        spelled = {name: number[tag] for name, tag in self.rules.aliases.items() if tag in number}
        whole = _meanings(codes.names, [*number.items(), *spelled.items()], len(split))
        row_s, number_s = whole.pairs(codes.code_n, row_n)
        if not len(row_s):
            return {}
        parts = [(part, place) for place, some in enumerate(split.values()) for part in some]
        part = _meanings(found.names, parts, len(split))
        row_p, number_p = part.pairs(found.id_m, found.row_m)
        key = np.setdiff1d(row_s * len(split) + number_s, row_p * len(split) + number_p)
        row, place = np.divmod(key, len(split))
        return {tag: row[place == number[tag]] for tag in split if (place == number[tag]).any()}

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


@dataclass(frozen=True)
class RuledPairs:
    """Tags of rows after the rules.

    Attributes:
        names: the tags, and texts that no row has after the rules.
        row_m, id_m: pairs of a row and a place in ``names``; one may be there twice.
        undecided: tag that is split to the rows that have it and none of its parts.
    """

    names: pa.Array
    row_m: np.ndarray
    id_m: np.ndarray
    undecided: dict[str, np.ndarray] = field(default_factory=dict)


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

    def pairs(self, values: pa.Array, row_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of flat texts and their rows the (row, tag id) pairs, int64. Unknown texts have none, and a text
        has one for each tag that it implies. Two texts of a row may give the same."""
        if self._by_rules is None:
            id_n = lookup(values, self.names)
            known_n = id_n >= 0
            return (row_n, id_n) if known_n.all() else (row_n[known_n], id_n[known_n])
        texts, meanings = self._by_rules
        return meanings.pairs(lookup(values, texts), row_n)

    @cached_property
    def _by_rules(self) -> tuple[pa.Array, Meanings] | None:
        """Every text that means tags of the vocabulary or that rules name, and what they mean."""
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
        ).astype(np.int64)
        return texts, Meanings(count, np.concatenate([id_n[id_n >= 0], plain]), len(self.names))


def encode_tags(
    tag_values: pa.Array, tag_offsets: np.ndarray, names: pa.Array | TagIndex
) -> tuple[np.ndarray, np.ndarray]:
    """Known tags as ids + offsets, each once a row and in rising order; unknown ones are left out.

    Args:
        names: a vocabulary alone, or one with rules.
    """
    index = names if isinstance(names, TagIndex) else TagIndex(names)
    row_n = np.repeat(np.arange(len(tag_offsets) - 1), np.diff(tag_offsets))
    row_m, id_m = index.pairs(tag_values, row_n)
    row, ids = np.divmod(sorted_unique(row_m * max(len(index), 1) + id_m), max(len(index), 1))
    offsets = np.zeros(len(tag_offsets), dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=len(tag_offsets) - 1), out=offsets[1:])
    return ids, offsets


def _meanings(names: pa.Array, of: Sequence[tuple[str, int]], numbers: int) -> Meanings:
    """What each of some different names stands for, given the numbers of texts; most have none."""
    texts = pa.array([text for text, _ in of], names.type)
    code = places(pc.index_in(texts, value_set=names))
    number = np.array([number for _, number in of], dtype=np.int64)[code >= 0]
    code = code[code >= 0]
    count_C = np.bincount(code, minlength=len(names)).astype(np.int64)
    return Meanings(count_C, number[np.argsort(code, kind="stable")], numbers)


def _spread(start_n: np.ndarray, count_n: np.ndarray) -> np.ndarray:
    """``start, start + 1, …`` as many as each counts, one after another."""
    ends = np.cumsum(count_n)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - count_n - start_n, count_n)
