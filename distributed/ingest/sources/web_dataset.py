"""WebDataset: tar files of samples, each some files of one name: 0001.jpg, 0001.json, 0001.txt, 0001.cls."""

from __future__ import annotations

import json
import tarfile
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from distributed.ingest.sources.base import IMAGE, IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from distributed.ingest.sources.json_text import read_json
from distributed.ingest.sources.picture_options import TAG_NAMES, PictureOptions
from distributed.ingest.sources.picture_parquet import train_or_test, unsaid_note
from distributed.ingest.sources.pictures import SUFFIXES
from distributed.ingest.sources.tag_lists import SeparatorCheck, TagForm
from distributed.storage.files import READ_ERRORS, one_line, resolve
from distributed.storage.listing import is_hidden, list_tree
from drel_core.errors import InputError

_TAG_FILES = ("json", "txt", "cls")
"""Where tags are looked for, the first that there is."""
_NONE, _NO_TEXT = -1, -2
_FAULTS = {_NONE: "no picture in the sample", _NO_TEXT: "its name is not UTF-8; rename the file"}
"""Why a sample has no picture, by what stands for the place where it begins."""
_Entry = tuple[int, int]
"""Where a file begins in its tar file, and its bytes."""


@dataclass(frozen=True)
class WebDataset:
    """Samples in the order of their tar files, whose headers alone are read when it is opened.

    Attributes:
        shards: path in the file system and address of each tar file.
        starts: the first sample of each, and the number of all.
        key_B: name of each sample.
        picture_B2: where its picture begins, and its bytes; one of ``_FAULTS`` without.
        tags: list<string> ``[B]``.
        notes: what a user should look at.
    """

    root: str
    shards: tuple[str, ...]
    starts: tuple[int, ...] = field(repr=False)
    key_B: pa.Array = field(repr=False)
    picture_B2: np.ndarray = field(repr=False)
    tags: pa.Array = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.key_B)

    @staticmethod
    def open(path: str, options: PictureOptions) -> WebDataset:
        """Read headers and tags.

        Args:
            path: a folder of tar files, or one.

        Raises:
            InputError: no tar file, a damaged one, or tags that cannot be read.
        """
        filesystem, shards = _list_shards(path)
        root = resolve(path)[1]
        starts, keys, places, said = [0], [], [], []
        for shard in shards:
            found = _samples(filesystem, shard, options.tags_column)
            keys.append([key for key, _, _ in found])
            places += [place for _, place, _ in found]
            said += [tags for _, _, tags in found]
            starts.append(starts[-1] + len(found))
        names = [key for shard_keys in keys for key in shard_keys]
        if not names:
            raise InputError(f"{path}: no sample in it; give tar files of WebDataset")
        notes = []
        if len(set(names)) < len(names):  # many writers count from 0 in every tar file
            stems = [_below(shard, root).removesuffix(".tar") for shard in shards]
            names = [f"{stem}/{key}" for stem, ks in zip(stems, keys, strict=True) for key in ks]
            notes.append(
                f"{path}: names of samples repeat; pictures are named by tar file and sample"
            )
        tags, note = _tag_lists(path, said, options.separator)
        place_B2 = np.array(places, np.int64).reshape(-1, 2)
        notes += [note] if note else []
        unsaid = unsaid_note(path, [_below(shard, root) for shard in shards])
        notes += [unsaid] if unsaid else []
        return WebDataset(
            path, tuple(shards), tuple(starts), pa.array(names), place_B2, tags, tuple(notes)
        )

    def read(self, start: int, rows: int) -> Chunk:
        stop = min(start + rows, self.num_rows)
        filesystem, root = resolve(self.root)
        good: list[int] = []
        images: list[bytes] = []
        splits: list[str | None] = []
        out: list[Rejection] = []
        at = start
        while at < stop:
            shard = bisect_right(self.starts, at) - 1
            last = min(stop, self.starts[shard + 1])
            name = self.shards[shard]
            with filesystem.open_input_file(name) as file:
                for row in range(at, last):
                    begin, size = self.picture_B2[row].tolist()
                    if begin < 0:
                        out.append((self.key_B[row].as_py(), name, _FAULTS[begin]))
                        continue
                    data = file.read_at(size, begin)
                    if len(data) < size:
                        raise InputError(f"{name}: has changed since it was opened; start again")
                    good.append(row)
                    images.append(data)
                    splits.append(train_or_test(_below(name, root)))
            at = last
        take = pa.array(good, pa.int64())
        table = pa.table(
            {
                IMAGE_ID: self.key_B.take(take),
                IMAGE: pa.array(images, pa.binary()),
                TAGS: self.tags.take(take),
                SPLIT: pa.array(splits, pa.string()),
            }
        )
        return Chunk(table, rejected(out))

    def describe(self) -> dict[str, Any]:
        return {"kind": "webdataset", "input": self.root}


def _below(shard: str, root: str) -> str:
    """The name of a tar file below the input; its own name where it is the input itself."""
    return shard[len(root.rstrip("/")) :].lstrip("/") or shard.rpartition("/")[2]


