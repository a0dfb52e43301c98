"""Names and types of the columns of a feature store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distributed.data.plain_types import is_list
from drel_core.errors import InputError

_FLOATS = (pa.float16(), pa.float32(), pa.float64())


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the store's columns."""

    image_id: str = "image_id"
    """name of the column of ids: string, not null, different for every row of a store"""
    features: str = "features"
    """name of the column of features: fixed_size_list of D float16, float32 or float64 (or list, all rows \
    of one length); a,b: several columns, one after another in this order. A job that is given a model \
    reads the columns that the model was trained on, unless this names others"""
    tags: str = "tags"
    """name of the column of tags: list of string"""
    image: str = "image"
    """name of the column of encoded pictures (binary), for the methods cnn-*"""
    path: str = "path"
    """name of the column that says where the pictures lie (string), for the methods cnn-* where there is no \
    image column"""

    def __post_init__(self) -> None:
        names = self.blocks
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(
                f"columns.features is {self.features!r}; it must be a name, or different names with "
                "commas between them"
            )

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the features columns, in the order in which they are concatenated."""
        return tuple(name.strip() for name in self.features.split(","))

    def said_of(self, block: int) -> str:
        """What messages about a features column begin with: its name, where there are several."""
        return f"column {self.blocks[block]!r}: " if len(self.blocks) > 1 else ""

    def check(self, name: str, column: str, kind: pa.DataType) -> tuple[int | None, np.dtype]:
        """D (None where the type does not tell) and the element type of a features column.

        Raises:
            InputError: of a type that features cannot have.
        """
        if not is_list(kind) or kind.value_type not in _FLOATS:
            raise InputError(
                f"{name}: column {column!r} is {kind}; "
                "it must be fixed_size_list<float16|float32|float64>[D]"
            )
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        return dim, np.dtype(kind.value_type.to_pandas_dtype())

    def decode(self, features: pa.Array) -> tuple[pa.Array, dict[int, str]]:
        """Lists of D numbers, null where there are none, and for some of the nulls the reason."""
        return features, {}

    @property
    def unit_rows(self) -> int:
        """Most rows that are read at a time."""
        return 65536


def sibling_option(option: str, name: str) -> str:
    """``--data.NAME`` of a store that is ``--data.train`` or feedback; ``--NAME`` of ``--data``."""
    return f"--data.{name}" if option.startswith(("--data.", "--from_feedback")) else f"--{name}"
