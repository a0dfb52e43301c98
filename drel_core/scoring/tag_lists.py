"""Tag lists of images as values and offsets (CSR): no Python list per image.

Shapes: N rows (images), T tags, nnz = all (image, tag) pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TagLists:
    """Row ``i`` holds the tag ids ``values[offsets[i]:offsets[i + 1]]``.

    Args:
        values: int64 ``[nnz]`` tag ids.
        offsets: int64 ``[N + 1]``, starting at 0 and never decreasing.

    Raises:
        ValueError: the two do not describe a CSR matrix.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype != torch.int64 or self.offsets.dtype != torch.int64:
            raise ValueError(
                f"tag lists hold int64; got values {self.values.dtype}, offsets {self.offsets.dtype}"
            )
        if self.values.dim() != 1 or self.offsets.dim() != 1 or len(self.offsets) < 1:
            raise ValueError("values must be [nnz] and offsets [rows + 1]")

    def check(self, num_tags: int) -> None:
        """Check lists that come from a file: sparse products read wherever an id or an offset points.

        Raises:
            ValueError: an id is no tag, or offsets do not rise from 0 to the number of ids.
        """
        whole = self.offsets[0] == 0 and self.offsets[-1] == len(self.values)
        if not whole or bool((self.counts < 0).any()):
            raise ValueError("offsets do not rise from 0 to the number of ids")
        if bool(((self.values < 0) | (self.values >= num_tags)).any()):
            raise ValueError(f"an id is not one of {num_tags} tags")

    @staticmethod
    def from_lists(rows: Iterable[Sequence[int]]) -> TagLists:
        """Build from Python lists. For tests and small inputs only."""
        kept = [list(row) for row in rows]
        counts = torch.tensor([0, *(len(row) for row in kept)], dtype=torch.int64)
        values = torch.tensor([tag for row in kept for tag in row], dtype=torch.int64)
        return TagLists(values, counts.cumsum(0))

    @staticmethod
    def cat(parts: Sequence[TagLists]) -> TagLists:
        """Rows of all parts, in order. An empty sequence gives zero rows."""
        if not parts:
            return TagLists(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        counts = torch.cat([part.counts for part in parts])
        offsets = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return TagLists(torch.cat([part.values for part in parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """int64 ``[N]``: tags of each row."""
        return self.offsets[1:] - self.offsets[:-1]

    def keys(self, num_tags: int) -> Tensor:
        """int64: ``row * T + tag`` of every pair, by which pairs of two sides are compared."""
        return self.row_ids() * num_tags + self.values

    def row_ids(self) -> Tensor:
        """int64 ``[nnz]``: the row of each value."""
        rows = torch.arange(len(self), device=self.values.device)
        return torch.repeat_interleave(rows, self.counts, output_size=len(self.values))

    def select(self, index: Tensor) -> TagLists:
        """The rows in ``index`` (int64 ``[M]``), in that order."""
        counts = self.counts[index]
        offsets = torch.zeros(len(index) + 1, dtype=torch.int64, device=counts.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        total = int(offsets[-1])
        # Position of each value = start of its source row + its place within the row.
        shift = torch.repeat_interleave(
            self.offsets[index] - offsets[:-1], counts, output_size=total
        )
        return TagLists(self.values[torch.arange(total, device=shift.device) + shift], offsets)

    def __getitem__(self, rows: slice) -> TagLists:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("tag lists are sliced with step 1; use select() for other orders")
        stop = max(start, stop)
        offsets = self.offsets[start : stop + 1]
        return TagLists(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])

    def mask(self, num_tags: int) -> Tensor:
        """bool ``[N, num_tags]``: True where the row has the tag."""
        mask_NT = torch.zeros(len(self), num_tags, dtype=torch.bool, device=self.values.device)
        mask_NT[self.row_ids(), self.values] = True
        return mask_NT

    def to(self, device: torch.device | str) -> TagLists:
        return TagLists(self.values.to(device), self.offsets.to(device))

    def tolist(self) -> list[list[int]]:
        """Python lists. For tests and printing only."""
        return [row.tolist() for row in self.values.split(self.counts.tolist())]
