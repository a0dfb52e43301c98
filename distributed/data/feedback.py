"""Corrections that people make to the tags of images, kept until jobs.update learns from them.

A folder of Parquet files, local or on s3://, each written whole or not at all: image_id, features (float32),
add and remove (tags), at (when, UTC), model (the version that they looked at).

A correction is learned once: a bundle keeps a key of each that it has learned, its parents' with them.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.columns import Columns
from distributed.data.feature_store import feature_columns, one_chunk
from distributed.data.parquet_files import list_files, read_footer
from distributed.storage.files import READ_ERRORS, one_line, write_bytes
from distributed.storage.folder import Folder
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag

LEARNED = "learned_feedback.parquet"
"""In a bundle, and in the folder of the update that makes one: ``key``, uint64, of each correction."""
_LEARNED = pa.schema({"key": pa.uint64()})


@dataclass(frozen=True)
class Correction:
    """What one person says of one image: tags that it has (add) and has not (remove)."""

    image_id: str
    features_D: np.ndarray
    add: Sequence[str]
    remove: Sequence[str]
    model: str
    """version of the model that the person looked at"""


def feedback_schema(dim: int) -> pa.Schema:
    return pa.schema(
        {
            "image_id": pa.string(),
            "features": pa.list_(pa.float32(), dim),
            "add": pa.list_(pa.string()),
            "remove": pa.list_(pa.string()),
            "at": pa.timestamp("us", tz="UTC"),
            "model": pa.string(),
        }
    )


def append(folder: str, corrections: Sequence[Correction]) -> None:
    """Write corrections into a new file of the folder; on return it has reached the disk.

    Raises:
        OSError: it could not be written; nothing of it is there.
    """
    dim = len(corrections[0].features_D)
    flat = pa.array(np.concatenate([one.features_D for one in corrections]))
    now = datetime.now(UTC)
    schema = feedback_schema(dim)
    table = pa.table(
        [
            pa.array([one.image_id for one in corrections]),
            pa.FixedSizeListArray.from_arrays(flat, dim),
            pa.array([list(one.add) for one in corrections], pa.list_(pa.string())),
            pa.array([list(one.remove) for one in corrections], pa.list_(pa.string())),
            pa.array([now] * len(corrections), schema.field("at").type),
            pa.array([one.model for one in corrections]),
        ],
        schema=schema,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    # Names sort by time; the random part keeps replicas apart.
    name = f"feedback-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet"
    write_bytes(Folder.of(folder).file(name), buffer.getvalue(), durable=True)


def read_feedback(folder: str, dim: int, option: str = "--from_feedback") -> pa.Table:
    """Every correction: image_id, features, add, remove, at, model; in order of time.

    Args:
        dim: D of the model that shall learn from it.

    Raises:
        InputError: no feedback there, a damaged file, or features of another D.
    """
    filesystem, files = list_files(folder, option)
    parts = []
    for address, name, size in files:
        _, schema = read_footer(filesystem, address, name, size)
        if not schema.equals(feedback_schema(dim)):
            kind = schema.field("features").type if "features" in schema.names else "missing"
            raise InputError(
                f"{address}: not feedback on a model of D = {dim} (its features are {kind}); "
                f"give {option} the folder that the scorer wrote for this model"
            )
        try:
            with filesystem.open_input_file(name) as source:
                parts.append(pq.read_table(source))
        except READ_ERRORS as error:
            raise InputError(f"{address}: cannot be read ({one_line(error)}); remove it") from error
    table = pa.concat_tables(parts)
    order = np.argsort(table.column("at").cast(pa.int64()).to_numpy(), kind="stable")
    return table.take(pa.array(order)).combine_chunks()


def last_words(table: pa.Table) -> np.ndarray:
    """bool ``[N]``: the last correction of each image. In order of time, as ``read_feedback`` gives them."""
    code = table.column("image_id").combine_chunks().dictionary_encode().indices.to_numpy()
    # The first of each image from the end is its last one.
    _, from_end = np.unique(code[::-1], return_index=True)
    last_N = np.zeros(len(code), dtype=bool)
    last_N[len(code) - 1 - from_end] = True
    return last_N


def correction_keys(table: pa.Table) -> np.ndarray:
    """uint64 ``[N]``, of what each correction says, when and of which image: the same in any file."""
    said = table.select(["image_id", "add", "remove", "model"]).to_pylist()
    at = table.column("at").cast(pa.int64()).to_pylist()
    keys = [
        hashlib.blake2b(json.dumps([time, *row.values()]).encode(), digest_size=8).digest()
        for time, row in zip(at, said, strict=True)
    ]
    return np.frombuffer(b"".join(keys), dtype="<u8")


def read_learned(bundle: Path) -> np.ndarray:
    """uint64 keys of the corrections that a bundle has learned; none where it does not say.

    Raises:
        InputError: its list is damaged.
    """
    path = bundle / LEARNED
    if not path.is_file():
        return np.empty(0, np.uint64)
    try:
        key = pq.read_table(path, columns=["key"], schema=_LEARNED).column("key")
    except READ_ERRORS as error:
        raise InputError(f"{path}: damaged ({one_line(error)}); copy the bundle again") from error
    found: np.ndarray = key.drop_null().to_numpy()
    return found


def write_learned(out: Folder, key_N: np.ndarray) -> None:
    """Keep the keys in the folder of an update, which makes them part of its bundle."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": np.unique(key_N)}, schema=_LEARNED), buffer)
    out.write(LEARNED, buffer.getvalue())


