"""One part file of an annotated store: some units of a store in, their tags out.

Shapes: B rows, k tags an image at most, T tags.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.bundles.open import open_annotator
from distributed.data.check_rows import BadRow, bad_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import RowGroupSlice, feature_matrix, one_chunk, read_table
from distributed.data.survey import OnBadRow
from distributed.storage.files import write_bytes
from distributed.storage.folder import Folder
from drel_core.annotators.base import (
    UNSCORABLE,
    TrainedAnnotator,
    choose,
    decision_of,
    row_by_row,
    unseen_of,
)
from drel_core.decision.decider import Chosen, Decide
from drel_core.errors import InputError
from drel_core.scoring.tag_search import Search

_BATCH = 1024
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "tags": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "model": pa.string(),
    }
)


MARKED = SCHEMA.insert(3, pa.field("unseen", pa.list_(pa.bool_())))
"""Of a model with tags that it knows by name alone: which of the tags these are."""


@dataclass(frozen=True)
class AnnotatePlan:
    """Everything that decides what a part file holds.

    Attributes:
        bundle: address of the model.
        out: folder or s3:// prefix of the part files.
        k: most tags of an image.
        threshold: least score of a tag, or None.
        dims: D of each features column.
        decide, precision: how tags are chosen, see ``decision_of``.
        search: how the best of many tags are found.
    """

    bundle: str
    out: str
    columns: Columns
    dims: tuple[int, ...]
    k: int
    threshold: float | None
    decide: Decide
    precision: float | None
    on_bad_row: OnBadRow
    search: Search = "auto"

    def part(self, number: int) -> str:
        return Folder.of(self.out).file(part_name(number))


def part_name(number: int) -> str:
    return f"part-{number:07d}.parquet"


class PartAnnotator:
    """A model that writes part files; loaded once a worker."""

    def __init__(self, plan: AnnotatePlan, annotator: TrainedAnnotator | None = None) -> None:
        self.plan = plan
        self.annotator = annotator or open_annotator(plan.bundle, plan.search)
        self.names = pa.array(self.annotator.vocabulary.names, pa.string())
        self.version = self.annotator.info.version
        self.decision = decision_of(self.annotator, plan.decide, plan.precision, plan.bundle)
        self.unseen_T = unseen_of(self.annotator)
        self.schema = SCHEMA if self.unseen_T is None else MARKED

    def write(self, number: int, units: list[RowGroupSlice]) -> dict[str, Any]:
        """Annotate units and write their file; gives rows, and the bad rows that were left out.

        Raises:
            InputError: a unit cannot be read, or a row is bad and may not be left out.
        """
        tables, bad = [], []
        for unit in units:
            table, left_out = self.annotate(unit)
            tables.append(table)
            bad += left_out
        whole = pa.concat_tables(tables)
        buffer = io.BytesIO()
        pq.write_table(whole, buffer, compression="zstd", write_page_checksum=True)
        write_bytes(self.plan.part(number), buffer.getvalue())
        return {"rows": len(whole), "bad": bad}

    def annotate(self, unit: RowGroupSlice) -> tuple[pa.Table, list[tuple[str, int, str]]]:
        """The unit's rows with their tags, and (file, row, reason) of rows left out."""
        plan, columns = self.plan, self.plan.columns
        table = read_table(unit, [columns.image_id, *columns.blocks])
        image_id, *stored = (
            one_chunk(table.column(name)) for name in (columns.image_id, *columns.blocks)
        )
        bad, features = bad_rows(image_id, stored, unit, columns, plan.dims)
        self._refuse(bad, unit)
        row_B = np.arange(unit.file_row, unit.file_row + len(table))
        if bad:
            keep_B = ~np.isin(row_B, [row for row, _ in bad])
            image_id = image_id.filter(pa.array(keep_B))
            features = [column.filter(pa.array(keep_B)) for column in features]
            row_B = row_B[keep_B]
        features_BD = torch.from_numpy(feature_matrix(features).copy())
        whole, unscorable_B = self._chosen(features_BD)
        answered = self._table(image_id.cast(pa.string()), whole)
        if unscorable_B.any():
            bad += [(int(row), UNSCORABLE) for row in row_B[unscorable_B]]
            self._refuse(bad, unit)
            answered = answered.filter(pa.array(~unscorable_B))
        return answered, [(unit.path, *row) for row in bad]

    def _refuse(self, bad: list[BadRow], unit: RowGroupSlice) -> None:
        """Raises:
        InputError: there are bad rows, and they may not be left out.
        """
        if not bad or self.plan.on_bad_row == "skip":
            return
        row, reason = bad[0]
        others = f" (and {len(bad) - 1} more in this unit)" if len(bad) > 1 else ""
        raise InputError(
            f"{unit.path}: row {row}: {reason}{others}; mend the file, or leave bad rows out with "
            "--on_bad_row skip"
        )

    def _chosen(self, features_BD: torch.Tensor) -> tuple[list[Chosen], np.ndarray]:
        """The tags of rows batch by batch, and bool ``[B]``: the rows that have no scores."""
        parts = [
            row_by_row(
                lambda part_BD: choose(self.annotator, part_BD, self.plan.k, self.decision),
                part.float(),
            )
            for part in features_BD.split(_BATCH)
        ]
        return [found for found, _ in parts], torch.cat([bad_B for _, bad_B in parts]).numpy()

    def _table(self, image_id: pa.Array, found: list[Chosen]) -> pa.Table:
        rows = len(image_id)
        if not rows:
            return self.schema.empty_table()
        keeps = [part.ids >= 0 for part in found]  # by a threshold or by rules some have fewer tags
        if self.plan.threshold is not None:
            keeps = [
                keep_Bk & (part.probability_Bk >= self.plan.threshold)
                for keep_Bk, part in zip(keeps, found, strict=True)
            ]
        parts_and_keeps = [*zip(found, keeps, strict=True)]
        score_n = torch.cat([part.probability_Bk[keep_Bk] for part, keep_Bk in parts_and_keeps])
        tag_n = torch.cat([part.tag_Bk[keep_Bk] for part, keep_Bk in parts_and_keeps])
        offsets = np.zeros(rows + 1, dtype=np.int32)
        np.cumsum(torch.cat([keep_Bk.sum(1) for keep_Bk in keeps]).numpy(), out=offsets[1:])
        parts = [self.names.take(pa.array(tag_n.numpy())), pa.array(score_n.numpy())]
        if self.unseen_T is not None:
            parts.append(pa.array(self.unseen_T[tag_n.numpy()]))
        return pa.table(
            [
                image_id,
                *(pa.ListArray.from_arrays(pa.array(offsets), part) for part in parts),
                pa.repeat(pa.scalar(self.version, pa.string()), rows),
            ],
            schema=self.schema,
        )
