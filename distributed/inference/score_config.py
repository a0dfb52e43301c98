"""What jobs.evaluate and jobs.report share: which model to score, on what, and how its tags are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from distributed.data.columns import Columns
from distributed.data.survey import OnBadRow
from drel_core.decision.decider import Decide, check_precision
from drel_core.scoring.tag_search import Search


@dataclass(kw_only=True)
class ScoreConfig:
    """Which model to score, on what, and how its tags are chosen."""

    model: str
    """model bundle, training folder, or folder of versions with `latest`"""
    data: str
    """store to score on, of features (methods cnn-*: of pictures): a Parquet file or folder"""
    k: int = 5
    """tags predicted for each image"""
    decide: Decide = "top"
    """which decision is shown first: top (the most probable tags), macro (those that maximise expected \
    macro F1) or threshold (all that pass their tag's cut); the figures of the others are beside it"""
    precision: float | None = None
    """with decide threshold, the wanted share of said tags that are right, above 0, at most 1"""
    search: Search = "auto"
    """how the best of many tags are found: by codes from 32,768 tags on where they find 99.9% of them \
    (auto), or by scoring all (exact)"""
    columns: Columns = field(default_factory=Columns)
    """names of the store's columns"""
    on_bad_row: OnBadRow = "fail"
    """fail: a bad row ends the run; skip: it is left out and counted"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; it must be 1 or more")
        check_precision(self.decide, self.precision)