def _clean(tags: Sequence[str]) -> set[str]:
    """Feedback of earlier versions was kept as people sent it."""
    return {tag for tag in map(clean_tag, tags) if tag}


def feedback_rows(
    feedback: pa.Table,
    kept: pa.Table | None,
    columns: Columns,
    dims: Sequence[int] = (),
    rules: TagRules | None = None,
) -> tuple[pa.Table, dict[str, list[str]]]:
    """Feedback as rows to learn from: the tags that were added, and those that the image is known to have
    less those removed. On an image that nothing is known of, a removed tag needs no mention: every tag
    that a row does not name is irrelevant to it.

    Args:
        feedback: one correction of an image.
        kept: the model's reservoir, which knows some images.
        dims: D of each features column, where there are several.
        rules: of tags; what implies a removed tag is removed with it, and all parts of one that is split.

    Returns:
        a row for each image that has a tag left; and of tags that are split the images that were given one
        and none of its parts. Nobody knows which part these have, so they are left out.
    """
    known: dict[str, list[str]] = {}
    if kept is not None:
        mine = kept.filter(pc.is_in(kept.column("image_id"), value_set=feedback.column("image_id")))
        known = dict(
            zip(mine.column("image_id").to_pylist(), mine.column("tags").to_pylist(), strict=True)
        )
    rules = rules or TagRules()
    tags: list[list[str]] = []
    undecided: dict[str, list[str]] = {}
    for image_id, add, remove in zip(
        *(feedback.column(name).to_pylist() for name in ("image_id", "add", "remove")), strict=True
    ):
        before = known.get(image_id, [])
        gone = set(rules.parts_of(_clean(remove)))
        given = sorted(_clean(before) | _clean(add))
        if missing := rules.undecided(given):
            for tag in missing:
                undecided.setdefault(tag, []).append(image_id)
            tags.append([])
            continue
        named = rules.applied(given)
        tags.append(sorted(tag for tag in named if gone.isdisjoint(rules.with_implied(tag))))
    keep = pa.array([bool(row) for row in tags], pa.bool_())
    rows = pa.table(
        {
            columns.image_id: feedback.column("image_id"),
            **feature_columns(one_chunk(feedback.column("features")), columns, dims),
            columns.tags: pa.array(tags, pa.list_(pa.string())),
        }
    )
    return rows.filter(keep), undecided
