"""A feature store whose tags are edited: a new store, of the same files, row groups and other columns.

Everything is written below ``OUT.partial``, which gets the name ``OUT`` when it is whole; on S3 a file
``_writing.json`` keeps readers away meanwhile.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.columns import Columns
from distributed.data.edited_tags import Assigned, Becomes, edited_column
from distributed.data.feature_store import one_chunk
from distributed.data.parquet_files import WRITING
from distributed.data.plain_types import is_list, is_text, plain
from distributed.data.tag_reader import TagReader
from distributed.data.tag_values import places
from distributed.ingest.parts import CODEBOOK, IMAGE_HASH, read_part, work_folder, write_table
from distributed.ingest.report import Overview, write_report
from distributed.runtime.progress import Log, Progress
from distributed.storage.files import name_below, past_short_errors, resolve
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from distributed.storage.resume import read_note, write_note
from distributed.storage.s3 import unreachable
from drel_core.errors import InputError
from drel_core.tag_text import some_names

MANIFEST = "manifest.json"
_VOCABULARY, _REJECTED = "vocabulary.parquet", "rejected.parquet"
_SPLITS = ("train", "test")


@dataclass
class StoreEdits:
    """What is to change in a store.

    Attributes:
        becomes: what stands in place of each tag; a split tag itself.
        split: tags whose place is taken by parts that images are assigned.
    """

    becomes: Becomes
    split: Sequence[tuple[str, Assigned]] = ()

    @property
    def assigned_ids(self) -> pa.Array:
        """The different images that have parts."""
        ids = [parts.image_id.cast(pa.string()) for _, parts in self.split]
        return pa.chunked_array(ids, pa.string()).unique().drop_null()


@dataclass
class StoreChanges:
    """What edits did to a store.

    Attributes:
        images: rows in all.
        changed: rows that have other tags now.
        bare: of these, rows that have no tag now.
        unassigned: rows that keep a tag that is split, because no part is assigned to them.
        unknown: images that parts are assigned to and that the store has not.
        files: of each file its name, rows, bytes and hash.
    """

    images: int = 0
    changed: int = 0
    bare: int = 0
    unassigned: int = 0
    unknown: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)


def edit_store(
    path: str, columns: Columns, edits: StoreEdits, out: str, about: dict[str, Any], log: Log
) -> StoreChanges:
    """Write a store with other tags.

    Args:
        path: the store.
        about: what the new manifest says of the edits.

    Raises:
        InputError: ``out`` holds something, or the store cannot be read or has none of the images that parts
            are assigned to.
    """
    target = Folder.of(out)
    check_out(path, target)
    work = work_folder(target)
    reached = unreachable(target.address) if target.remote else nullcontext()
    with reached, owned(work, log, target), _appearing(work, target) as store:
        return _edit(TagReader.open(path, columns), columns, edits, store, about, log)


def check_out(path: str, target: Folder) -> None:
    """
    Raises:
        InputError: a new store cannot go there.
    """
    target.check("--out")
    source = Folder.of(path)
    if target == source or f"{target.address}/".startswith(f"{source.address}/"):
        raise InputError(f"{target}: --out lies in the store itself; give a new folder")
    there = target.path.exists() if not target.remote else bool(set(target.files()) - {WRITING})
    if there and (target.remote or any(target.path.iterdir())):
        raise InputError(f"{target}: --out holds files; give a new or empty folder")


def dry_edit(path: str, columns: Columns, edits: StoreEdits) -> StoreChanges:
    """What ``edit_store`` would change; nothing is written and no features are read.

    Raises:
        InputError: the store has none of the images that parts are assigned to.
    """
    changes = StoreChanges()
    reader = TagReader.open(path, columns)
    known = _Known(edits.assigned_ids)
    wanted = [columns.tags, *([columns.image_id] if edits.split else [])]
    for address, _ in reader.files:
        with _parquet(address) as file:
            for group in range(file.metadata.num_row_groups):
                _edited(file.read_row_group(group, columns=wanted), columns, edits, changes, known)
    changes.unknown = known.missing(path)
    return changes


class _Known:
    """Which of some images a store has."""

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids
        self._there = np.zeros(len(ids), dtype=bool)

    def look(self, image_id: pa.Array) -> None:
        """At some rows of the store."""
        place_B = places(pc.index_in(image_id.cast(pa.string()), value_set=self._ids))
        self._there[place_B[place_B >= 0]] = True

    def missing(self, path: str) -> list[str]:
        """Those that it has not, in the order in which they were given.

        Raises:
            InputError: it has none.
        """
        found: list[str] = self._ids.filter(pa.array(~self._there)).to_pylist()
        if found and len(found) == len(self._ids):
            raise InputError(
                f"{path}: no image_id of it is in the file of --assign ({some_names(found, 3)}); write ids "
                "as the store has them"
            )
        return found


@contextmanager
def _appearing(work: Folder, target: Folder) -> Iterator[Folder]:
    """Where to write. What is there gets its name when the block ends well, and goes where it does not."""
    if target.remote:
        write_note(target, WRITING, {"by": "jobs.tags"})
        try:
            yield target
        except BaseException:
            target.remove([name for name in target.files() if name != WRITING])
            target.remove([WRITING])
            raise
        target.remove([WRITING])
        return
    store = work / "store"
    shutil.rmtree(store.path, ignore_errors=True)  # of a run that was killed
    try:
        store.path.mkdir(parents=True)
        yield store
        if target.path.is_dir():
            target.path.rmdir()
        store.path.rename(target.path)
    finally:
        shutil.rmtree(store.path, ignore_errors=True)


def _edit(
    reader: TagReader,
    columns: Columns,
    edits: StoreEdits,
    store: Folder,
    about: dict[str, Any],
    log: Log,
) -> StoreChanges:
    changes, known = StoreChanges(), _Known(edits.assigned_ids)
    progress = Progress(log, f"writing {store.name}", reader.images, "rows")
    for address, _ in reader.files:
        name = name_below(address, reader.path) or Folder.of(reader.path).name
        folder, _, last = name.rpartition("/")
        place = store / folder if folder else store
        with place.writing(last) as local:
            _rewrite(address, str(local), columns, edits, changes, known, progress.step)
            with open(local, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            rows, size = pq.read_metadata(local).num_rows, local.stat().st_size
        changes.files.append({"name": name, "rows": rows, "bytes": size, "sha256": digest})
    changes.unknown = known.missing(reader.path)
    _describe(Folder.of(reader.path), columns, store, changes, about)
    return changes


@contextmanager
def _parquet(address: str) -> Iterator[pq.ParquetFile]:
    filesystem, name = resolve(address)
    with filesystem.open_input_file(name) as source:
        yield pq.ParquetFile(source, page_checksum_verification=True)


def _rewrite(
    address: str,
    into: str,
    columns: Columns,
    edits: StoreEdits,
    changes: StoreChanges,
    known: _Known,
    step: Callable[[int], None],
) -> None:
    """One file, a row group at a time; other columns as they are."""
    with _parquet(address) as file:
        schema = file.schema_arrow
        place = schema.names.index(columns.tags)
        schema = schema.set(place, schema.field(place).with_type(_tags_type(schema.types[place])))
        with pq.ParquetWriter(into, schema, write_page_checksum=True, **_layout(file)) as writer:
            for group in range(file.metadata.num_row_groups):
                table = past_short_errors(lambda group=group: file.read_row_group(group))  # type: ignore[misc]
                made = _edited(table, columns, edits, changes, known)
                table = table.set_column(place, schema.field(place), made)
                writer.write_table(table, row_group_size=max(1, len(table)))
                step(len(table))


def _tags_type(kind: pa.DataType) -> pa.DataType:
    """Lists of strings stay what they are; categories, views and lists of nothing become lists of strings."""
    return kind if is_list(kind) and is_text(kind.value_type) else pa.list_(pa.string())


def _edited(
    table: pa.Table, columns: Columns, edits: StoreEdits, changes: StoreChanges, known: _Known
) -> pa.Array:
    """The tags column of a row group after edits, which are counted."""
    before = one_chunk(table.column(columns.tags))
    ids = one_chunk(table.column(columns.image_id)) if edits.split else None
    if ids is not None:
        known.look(ids)
    found = edited_column(before, edits.becomes, ids, edits.split)
    changes.images += len(table)
    changes.changed += int(found.changed_B.sum())
    changes.unassigned += int(found.unassigned_B.sum())
    kind = _tags_type(before.type)
    made = found.column if found.column.type == kind else plain(found.column).cast(kind)
    length = made.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    changes.bare += int(((length == 0) & found.changed_B).sum())
    return made


def _layout(file: pq.ParquetFile) -> dict[str, Any]:
    """How a file is compressed and encoded, for its writer."""
    if not file.metadata.num_row_groups:
        return {}
    group = file.metadata.row_group(0)
    parts = [group.column(place) for place in range(group.num_columns)]
    split = [part.path_in_schema for part in parts if "BYTE_STREAM_SPLIT" in part.encodings]
    worded = [
        part.path_in_schema
        for part in parts
        if part.has_dictionary_page and part.path_in_schema not in split
    ]
    return {
        "compression": {
            part.path_in_schema: part.compression.lower().replace("uncompressed", "none")
            for part in parts
        },
        "use_dictionary": worded,
        "use_byte_stream_split": split,
    }


def _describe(
    source: Folder, columns: Columns, store: Folder, changes: StoreChanges, about: dict[str, Any]
) -> None:
    """What lies beside the files of a store that jobs.ingest made: manifest, vocabulary, report, codebook. Of
    its train or test alone the manifest, which says where the features come from."""
    whole = source.has(MANIFEST) if _is_folder(source) else False
    home = source if whole else source.parent
    manifest = read_note(home, MANIFEST) if home.has(MANIFEST) else None
    if manifest is None:
        return
    if (codebook := home.read(CODEBOOK)) is not None:
        store.write(CODEBOOK, codebook)
    manifest = {**manifest, "edited": about}
    files = {
        split: [one for one in changes.files if one["name"].startswith(f"{split}/")]
        for split in _SPLITS
    }
    if not whole or not files["train"] or not source.has(_REJECTED):
        kept = ("format", "D", "columns", "dtype", "features")
        part = {key: manifest[key] for key in kept if key in manifest}
        tags = len(TagReader.open(store.address, columns).counts().names)
        write_note(store, MANIFEST, {**part, "T": tags, "edited": about})
        return
    found = TagReader.open(store.file("train"), columns).counts()
    vocabulary = pa.table({"tag": pa.array(found.names, pa.string()), "count": found.count_T})
    gone = read_part(source.file(_REJECTED))
    write_table(store.file(_VOCABULARY), vocabulary)
    write_table(store.file(_REJECTED), gone)
    dims = manifest["columns"]
    write_report(store, Overview.of(store, files, vocabulary, gone, IMAGE_HASH, dims))
    write_note(store, MANIFEST, {**manifest, "T": len(vocabulary), "files": files})


def _is_folder(place: Folder) -> bool:
    return place.remote or place.path.is_dir()
