"""What a source of images offers: how many rows, and any range of them as a table.

A range must read the same at any time and in any process, so that ingestion can be cut into chunks,
spread over a cluster and taken up again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

IMAGE_ID, FEATURES, IMAGE, TAGS, SPLIT = "image_id", "features", "image", "tags", "split"
REJECTED_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("where", pa.string()), ("reason", pa.string())]
)
"""``where`` names file and line or row; ``image_id`` may be null."""
Rejection = tuple[str | None, str, str]
"""image_id, where, reason"""


@dataclass(frozen=True)
class Chunk:
    """Rows of a source.

    Attributes:
        table: ``image_id`` string, ``tags`` list<string>, ``split`` string ("train", "test", or null
            where the input does not say), and ``features`` fixed_size_list<float16|float32>[D] (or
            several such columns of other names), or
            ``image`` binary (encoded picture), or ``path`` string (where the encoded picture lies).
        rejected: rows of the range that are not in ``table``, see ``REJECTED_SCHEMA``.
    """

    table: pa.Table
    rejected: pa.Table


class Source(Protocol):
    """Cheap to pickle: it travels to every worker."""

    @property
    def num_rows(self) -> int:
        """Rows, including those that ``read`` will reject."""
        ...

    def read(self, start: int, rows: int) -> Chunk:
        """Rows ``[start, start + rows)``.

        Raises:
            InputError: the input as a whole is wrong (not merely a row of it).
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the source: kind, addresses, what was chosen."""
        ...


def rejected(rows: list[Rejection]) -> pa.Table:
    """A table of (image_id, where, reason)."""
    columns = [[row[place] for row in rows] for place in range(3)]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTED_SCHEMA)


def by_reason(gone: pa.Table) -> list[tuple[int, dict[str, Any]]]:
    """Rejected rows by their reasons, numbers in these apart: how many, and the first; most first."""
    short = pc.replace_substring_regex(gone.column("reason"), r"[0-9]+", "N")
    grouped = gone.append_column("kind", short).group_by("kind", use_threads=False)
    names = gone.column_names
    found = grouped.aggregate([("reason", "count"), *((name, "first") for name in names)])
    return [
        (row["reason_count"], {name: row[f"{name}_first"] for name in names})
        for row in sorted(found.to_pylist(), key=lambda row: -row["reason_count"])
    ]
