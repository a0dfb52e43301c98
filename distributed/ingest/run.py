"""Ingestion as a whole: parts by Ray Data, then files, vocabulary, manifest and report.

Everything is written below ``OUT.partial``: parts that a later run takes up again, and the store, which
is renamed to ``OUT`` when it is whole. S3 has no rename: there the store is written to ``OUT``, where a file
``_writing.json`` keeps readers away until it is whole.
"""

from __future__ import annotations

import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from distributed.data.canonical_tags import open_rules
from distributed.data.parquet_files import WRITING
from distributed.ingest.assemble import RandomSplit, assemble
from distributed.ingest.extraction.base import Extraction, extract
from distributed.ingest.parts import CODEBOOK, PartPlan, part_name, work_folder
from distributed.ingest.sources.base import Source
from distributed.runtime.progress import Log, TimeLeft, counted
from distributed.runtime.quiet_start import start_quiet_ray
from distributed.storage.content import content_of
from distributed.storage.folder import Folder
from distributed.storage.owner import LOCK, check_free, owned
from distributed.storage.resume import CONTENT, Plan, check_same, read_note, write_note
from distributed.storage.s3 import reach, unreachable
from drel_core.errors import InputError

FORMAT = 1
_PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """What the feature store is to look like."""

    split: str = ""
    """random:N makes N usable rows the test part; column:NAME of a table holds train or test; official, \
    or empty: as the input says, else no test part"""
    seed: int = 0
    """whole number that decides a random split"""
    lowercase: bool = False
    """turn tags to lower case"""
    vocabulary: str = ""
    """vocabulary.yaml: other spellings become tags, implied tags are added, blocked ones left out; after \
    lowercase"""
    min_tag_count: int = 1
    """leave out tags that fewer training rows have"""
    dtype: Literal["float16", "float32"] = "float32"
    """type in which features are stored"""
    file_mib: int = 128
    """size of a Parquet file in MiB, about"""
    chunk_rows: int = 512
    """rows that are worked on, and taken up again after a stop, as one"""
    max_pixels: int = 64_000_000
    """pictures with more pixels are rejected"""

    def __post_init__(self) -> None:
        for name in ("min_tag_count", "file_mib", "chunk_rows", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


_ASSEMBLY = ("options.split", "options.seed", "options.min_tag_count", "options.file_mib")
"""Options that do not matter before all parts are there. (A split by a column is the source's as well.)"""


@dataclass(frozen=True)
class Input:
    """What a source was opened with, which decides what it gives.

    Attributes:
        places: files and folders that it reads.
        options: beyond what ``Source.describe`` says.
    """

    places: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def ingest(
    source: Source,
    extraction: Extraction | None,
    options: StoreOptions,
    out: str,
    log: Log = print,
    given: Input | None = None,
) -> dict[str, Any]:
    """Build a feature store from a source.

    Args:
        extraction: how pictures become features; None where the source has features.
        given: what the source was opened with; None where ``Source.describe`` says it all.

    Returns:
        the manifest.

    Raises:
        InputError: the source is wrong, or ``out`` holds something else.
    """
    target = _target(out, source, options)
    reached = unreachable(target.address) if target.remote else nullcontext()
    with reached, owned(work_folder(target), log, target):
        return _ingest(source, extraction, options, target, log, given or Input())


def _target(out: str, source: Source, options: StoreOptions) -> Folder:
    """
    Raises:
        InputError: ``out`` cannot be reached, or the split takes all rows.
    """
    target = Folder.of(out)
    if target.remote:
        reach(target.address)
        if not target.address.partition("?")[0].removeprefix("s3://").partition("/")[2]:
            raise InputError(f"{out}: --out names no folder in the bucket; write s3://BUCKET/PATH")
    test_count = _test_count(options)
    if test_count >= source.num_rows > 0:
        raise InputError(
            f"--split random:{test_count}: the input has {source.num_rows} rows; use a smaller N"
        )
    return target


def _ingest(
    source: Source,
    extraction: Extraction | None,
    options: StoreOptions,
    target: Folder,
    log: Log,
    given: Input,
) -> dict[str, Any]:
    test_count, work = _test_count(options), work_folder(target)
    plan_text = _made_from(source, extraction, options, target, given)
    if _is_there(target):
        manifest = _finished(target, plan_text, log)
        _clear(work)  # killed before it was
        return manifest
    _begin(work, plan_text, log)
    plan = PartPlan(
        folder=(work / "parts").address,
        chunk_rows=options.chunk_rows,
        lowercase=options.lowercase,
        dtype=options.dtype,
        max_pixels=options.max_pixels,
        rules=open_rules(options.vocabulary),
    )
    chunks = -(-source.num_rows // options.chunk_rows)
    there = (work / "parts").files()
    todo = [chunk for chunk in range(chunks) if part_name(chunk) not in there]
    log(
        f"{counted(source.num_rows, 'row')} in {counted(chunks, 'part')}"
        + (f", {chunks - len(todo)} there already" if len(todo) < chunks else "")
    )
    start_quiet_ray(1)
    started = time.perf_counter()
    features = None if extraction is None else extraction.prepare(source, plan, log)
    if todo:
        _extract(source, extraction, plan, todo, log)
    store = target if target.remote else work / "store"
    if target.remote:
        write_note(target, WRITING, {"by": "jobs.ingest"})
    _clear(store)  # of a run that ended here, perhaps with other options
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
    if (codebook := (work / "parts").read(CODEBOOK)) is not None:
        store.write(CODEBOOK, codebook)
    write_note(store, "manifest.json", manifest)
    if target.remote:
        target.remove([WRITING])
    else:
        store.path.rename(target.path)
    _clear(work)
    return manifest


def _made_from(
    source: Source,
    extraction: Extraction | None,
    options: StoreOptions,
    target: Folder,
    given: Input,
) -> Plan:
    """What must be the same when an ingestion goes on."""
    places = (str(target), str(work_folder(target)))
    newer = {"reading": given.options, CONTENT: content_of(given.places, places)}
    rules = open_rules(options.vocabulary)
    return Plan(
        {
            "format": FORMAT,
            "source": source.describe(),
            "rows": source.num_rows,
            "options": {**asdict(options), "vocabulary": rules.digest if rules else ""},
            "features": None if extraction is None else extraction.describe(),
            **newer,
        },
        unsaid={**newer, "options": {"vocabulary": ""}},
    )


def check_begun(
    source: Source,
    extraction: Extraction | None,
    options: StoreOptions,
    out: str,
    given: Input,
    log: Log,
) -> int:
    """What ``ingest`` would find at ``out``, without writing.

    Returns:
        rows that are not there yet.

    Raises:
        InputError: what ``ingest`` would refuse.
    """
    target = _target(out, source, options)
    work = work_folder(target)
    check_free(work, target)
    plan = _made_from(source, extraction, options, target, given)
    if _is_there(target):
        _finished(target, plan, log)
        return 0
    _check_work(work, plan)
    there, chunks = (work / "parts").files(), -(-source.num_rows // options.chunk_rows)
    done = sum(part_name(chunk) in there for chunk in range(chunks))
    return max(0, source.num_rows - done * options.chunk_rows)


def _is_there(target: Folder) -> bool:
    """Whether a store, or something else, lies where it shall be. One on S3 may be there in part."""
    if not target.remote:
        return target.path.exists()
    names = target.files()
    return bool(names) and WRITING not in names


def _clear(folder: Folder) -> None:
    """Remove what a run has left in a folder."""
    if not folder.remote:
        shutil.rmtree(folder.path, ignore_errors=True)
        return
    folder.remove([name for name in folder.files() if name not in (LOCK, WRITING)])


def _finished(target: Folder, plan: Plan, log: Log) -> dict[str, Any]:
    """The manifest of the store that is there already.

    Raises:
        InputError: it is none, or was made otherwise.
    """
    try:
        manifest = read_note(target, "manifest.json")
    except InputError:
        manifest = None
    if manifest is None:
        raise InputError(f"{target}: exists and is no feature store; choose a new --out")
    if "edited" in manifest:
        raise InputError(f"{target}: holds a store whose tags were edited; choose a new --out")
    check_same(
        target,
        manifest.get("plan") or {},
        plan,
        "holds a feature store made from other input or with other options: {values}; choose a new --out",
    )
    log(f"{target} is there already, from the same input and options")
    return manifest


def _begin(work: Folder, plan: Plan, log: Log) -> None:
    """Begin in ``work``, or go on there when its parts are the same."""
    if late := _check_work(work, plan):
        log(f"going on with another {', '.join(late)}")
    write_note(work, _PLAN, plan)
    if not work.remote:
        (work / "parts").path.mkdir(exist_ok=True)


def _check_work(work: Folder, plan: Plan) -> list[str]:
    """Which options that may differ do, of an ingestion that was begun in ``work``.

    Raises:
        InputError: it is another one, or something else lies there.
    """
    before = read_note(work, _PLAN)
    if before is None:
        # Whatever else it is, the end of a run would remove it.
        if work.files().keys() - {LOCK}:
            raise InputError(f"{work}: no unfinished ingestion; remove it, or choose a new --out")
    else:
        return check_same(
            work,
            before,
            plan,
            "an unfinished ingestion of other input or with other options: {values}; "
            "repeat that command, or remove the folder",
            free=_ASSEMBLY,
        )
    return []


def _test_count(options: StoreOptions) -> int:
    """N of ``random:N``; 0 leaves the split to the source."""
    if options.split in ("", "official") or options.split.startswith("column:"):
        return 0
    kind, _, number = options.split.partition(":")
    if kind != "random" or not number.isdigit() or int(number) < 1:
        raise InputError(
            f"--split {options.split}: use official, random:N with N of 1 or more, or of a table column:NAME"
        )
    return int(number)


def _extract(
    source: Source, extraction: Extraction | None, plan: PartPlan, todo: list[int], log: Log
) -> None:
    """Write the missing parts, with a line of progress every few seconds."""
    started = last = time.perf_counter()
    rows = gone = done = 0
    left = TimeLeft(len(todo))
    for answer in extract(source, extraction, plan, todo):
        rows, gone, done = rows + answer["rows"], gone + answer["rejected"], done + 1
        left.note(done)
        now = time.perf_counter()
        if now - last >= 3 or done == len(todo):
            rate = (rows + gone) / (now - started)
            log(
                f"part {done}/{len(todo)}  {rows} rows  {gone} rejected  {rate:,.0f} rows/s{left.text(done)}"
            )
            last = now
