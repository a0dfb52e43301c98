"""Ingestion as a whole: parts by Ray Data, then files, vocabulary, manifest and report.

Everything is written below ``OUT.partial``: parts that a later run takes up again, and the store, which
is renamed to ``OUT`` when it is whole.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from distributed.ingest.assemble import RandomSplit, assemble
from distributed.ingest.extraction.base import Extraction, extract
from distributed.ingest.parts import PartPlan
from distributed.ingest.sources.base import Source
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import start_ray
from distributed.storage.folder import Folder
from distributed.storage.resume import check_same, claim, read_note, write_note
from drel_core.errors import InputError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """What the feature store is to look like."""

    split: str = ""
    """random:N makes N usable rows the test part; column:NAME of a table holds train or test; official, \
    or empty: as the input says, else no test part"""
    seed: int = 0
    """decides a random split"""
    lowercase: bool = False
    """turn tags to lower case"""
    min_tag_count: int = 1
    """leave out tags that fewer training rows have"""
    dtype: Literal["float16", "float32"] = "float32"
    """type in which features are stored"""
    file_mib: int = 128
    """size of a Parquet file, about"""
    chunk_rows: int = 512
    """rows that are worked on, and taken up again after a stop, as one"""
    max_pixels: int = 64_000_000
    """pictures with more pixels are rejected"""

    def __post_init__(self) -> None:
        for name in ("min_tag_count", "file_mib", "chunk_rows", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


def ingest(
    source: Source, extraction: Extraction | None, options: StoreOptions, out: str, log: Log = print
) -> dict[str, Any]:
    """Build a feature store from a source.

    Args:
        extraction: how pictures become features; None where the source has features.

    Returns:
        the manifest.

    Raises:
        InputError: the source is wrong, or ``out`` holds something else.
    """
    if "://" in out:
        raise InputError(f"{out}: --out must be a local or mounted folder")
    test_count = _test_count(options)
    target = Path(out).expanduser().absolute()
    work = target.with_name(target.name + ".partial")
    plan_text = {
        "format": FORMAT,
        "source": source.describe(),
        "rows": source.num_rows,
        "options": asdict(options),
        "features": None if extraction is None else extraction.describe(),
    }
    if target.exists():
        manifest = _finished(target, plan_text, log)
        shutil.rmtree(work, ignore_errors=True)  # killed between the rename and the clean-up
        return manifest
    _begin(work, plan_text)
    plan = PartPlan(
        folder=str(work / "parts"),
        chunk_rows=options.chunk_rows,
        lowercase=options.lowercase,
        dtype=options.dtype,
        max_pixels=options.max_pixels,
    )
    chunks = -(-source.num_rows // options.chunk_rows)
    todo = [c for c in range(chunks) if not Path(plan.part(c)).is_file()]
    log(
        f"{source.num_rows} rows in {chunks} parts"
        + (f", {chunks - len(todo)} there already" if len(todo) < chunks else "")
    )
    start_ray(1)
    started = time.perf_counter()
    features = None if extraction is None else extraction.prepare(source, plan, log)
    if todo:
        _extract(source, extraction, plan, todo, log)
    store = work / "store"
    manifest = assemble(
        plan,
        chunks,
        store,
        options.min_tag_count,
        options.file_mib,
        RandomSplit(test_count, options.seed) if test_count else None,
        log,
    )
    manifest = {
        "format": FORMAT,
        **manifest,
        "features": features,
        "plan": plan_text,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if Path(plan.codebook()).is_file():
        shutil.copyfile(plan.codebook(), store / "codebook.npz")
    write_note(Folder(str(store)), "manifest.json", manifest)
    store.rename(target)
    shutil.rmtree(work)
    return manifest


def _finished(target: Path, plan: dict[str, Any], log: Log) -> dict[str, Any]:
    """The manifest of the store that is there already.

    Raises:
        InputError: it is none, or was made otherwise.
    """
    try:
        manifest = read_note(Folder(str(target)), "manifest.json")
    except InputError:
        manifest = None
    if manifest is None:
        raise InputError(f"{target}: exists and is no feature store; choose a new --out")
    check_same(
        target,
        manifest.get("plan") or {},
        plan,
        "holds a feature store made from other input or with other options; choose a new --out",
    )
    log(f"{target} is there already, from the same input and options")
    return manifest


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Begin in ``work``, or go on there when it was begun with the same plan."""
    refusal = (
        "an unfinished ingestion of other input or with other options; "
        "repeat that command, or remove the folder"
    )
    folder = Folder(str(work))
    if work.exists() and not folder.has("plan.json"):
        raise InputError(f"{work}: {refusal}")  # whatever it is, the end of a run would remove it
    claim(folder, "plan.json", plan, refusal)
    (work / "parts").mkdir(exist_ok=True)


def _test_count(options: StoreOptions) -> int:
    """N of ``random:N``; 0 leaves the split to the source."""
    if options.split in ("", "official") or options.split.startswith("column:"):
        return 0
    kind, _, number = options.split.partition(":")
    if kind != "random" or not number.isdigit() or int(number) < 1:
        raise InputError(f"--split {options.split}: use official, or random:N with N of 1 or more")
    return int(number)


def _extract(
    source: Source, extraction: Extraction | None, plan: PartPlan, todo: list[int], log: Log
) -> None:
    """Write the missing parts, with a line of progress every few seconds."""
    started = last = time.perf_counter()
    rows = gone = done = 0
    for answer in extract(source, extraction, plan, todo):
        rows, gone, done = rows + answer["rows"], gone + answer["rejected"], done + 1
        now = time.perf_counter()
        if now - last >= 3 or done == len(todo):
            rate = (rows + gone) / (now - started)
            left = int((now - started) * (len(todo) - done) / done)
            log(
                f"part {done}/{len(todo)}  {rows} rows  {gone} rejected  {rate:,.0f} rows/s  "
                f"left {left // 60}:{left % 60:02d}"
            )
            last = now
