"""Arrow columns as the few plain types that this project works with.

The same values come in many types: extension types (which a process sees only where the module that
registers them is imported), dictionaries (pandas categories), views, tensors of several dimensions. What a
file holds must not depend on any of it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.storage.files import one_line
from drel_core.errors import InputError


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is read.

    An extension type is its storage, a dictionary its values, a view the large type. Lists of lists of
    numbers (matrices) are lists of numbers. A tensor whose shape varies (of Ray Data: data and shape) is
    its data.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if _is_tensor(kind):
        return plain_type(kind.field("data").type)
    if not _is_any_list(kind):
        return kind
    inner = plain_type(kind.value_type)
    fixed = pa.types.is_fixed_size_list(kind)
    if is_list(inner) and is_number(inner.value_type):
        if fixed and pa.types.is_fixed_size_list(inner):
            return pa.list_(inner.value_type, kind.list_size * inner.list_size)
        return pa.large_list(inner.value_type)
    if inner.equals(kind.value_type) and is_list(kind):
        return kind
    return pa.list_(inner, kind.list_size) if fixed else pa.large_list(inner)


def plain(array: pa.Array) -> pa.Array:
    """An array in its ``plain_type``."""
    kind, wanted = array.type, plain_type(array.type)
    if wanted.equals(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if _is_tensor(kind):
        return plain(pc.struct_field(array, "data"))
    if not _is_any_list(kind):
        return array.cast(wanted)
    # Not by a cast: of lists that are views Arrow 26 makes wrong ones.
    null_B = array.is_null().to_numpy(zero_copy_only=False)
    mask = pa.array(null_B) if null_B.any() else None
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        values = plain(array.values.slice(array.offset * size, len(array) * size))
        offset_B = np.arange(len(array) + 1, dtype=np.int64) * size
    else:
        values = plain(array.flatten())
        offset_B = np.zeros(len(array) + 1, dtype=np.int64)
        length_B = pc.fill_null(pc.list_value_length(array), 0)
        np.cumsum(length_B.to_numpy(zero_copy_only=False), out=offset_B[1:])
    if is_list(values.type) and is_number(values.type.value_type):
        inner = np.zeros(len(values) + 1, dtype=np.int64)
        length = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        np.cumsum(length, out=inner[1:])
        offset_B = inner[offset_B]
        if pa.types.is_fixed_size_list(wanted):  # flatten() leaves out what lies below a null
            values = values.values.slice(
                values.offset * values.type.list_size, len(values) * values.type.list_size
            )
        else:
            values = values.flatten()
    if pa.types.is_fixed_size_list(wanted):
        return pa.FixedSizeListArray.from_arrays(values, wanted.list_size, mask=mask)
    return pa.LargeListArray.from_arrays(pa.array(offset_B), values, mask=mask)


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in its ``plain_type``."""
    wanted = plain_type(column.type)
    if wanted.equals(column.type):
        return column
    return pa.chunked_array([plain(chunk) for chunk in column.chunks], wanted)


def plain_table(table: pa.Table) -> pa.Table:
    """A table with every column in its ``plain_type``."""
    for place, field in enumerate(table.schema):
        if not plain_type(field.type).equals(field.type):
            table = table.set_column(place, field.name, plain_column(table.column(place)))
    return table


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of ``plain_table``; what it says beside types stays."""
    fields = [pa.field(field.name, plain_type(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _is_any_list(kind: pa.DataType) -> bool:
    return is_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def _is_tensor(kind: pa.DataType) -> bool:
    """How Ray Data stores tensors that differ in shape from row to row."""
    if not pa.types.is_struct(kind) or sorted(field.name for field in kind) != ["data", "shape"]:
        return False
    data, shape = kind.field("data").type, kind.field("shape").type
    return bool(is_list(data) and is_list(shape) and pa.types.is_integer(shape.value_type))


def check_text(column: pa.Array | pa.ChunkedArray, name: str, where: str, first: int) -> None:
    """
    Args:
        where, first: the file, and which of its rows comes first, for messages.

    Raises:
        InputError: the column holds text that is not UTF-8, as Parquet files may.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{where}: rows from {first}: column {name!r} holds text that is not UTF-8 "
            f"({one_line(error)}); write the file again as UTF-8"
        ) from error
