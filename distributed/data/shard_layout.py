"""How the rows of an epoch are divided among ranks. Checkpoints keep it, so it needs no reader of rows."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ShardLayout:
    """How the rows of an epoch are divided from ``first_step`` on."""

    first_step: int
    world: int
    resident: bool
    shuffle_rows: int

    def same_way(self, other: ShardLayout) -> bool:
        return replace(self, first_step=0) == replace(other, first_step=0)
