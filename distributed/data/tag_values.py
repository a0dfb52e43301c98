"""Tags in Arrow columns: in the one form, and as places in a vocabulary. nnz (image, tag) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drel_core.tag_text import TRIMMED


def clean_texts(values: pa.Array) -> pa.Array:
    """``drel_core.tag_text.clean_tag`` of each text; nulls stay."""
    return pc.utf8_trim(pc.utf8_normalize(values, form="NFC"), characters=TRIMMED)


def clean_values(values: pa.Array) -> pa.Array:
    """The same where few texts occur many times; the array itself where all are clean."""
    encoded = pc.dictionary_encode(values)
    cleaned = clean_texts(encoded.dictionary)
    return values if cleaned.equals(encoded.dictionary) else cleaned.take(encoded.indices)


@dataclass(frozen=True)
class TagCodes:
    """Flat tags and what is different among them.

    Attributes:
        values: clean texts, nulls among them; the array itself where all are clean.
        names: ``[C]``, the different ones.
        code_n: int64, places in ``names``; -1 of a null.
    """

    values: pa.Array
    names: pa.Array
    code_n: np.ndarray

    @property
    def is_empty_n(self) -> np.ndarray:
        """bool: nulls and empty texts."""
        empty = pc.index(self.names, pa.scalar("", self.names.type)).as_py()
        empty_n: np.ndarray = self.code_n < 0
        return empty_n if empty < 0 else empty_n | (self.code_n == empty)

    @staticmethod
    def of(values: pa.Array) -> TagCodes:
        encoded = pc.dictionary_encode(values)
        names, cleaned = encoded.dictionary, clean_texts(encoded.dictionary)
        code_n = places(encoded.indices)
        if not cleaned.equals(names):
            values = cleaned.take(encoded.indices)
        again = pc.dictionary_encode(cleaned)  # of two texts one may be the other's clean form
        if len(again.dictionary) < len(cleaned):
            code_n = np.append(places(again.indices), -1)[code_n]
        return TagCodes(values, again.dictionary, code_n)


def places(index: pa.Array) -> np.ndarray:
    """int64; -1 of a null."""
    found: np.ndarray = pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def sorted_unique(key_n: np.ndarray) -> np.ndarray:
    """``np.unique`` of whole numbers that are nearly in order, as of (row, tag) pairs: fifty times as fast
    (numpy 2.4 hashes them first)."""
    key_n = np.sort(key_n, kind="stable")
    first_n = np.ones(len(key_n), dtype=bool)
    np.not_equal(key_n[1:], key_n[:-1], out=first_n[1:])
    return key_n if first_n.all() else key_n[first_n]


def lookup(tag_values: pa.Array, names: pa.Array) -> np.ndarray:
    """int64 ids of flat tag strings by a hash join; -1 for tags not in ``names``.

    A tag that is not there as it stands is sought in its clean form. In this order, because vocabularies
    that were made earlier may hold other forms.
    """
    id_n = places(pc.index_in(tag_values, value_set=names))
    unknown = np.flatnonzero(id_n < 0)
    if len(unknown):
        texts = tag_values.take(pa.array(unknown))
        cleaned = clean_values(texts)
        if cleaned is not texts:
            id_n[unknown] = places(pc.index_in(cleaned, value_set=names))
    return id_n
