"""Tags in Arrow columns: in the one form, and as places in a vocabulary. nnz (image, tag) pairs."""

from __future__ import annotations

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


def lookup(tag_values: pa.Array, names: pa.Array) -> np.ndarray:
    """int64 ids of flat tag strings by a hash join; -1 for tags not in ``names``.

    A tag that is not there as it stands is sought in its clean form. In this order, because vocabularies
    that were made earlier may hold other forms.
    """
    place = pc.index_in(tag_values, value_set=names)
    id_n = pc.fill_null(place, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    unknown = np.flatnonzero(id_n < 0)
    if len(unknown):
        texts = tag_values.take(pa.array(unknown))
        cleaned = clean_values(texts)
        if cleaned is not texts:
            place = pc.fill_null(pc.index_in(cleaned, value_set=names), -1)
            id_n[unknown] = place.to_numpy(zero_copy_only=False)
    return id_n