def _list_shards(path: str) -> tuple[pafs.FileSystem, list[str]]:
    filesystem, root = resolve(path)
    try:
        info = filesystem.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{path}: no such file or folder; give tar files of WebDataset")
        if info.type == pafs.FileType.File:
            return filesystem, [root]
        cut = len(root.rstrip("/")) + 1
        names = [name for name, _ in list_tree(filesystem, root).files if not is_hidden(name[cut:])]
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({one_line(error)})") from error
    if packed := [name for name in names if name.endswith((".tar.gz", ".tgz", ".tar.zst"))]:
        raise InputError(
            f"{packed[0]}: a packed tar file; unpack it (gunzip), it is read by pieces"
        )
    shards = [name for name in names if name.endswith(".tar")]
    if not shards:
        raise InputError(f"{path}: no .tar file in it; give tar files of WebDataset")
    return filesystem, shards


def _samples(
    filesystem: pafs.FileSystem, shard: str, tags_column: str
) -> list[tuple[str, _Entry, Any]]:
    """Name, place of the picture (see ``_FAULTS``) and what says the tags, of each sample of a tar file."""
    found: list[tuple[str, dict[str, _Entry]]] = []
    seen: set[str] = set()
    try:
        with filesystem.open_input_file(shard) as file:
            size = file.size()
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if not member.isfile():
                        continue
                    folder, slash, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    if not stem or member.offset_data + member.size > size:
                        if stem:
                            raise tarfile.ReadError("it is cut off")
                        continue  # hidden files, as macOS adds them
                    key, suffix = f"{folder}{slash}{stem}", suffix.lower()
                    if not found or found[-1][0] != key:
                        if key in seen:
                            raise InputError(
                                f"{shard}: files of the sample {_text(key)!r} do not lie one after another; "
                                "write it again in the order of names (tar --sort=name)"
                            )
                        seen.add(key)
                        found.append((key, {}))
                    if suffix in found[-1][1]:
                        raise InputError(
                            f"{shard}: holds {_text(member.name)!r} twice; write it again with one of them"
                        )
                    found[-1][1][suffix] = (member.offset_data, member.size)
            return [
                (
                    _text(key),
                    _picture(files) if _text(key) == key else (_NO_TEXT, 0),
                    _said(file, shard, _text(key), files, tags_column),
                )
                for key, files in found
            ]
    except (*READ_ERRORS, tarfile.TarError) as error:
        raise InputError(f"{shard}: no tar file, or damaged ({one_line(error)})") from error


def _text(name: str) -> str:
    """A name as it can be printed; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _picture(files: dict[str, _Entry]) -> _Entry:
    return next((place for kind, place in files.items() if f".{kind}" in SUFFIXES), (_NONE, 0))


def _said(
    file: pa.NativeFile, shard: str, key: str, files: dict[str, _Entry], tags_column: str
) -> Any:
    """A text, a list or a number that says the tags of a sample; None without."""
    kind = next((kind for kind in _TAG_FILES if kind in files), None)
    if kind is None:
        return None
    begin, size = files[kind]
    try:
        text = file.read_at(size, begin).decode("utf-8-sig")
        if kind != "json":
            return text.strip()
        value = read_json(text)
    except ValueError as error:
        raise InputError(f"{shard}: {key}.{kind} cannot be read ({one_line(error)})") from error
    if isinstance(value, dict):
        lower = {str(name).lower(): name for name in reversed(value)}
        wanted = tags_column or next((lower[n] for n in TAG_NAMES if n in lower), None)
        if wanted not in value and len(files) > 1 and not tags_column:
            rest = {name: place for name, place in files.items() if name != "json"}
            return _said(file, shard, key, rest, tags_column)
        value = value.get(wanted)
    return value


def _tag_lists(path: str, said: list[Any], separator: str) -> tuple[pa.Array, str | None]:
    """list<string> of texts, lists and numbers; and a line where the separator is in doubt."""
    texts: list[str | None] = []
    lists: list[list[str | None] | None] = []
    for row, value in enumerate(said):
        one = [str(value)] if isinstance(value, int) and not isinstance(value, bool) else value
        if one is None or isinstance(one, str):
            texts.append(one)
            lists.append(None)
        elif isinstance(one, list) and all(isinstance(tag, str | int | None) for tag in one):
            texts.append(None)
            lists.append([None if tag is None else str(tag) for tag in one])
        else:
            raise InputError(
                f"{path}: sample {row}: tags are {json.dumps(value)[:60]}; they must be text or a list of "
                "texts; name the right field of the JSON with --tags_column"
            )
    column = pa.array(texts, pa.string())
    check = SeparatorCheck(separator)
    check.add(column)
    note = check.finish(path)
    from_texts = TagForm(separator).lists(column, path)
    from_lists = TagForm(separator).lists(pa.array(lists, pa.list_(pa.string())))
    row_B = np.array(
        [row + len(said) * (one is not None) for row, one in enumerate(lists)], np.int64
    )
    return pa.concat_arrays([from_texts, from_lists]).take(pa.array(row_B)), note
