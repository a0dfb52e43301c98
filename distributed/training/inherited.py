"""What a model takes over from the one that it came from, beside towers and table."""

from __future__ import annotations

from dataclasses import dataclass

from drel_core.decision.kernel import KernelHead
from drel_core.decision.rule import DecisionRule


@dataclass(frozen=True)
class Inherited:
    """How the older model's scores became words.

    Attributes:
        rule: with a place for every new tag; None where it had none.
        kernel: of the old tags; None where it had none.
        fresh: training rows that the older model has not seen; they come first.
    """

    rule: DecisionRule | None
    kernel: KernelHead | None
    fresh: int
