"""Annotating stores of any size: units in, one Parquet file out for each few of them.

A file appears under its name when it is whole, so what was stopped goes on with those missing.
Shapes: B rows, D feature size, k tags an image at most.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch

from distributed.bundles.locate import local_bundle
from distributed.bundles.open import open_annotator
from distributed.data.check_rows import bad_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import (
    FeatureStore,
    RowGroupSlice,
    feature_matrix,
    one_chunk,
    read_table,
)
from distributed.data.survey import OnBadRow
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import MALLOC, start_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.files import resolve, write_bytes
from distributed.storage.folder import Folder
from drel_core.annotators.base import TrainedAnnotator
from drel_core.bundle.format import read_thresholds
from drel_core.errors import InputError

_BATCH = 1024
_FILE_ROWS = 32768
_SAY_SECONDS = 5.0
SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "tags": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "model": pa.string(),
    }
)


@dataclass(frozen=True)
class AnnotatePlan:
    """Everything that decides what a part file holds.

    Attributes:
        bundle: address of the model.
        out: folder or s3:// prefix of the part files.
        k: most tags of an image.
        threshold: least score of a tag, or None.
        per_tag: use the thresholds of the bundle.
    """

    bundle: str
    out: str
    columns: Columns
    image_dim: int
    k: int
    threshold: float | None
    per_tag: bool
    on_bad_row: OnBadRow

    def part(self, number: int) -> str:
        return Folder.of(self.out).file(part_name(number))


def part_name(number: int) -> str:
    return f"part-{number:07d}.parquet"


class PartAnnotator:
    """A model that writes part files; loaded once a worker."""

    def __init__(self, plan: AnnotatePlan, annotator: TrainedAnnotator | None = None) -> None:
        self.plan = plan
        self.annotator = annotator or open_annotator(plan.bundle)
        self.names = pa.array(self.annotator.vocabulary.names, pa.string())
        self.version = self.annotator.info.version
        self.least_T: torch.Tensor | None = None
        if plan.per_tag:
            self.least_T = read_thresholds(local_bundle(plan.bundle))
        elif plan.threshold is not None:
            self.least_T = torch.full((self.annotator.num_tags,), plan.threshold)

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
        table = read_table(unit, [columns.image_id, columns.features])
        image_id, features = (
            one_chunk(table.column(name)) for name in (columns.image_id, columns.features)
        )
        bad, features = bad_rows(image_id, features, unit, columns, plan.image_dim)
        if bad and plan.on_bad_row == "fail":
            row, reason = bad[0]
            others = f" (and {len(bad) - 1} more in this unit)" if len(bad) > 1 else ""
            raise InputError(
                f"{unit.path}: row {row}: {reason}{others}; mend the file, or leave bad rows out with "
                "--on_bad_row skip"
            )
        if bad:
            keep = np.ones(len(table), dtype=bool)
            keep[[row - unit.file_row for row, _ in bad]] = False
            image_id, features = image_id.filter(pa.array(keep)), features.filter(pa.array(keep))
        features_BD = torch.from_numpy(feature_matrix(features).copy())
        scores, tags = [], []
        for part in features_BD.split(_BATCH):
            score_Bk, tag_Bk = self.annotator.annotate(part.float(), plan.k)
            scores.append(score_Bk)
            tags.append(tag_Bk)
        return self._table(image_id.cast(pa.string()), scores, tags), [
            (unit.path, *row) for row in bad
        ]

    def _table(
        self, image_id: pa.Array, scores: list[torch.Tensor], tags: list[torch.Tensor]
    ) -> pa.Table:
        rows = len(image_id)
        if not rows:
            return SCHEMA.empty_table()
        score_Bk, tag_Bk = torch.cat(scores), torch.cat(tags)
        if self.least_T is None:
            count_B = np.full(rows, score_Bk.shape[1])
            score_n, tag_n = score_Bk.flatten(), tag_Bk.flatten()
        else:
            keep_Bk = score_Bk >= self.least_T[tag_Bk]
            count_B = keep_Bk.sum(1).numpy()
            score_n, tag_n = score_Bk[keep_Bk], tag_Bk[keep_Bk]
        offsets = np.zeros(rows + 1, dtype=np.int32)
        np.cumsum(count_B, out=offsets[1:])
        names = self.names.take(pa.array(tag_n.numpy()))
        return pa.table(
            [
                image_id,
                pa.ListArray.from_arrays(pa.array(offsets), names),
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(score_n.numpy())),
                pa.repeat(pa.scalar(self.version, pa.string()), rows),
            ],
            schema=SCHEMA,
        )


def group_units(
    units: Iterable[RowGroupSlice], rows: int = _FILE_ROWS
) -> list[list[RowGroupSlice]]:
    """Neighbouring units that share a part file of at least ``rows`` rows."""
    groups: list[list[RowGroupSlice]] = []
    count = rows
    for unit in units:
        if count >= rows:
            groups.append([])
            count = 0
        groups[-1].append(unit)
        count += unit.rows
    return groups


def run(
    plan: AnnotatePlan, store: FeatureStore, version: str, workers: int, log: Log
) -> dict[str, Any]:
    """Annotate a store into ``plan.out``; what is there from before is kept.

    Returns:
        what ``_done.json`` says: rows, files, seconds, rows_per_second, model, skipped.

    Raises:
        InputError: the store has bad rows, or ``out`` holds something else.
    """
    groups = group_units(store.units)
    text: dict[str, Any] = {
        "model": version,
        "data": store.path,
        "rows": store.num_rows,
        "files": len(groups),
        "units": [len(group) for group in groups],
        "k": plan.k,
        "threshold": plan.threshold,
        "per_tag": plan.per_tag,
        "on_bad_row": plan.on_bad_row,
    }
    done = _take_up(plan.out, text)
    finished = _read(Folder.of(plan.out), "_done.json")
    if finished is not None:
        log(f"{plan.out} is there already: {finished['rows']} rows in {finished['files']} files")
        return finished
    todo = [number for number in range(len(groups)) if part_name(number) not in done]
    if len(todo) < len(groups):
        log(f"{len(groups) - len(todo)} of {len(groups)} files are there already")
    started = said = time.perf_counter()
    total = sum(unit.rows for number in todo for unit in groups[number])
    rows, left_out = 0, []
    steps = _here if store.num_bytes <= INLINE_BYTES else _on_ray
    for answer in steps(plan, groups, todo, workers):
        rows += answer["rows"] + len(answer["bad"])
        left_out += answer["bad"]
        now = time.perf_counter()
        if now - said > _SAY_SECONDS:
            said = now
            rate = rows / (now - started)
            log(
                f"{rows:,} of {total:,} rows  {rate:,.0f} rows/s  left {(total - rows) / rate:,.0f} s"
            )
    for path, row, reason in sorted(left_out)[:20]:
        log(f"left out: {path}: row {row}: {reason}")
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "rows": store.num_rows - len(left_out),
        "files": len(groups),
        "model": version,
        "skipped": len(left_out),
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / max(seconds, 1e-9), 1),
    }
    if len(todo) < len(groups):
        result["rows"] = _rows_in(plan.out)
        result["skipped"] = store.num_rows - result["rows"]
    Folder.of(plan.out).write("_done.json", json.dumps(result, indent=1).encode())
    return result


def _here(
    plan: AnnotatePlan, groups: list[list[RowGroupSlice]], todo: list[int], workers: int
) -> Iterator[dict[str, Any]]:
    writer = PartAnnotator(plan)
    for number in todo:
        yield writer.write(number, groups[number])


class _Actor:
    """A worker of Ray Data. What is wrong with the input travels as an answer, not as a crash."""

    def __init__(self, plan: AnnotatePlan, threads: int) -> None:
        torch.set_num_threads(threads)
        self.writer = PartAnnotator(plan)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self.writer.write(int(row["number"]), pickle.loads(row["units"]))
        except InputError as error:
            return {"answer": json.dumps({"error": str(error)})}
        return {"answer": json.dumps(answer)}


def _on_ray(
    plan: AnnotatePlan, groups: list[list[RowGroupSlice]], todo: list[int], workers: int
) -> Iterator[dict[str, Any]]:
    if not todo:
        return
    start_ray(max(1, workers))
    import ray

    cores = os.cpu_count() or 1
    nodes = max(1, len(ray.nodes()))
    most = min(workers or cores * nodes, len(todo))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A row brings its units, so that no worker holds those of the whole store.
    rows = [{"number": number, "units": pickle.dumps(groups[number])} for number in todo]
    work = ray.data.from_items(rows, override_num_blocks=len(todo))
    actor: Any = _Actor
    annotated = work.map(
        actor,
        fn_constructor_args=(plan, max(1, cores // -(-most // nodes))),
        compute=ray.data.ActorPoolStrategy(size=most),
        num_cpus=1,
        runtime_env={"env_vars": MALLOC},
    )
    for row in annotated.iter_rows():
        answer: dict[str, Any] = json.loads(row["answer"])
        if "error" in answer:
            raise InputError(answer["error"])
        answer["bad"] = [tuple(bad) for bad in answer["bad"]]
        yield answer


def _take_up(out: str, text: dict[str, Any]) -> set[str]:
    """Names of the part files in ``out``, when they come from the same plan."""
    folder = Folder.of(out)
    names = set(folder.files())
    before = _read(folder, "_plan.json") if "_plan.json" in names else None
    if before is None:
        if {name for name in names if not name.endswith(".tmp")}:
            raise InputError(f"{out}: holds other files; choose a new --out")
        folder.write("_plan.json", json.dumps(text).encode())
        return set()
    different = [key for key in text if before.get(key) != text[key] and key != "units"]
    if different:
        told = "; ".join(f"{key} {before.get(key)} before, {text[key]} now" for key in different)
        raise InputError(
            f"{out}: begun with another {', '.join(different)} ({told}); choose a new --out"
        )
    if before.get("units") != text["units"]:
        raise InputError(f"{out}: the store's files have changed since; choose a new --out")
    return {name for name in names if name.startswith("part-") and name.endswith(".parquet")}


def _read(out: Folder, name: str) -> dict[str, Any] | None:
    try:
        data = out.read(name)
        content: dict[str, Any] | None = None if data is None else json.loads(data)
        return content
    except (OSError, ValueError) as error:
        raise InputError(f"{out}/{name}: cannot be read ({error}); choose a new --out") from None


def _rows_in(out: str) -> int:
    filesystem, root = resolve(out)
    found = filesystem.get_file_info(pafs.FileSelector(root))
    parts = [entry.path for entry in found if entry.base_name.startswith("part-")]
    return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in parts)
