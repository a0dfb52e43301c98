"""Columns inside columns (``image.bytes``, ``objects.category``), and names of classes in a schema.

Hugging Face ``datasets`` writes a picture as a struct of bytes and path, a class as a number, and what the
numbers mean into the schema's metadata.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.plain_types import is_list, plain, plain_type
from distributed.ingest.sources.table_facts import one_array


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The plain type of a column; None where there is no such column.

    ``a.b`` is the field b of the struct a. A field of a list of structs is a list.
    """
    if name in schema.names:
        return plain_type(schema.field(name).type)
    top, dot, rest = name.partition(".")
    if not dot or top not in schema.names:
        return None
    kind = schema.field(top).type
    for part in rest.split("."):
        inner = kind.value_type if is_list(kind) else kind
        if not pa.types.is_struct(inner) or inner.get_field_index(part) < 0:
            return None
        found = inner.field(part).type
        kind = pa.large_list(found) if is_list(kind) else found
    return plain_type(kind)


def column_of(table: pa.Table, name: str) -> pa.Array:
    """The values of ``type_of``'s column."""
    if name in table.column_names:
        return plain(one_array(table.column(name)))
    top, _, rest = name.partition(".")
    column = one_array(table.column(top))
    for part in rest.split("."):
        if not is_list(column.type):
            column = pc.struct_field(column, part)
            continue
        offsets = [0, *pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0)).to_pylist()]
        field = pc.struct_field(column.flatten(), part)
        column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), field)
    return plain(column)


def class_names(schema: pa.Schema, name: str) -> tuple[str, ...]:
    """What the numbers of a column mean, where ``datasets`` wrote that down; else empty."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = _class_label(features, name.split("."))
    except (KeyError, ValueError, TypeError):
        return ()
    return tuple(str(one) for one in found) if found else ()


def _class_label(feature: Any, path: list[str]) -> list[str] | None:
    """Names of a ClassLabel at a path, through lists of every version of ``datasets``."""
    if isinstance(feature, list):
        return _class_label(feature[0], path)
    if not isinstance(feature, dict):
        return None
    if isinstance(feature.get("_type"), str) and "feature" in feature:
        return _class_label(feature["feature"], path)
    if path:
        return _class_label(feature.get(path[0]), path[1:])
    return feature.get("names") if feature.get("_type") == "ClassLabel" else None
