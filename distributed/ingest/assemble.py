"""Parts become a feature store: duplicates and rare tags go, files get their size; vocabulary and report."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from distributed.data.row_hash import hash_ids
from distributed.ingest.parts import (
    IMAGE_HASH,
    PartPlan,
    feature_names,
    part_schema,
    read_part,
    write_table,
)
from distributed.ingest.report import Overview, write_report
from distributed.ingest.sources.base import IMAGE_ID, REJECTED_SCHEMA, SPLIT, TAGS, rejected
from distributed.runtime.progress import Log
from distributed.runtime.tasks import get_all
from distributed.storage.folder import Folder
from distributed.storage.scratch import scratch_folder
from drel_core.errors import InputError

SPLITS = ("train", "test")
GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class RandomSplit:
    """``count`` test rows, those whose hash of (seed, image_id) is lowest: it does not depend on how
    rows lie in parts."""

    count: int
    seed: int


@dataclass(frozen=True)
class PartFacts:
    """What must be known of each part to find duplicates and to split the rows of all parts."""

    id_hash: np.ndarray
    is_test: np.ndarray
    order: np.ndarray
    dims: dict[str, int]
    """D of each features column"""

    @property
    def dim(self) -> int:
        return sum(self.dims.values())


def assemble(
    plan: PartPlan,
    chunks: int,
    store: Folder,
    min_tag_count: int,
    file_mib: int,
    random: RandomSplit | None,
    log: Log,
) -> dict[str, Any]:
    """Write ``store/{train,test}/part-*.parquet``, vocabulary, rejected rows and the report.

    Args:
        random: chooses the test rows; None leaves them to the source, else all rows train.

    Returns:
        the manifest's figures.

    Raises:
        InputError: no row is left.
    """
    paths = [plan.part(chunk) for chunk in range(chunks)]
    facts = [_facts(path, random) for path in paths]
    dropped = _duplicate_rows(facts)
    if random is not None:
        facts = _split_at_random(facts, dropped, random)
    counts = _count_tags(facts, dropped, paths)
    kept = counts.filter(pc.greater_equal(counts.column("count"), min_tag_count))
    keep = None if len(kept) == len(counts) else kept.column("tag").combine_chunks()
    answers = _write_files(
        paths, facts, dropped, keep, store, (file_mib << 20) // _row_bytes(plan, facts), log
    )
    files = {
        name: [a["file"] for a in answers if a["split"] == name and a["file"]] for name in SPLITS
    }
    for name in SPLITS:
        if not store.remote and not files[name]:
            (store / name).path.rmdir()
    all_gone = pa.concat_tables(
        [
            *(read_part(plan.rejects(chunk)).cast(REJECTED_SCHEMA) for chunk in range(chunks)),
            *(_rejected_duplicates(path, drop) for path, drop in zip(paths, dropped, strict=True)),
            *(answer["rejected"] for answer in answers),
        ]
    )
    if not files["train"]:
        raise InputError(
            f"no training row is left: {len(all_gone)} rows were rejected "
            f"({_most_common(all_gone)}); mend the input"
        )
    vocabulary = pa.concat_tables([a["tags"] for a in answers if a["split"] == "train"])
    vocabulary = vocabulary.group_by("tag").aggregate([("count", "sum")])
    vocabulary = vocabulary.rename_columns(["tag", "count"]).sort_by("tag")
    write_table(store.file("vocabulary.parquet"), vocabulary)
    write_table(store.file("rejected.parquet"), all_gone)
    write_report(store, Overview.of(store, files, vocabulary, all_gone, IMAGE_HASH, facts[0].dims))
    return {
        "rows": {name: sum(file["rows"] for file in files[name]) for name in SPLITS},
        "D": max(fact.dim for fact in facts),
        "columns": facts[0].dims,
        "T": len(vocabulary),
        "dtype": plan.dtype,
        "rejected": len(all_gone),
        "files": files,
    }


def _row_bytes(plan: PartPlan, facts: Sequence[PartFacts]) -> int:
    """Bytes of a row in a file, about."""
    dim = max((fact.dim for fact in facts), default=0)
    return dim * np.dtype(plan.dtype).itemsize + 64


def _write_files(
    paths: Sequence[str],
    facts: Sequence[PartFacts],
    dropped: Sequence[np.ndarray],
    keep: pa.Array | None,
    store: Folder,
    file_rows: int,
    log: Log,
) -> list[dict[str, Any]]:
    """``store/{train,test}/part-*.parquet`` out of all parts, a Ray task a file; what ``_write_file`` gives.

    Args:
        keep: the tags that stay, None for all.
        file_rows: rows of a file, about.
    """
    jobs: list[tuple[str, str, list[int]]] = []
    for name in SPLITS:
        if not store.remote:
            (store / name).path.mkdir(parents=True, exist_ok=True)
        rows = [
            int(_kept(fact, drop, name).sum()) for fact, drop in zip(facts, dropped, strict=True)
        ]
        for number, group in enumerate(_groups(rows, file_rows)):
            jobs.append((name, store.file(f"{name}/part-{number:05d}.parquet"), group))
    log(f"writing {len(jobs)} files")
    write: Any = ray.remote(num_cpus=1)(_write_file)
    return get_all(
        [
            write.remote(
                name,
                path,
                [paths[i] for i in group],
                [_kept(facts[i], dropped[i], name) for i in group],
                keep,
            )
            for name, path, group in jobs
        ]
    )


def _facts(path: str, random: RandomSplit | None) -> PartFacts:
    table = read_part(path, [IMAGE_ID, SPLIT])
    schema = part_schema(path)
    dims = {name: schema.field(name).type.list_size for name in feature_names(schema)}
    ids = table.column(IMAGE_ID).to_numpy(zero_copy_only=False).astype(object, copy=False)
    is_test = pc.fill_null(pc.equal(table.column(SPLIT), "test"), False)
    order = hash_ids(ids, "split", random.seed) if random is not None else np.zeros(0, np.uint64)
    return PartFacts(hash_ids(ids), is_test.to_numpy(zero_copy_only=False), order, dims)


def _split_at_random(
    facts: Sequence[PartFacts], dropped: Sequence[np.ndarray], random: RandomSplit
) -> list[PartFacts]:
    order = np.concatenate([np.delete(f.order, d) for f, d in zip(facts, dropped, strict=True)])
    if random.count >= len(order):
        raise InputError(
            f"--split random:{random.count}: only {len(order)} rows are usable; use a smaller N"
        )
    limit = np.partition(order, random.count - 1)[random.count - 1]
    return [replace(fact, is_test=fact.order <= limit) for fact in facts]


def _duplicate_rows(facts: Sequence[PartFacts]) -> list[np.ndarray]:
    """Second and later rows of an image id, by part (64-bit hashes, as training does)."""
    hashes = np.concatenate([fact.id_hash for fact in facts]) if facts else np.zeros(0)
    _, first = np.unique(hashes, return_index=True)
    again = np.ones(len(hashes), dtype=bool)
    again[first] = False
    cuts = np.cumsum([len(fact.id_hash) for fact in facts])[:-1]
    return [np.flatnonzero(part) for part in np.split(again, cuts)]


def _rejected_duplicates(path: str, drop: np.ndarray) -> pa.Table:
    if not len(drop):
        return rejected([])
    ids = read_part(path, [IMAGE_ID]).column(IMAGE_ID).take(pa.array(drop)).to_pylist()
    return rejected([(i, "image_id", "image_id occurs already") for i in ids])


def _kept(fact: PartFacts, drop: np.ndarray, split: str) -> np.ndarray:
    """bool: the rows of a part that go into a split."""
    keep = fact.is_test == (split == "test")
    keep[drop] = False
    return keep


def _count_tags(
    facts: Sequence[PartFacts], dropped: Sequence[np.ndarray], paths: Sequence[str]
) -> pa.Table:
    """Training images of each tag, over all parts."""
    found = []
    for fact, drop, path in zip(facts, dropped, paths, strict=True):
        keep = _kept(fact, drop, "train")
        tags = read_part(path, [TAGS]).column(TAGS).filter(pa.array(keep))
        found.append(count_tags(tags))
    table = pa.concat_tables(found).group_by("tag").aggregate([("count", "sum")])
    return table.rename_columns(["tag", "count"])


def count_tags(tags: pa.ChunkedArray) -> pa.Table:
    """(tag, count) of a tags column; a tag counts once a row."""
    column = tags.combine_chunks()
    row = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy(False))
    pairs = pa.table({"tag": column.flatten().cast(pa.string()), "row": row})
    once = pairs.group_by(["tag", "row"]).aggregate([])
    return once.group_by("tag").aggregate([("row", "count")]).rename_columns(["tag", "count"])


def _groups(rows: Sequence[int], most: int) -> list[list[int]]:
    """Neighbouring parts that make up a file; parts without rows fall away."""
    groups: list[list[int]] = []
    held = 0
    for place, count in enumerate(rows):
        if not count:
            continue
        if not groups or held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += count
    return groups


def _write_file(
    split: str, path: str, parts: list[str], kept: list[np.ndarray], keep: pa.Array | None
) -> dict[str, Any]:
    """One file of the store out of neighbouring parts, in row groups of bounded size."""
    place = Folder.of(path)
    local = scratch_folder() / place.name if place.remote else place.path
    writer: pq.ParquetWriter | None = None
    gone: list[pa.Table] = [rejected([])]
    counts: list[pa.Table] = []
    rows = 0
    held: list[pa.Table] = []
    group_rows = 1
    for part, mask in zip(parts, kept, strict=True):
        table = read_part(part).filter(pa.array(mask)).drop_columns([SPLIT])
        if keep is not None:
            table, lost = _only_tags(table, keep)
            gone.append(lost)
        if not len(table):
            continue
        group_rows = max(1, min(65536, GROUP_BYTES // max(1, table.nbytes // len(table))))
        counts.append(count_tags(table.column(TAGS)))
        held.append(table)
        rows += len(table)
        if writer is None:
            writer = pq.ParquetWriter(
                local,
                table.schema,
                compression="none",
                use_dictionary=[TAGS],
                write_page_checksum=True,
            )
        if sum(map(len, held)) >= group_rows:
            writer.write_table(pa.concat_tables(held), row_group_size=group_rows)
            held = []
    if writer is not None:
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=group_rows)
        writer.close()
    empty = pa.table({"tag": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    file = None
    if rows:
        name = f"{split}/{place.name}"
        file = {"name": name, "rows": rows, "bytes": local.stat().st_size, "sha256": _sha256(local)}
    if place.remote:
        if rows:
            place.parent.put(place.name, local)
        shutil.rmtree(local.parent)
    return {
        "split": split,
        "file": file,
        "tags": pa.concat_tables([empty, *counts]),
        "rejected": pa.concat_tables(gone),
    }


def _only_tags(table: pa.Table, keep: pa.Array) -> tuple[pa.Table, pa.Table]:
    column = table.column(TAGS).combine_chunks()
    flat = column.flatten()
    known = pc.is_in(flat, value_set=keep).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy(False))
    offsets = np.zeros(len(column) + 1, dtype=np.int32)
    np.cumsum(np.bincount(row[known], minlength=len(column)), out=offsets[1:])
    tags = pa.ListArray.from_arrays(pa.array(offsets), flat.filter(pa.array(known)))
    table = table.set_column(table.column_names.index(TAGS), TAGS, tags)
    bare = np.diff(offsets) == 0
    ids = table.column(IMAGE_ID).filter(pa.array(bare)).to_pylist()
    lost = rejected([(i, "tags", "all its tags are below --min_tag_count") for i in ids])
    return table.filter(pa.array(~bare)), lost


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _most_common(gone: pa.Table) -> str:
    if not len(gone):
        return "nothing was read"
    found = pc.value_counts(gone.column("reason")).to_pylist()
    best = max(found, key=lambda entry: entry["counts"])
    return f"most often: {best['values']}"
