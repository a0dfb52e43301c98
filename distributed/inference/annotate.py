"""Annotating stores of any size: units in, one Parquet file out for each few of them.

A file appears under its name when it is whole, so what was stopped goes on with those missing.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore, RowGroupSlice, one_chunk, read_table
from distributed.data.picture_columns import PictureColumns
from distributed.inference.annotate_part import AnnotatePlan, PartAnnotator, part_name
from distributed.runtime.progress import Log, TimeLeft
from distributed.runtime.ray_session import MALLOC, start_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.content import content_of_each
from distributed.storage.files import name_below, resolve
from distributed.storage.folder import Folder
from distributed.storage.owner import LOCK, owned
from distributed.storage.resume import (
    CONTENT,
    Plan,
    check_same,
    claim,
    digest,
    read_note,
    write_note,
)
from drel_core.errors import InputError

_FILE_ROWS = 32768
_LOG_SECONDS = 5.0


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
    with owned(Folder.of(plan.out), log):
        return _run(plan, store, version, workers, log)


def _run(
    plan: AnnotatePlan, store: FeatureStore, version: str, workers: int, log: Log
) -> dict[str, Any]:
    groups = group_units(store.units)
    done = _parts_there(plan.out, _made_from(plan, store, version))
    finished = read_note(Folder.of(plan.out), "_done.json")
    if finished is not None:
        log(f"{plan.out} is there already: {finished['rows']} rows in {finished['files']} files")
        return finished
    todo = [number for number in range(len(groups)) if part_name(number) not in done]
    if len(todo) < len(groups):
        log(f"{len(groups) - len(todo)} of {len(groups)} files are there already")
    started = logged_at = time.perf_counter()
    total = sum(unit.rows for number in todo for unit in groups[number])
    rows, left_out, left = 0, [], TimeLeft(total)
    steps = _here if store.num_bytes <= INLINE_BYTES else _on_ray
    for answer in steps(plan, groups, todo, workers):
        rows += answer["rows"] + len(answer["bad"])
        left_out += answer["bad"]
        left.note(rows)
        now = time.perf_counter()
        if now - logged_at > _LOG_SECONDS:
            logged_at = now
            rate = rows / (now - started)
            log(f"{rows:,} of {total:,} rows  {rate:,.0f} rows/s{left.text(rows)}")
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
    write_note(Folder.of(plan.out), "_done.json", result)
    return result


def _made_from(plan: AnnotatePlan, store: FeatureStore, version: str) -> Plan:
    """What must be the same when a run goes on."""
    groups = group_units(store.units)
    text: dict[str, Any] = {
        "model": version,
        "data": store.path,
        "rows": store.num_rows,
        "files": len(groups),
        "units": [len(group) for group in groups],
        "k": plan.k,
        "threshold": plan.threshold,
        "decide": plan.decide,
        "precision": plan.precision,
        "on_bad_row": plan.on_bad_row,
    }
    newer = {
        "columns": asdict(plan.columns),
        CONTENT: store_content(store, plan.columns),
        "search": plan.search,
    }
    return Plan(text | newer, unsaid=newer)


def check_begun(plan: AnnotatePlan, store: FeatureStore, version: str) -> None:
    """Raises:
    InputError: ``plan.out`` holds something else.
    """
    folder = Folder.of(plan.out)
    _check_other_files(folder)
    if (before := read_note(folder, _PLAN)) is not None:
        check_same(folder, before, _made_from(plan, store, version), _OTHER)


def store_content(store: FeatureStore, columns: Columns) -> dict[str, str]:
    """A mark of each file of a store, and one of the pictures whose paths it holds."""
    found = content_of_each(dict.fromkeys(unit.path for unit in store.units))
    marks = {
        name_below(file, store.path) or PurePath(file).name: mark for file, mark in found.items()
    }
    if isinstance(columns, PictureColumns) and columns.named_by:
        paths: dict[str, None] = {}
        for unit in store.units:
            column = one_chunk(read_table(unit, [columns.named_by]).column(0))
            if pa.types.is_struct(column.type):
                column = pc.struct_field(column, "path")
            paths |= dict.fromkeys(path for path in column.to_pylist() if path)
        marks["pictures"] = digest(content_of_each(paths))
    return marks


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


def _parts_there(out: str, plan: Plan) -> set[str]:
    """Names of the part files in ``out``, when they come from the same plan.

    Raises:
        InputError: it holds something else.
    """
    folder = Folder.of(out)
    names = _check_other_files(folder)
    claim(folder, _PLAN, plan, _OTHER)
    return {name for name in names if name.startswith("part-") and name.endswith(".parquet")}


_PLAN = "_plan.json"
_OTHER = "begun with another {names} ({values}); choose a new --out"


def _check_other_files(folder: Folder) -> set[str]:
    """Names of the files in it.

    Raises:
        InputError: they are no annotation.
    """
    names = set(folder.files())
    if _PLAN not in names and {n for n in names if n != LOCK and not n.endswith(".tmp")}:
        raise InputError(f"{folder}: holds other files; choose a new --out")
    return names


def _rows_in(out: str) -> int:
    filesystem, root = resolve(out)
    parts = [name for name in Folder.of(out).files() if name.startswith("part-")]
    return sum(pq.read_metadata(f"{root}/{n}", filesystem=filesystem).num_rows for n in parts)
