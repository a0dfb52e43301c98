"""NUS-WIDE as its archives unpack: six feature files, image lists, 81 concepts, 1000 tags.

Opening runs once over every file for its lines; a range of rows then reads only its own lines.
Row order: Train files, then Test files. The paper says D = 1164 for all six features; its colour
moments are 225 numbers, not 255, so D = 1134.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from distributed.ingest.sources.line_files import LineFile, index_lines, read_flags, read_numbers
from distributed.ingest.sources.tag_lists import lists_from_matrix
from distributed.storage.files import one_line
from drel_core.errors import InputError

FEATURE_SIZES = {"CH": 64, "CORR": 144, "EDH": 73, "WT": 128, "CM55": 225, "BoW": 500}
PARTS = ("Train", "Test")
# Where the archives put things, and where people move them.
_FEATURE_FOLDERS = (
    "Low_Level_Features",
    ".",
    "NUS_WID_Low_Level_Features/Low_Level_Features",
    "NUS_WID_Low_Level_Features",
)
_TAG_FOLDERS = ("NUS_WID_Tags", ".")
_LIST_FOLDERS = ("ImageList", ".")
_CONCEPT_FOLDERS = ("ConceptsList", ".")
_LABEL_FOLDERS = ("Groundtruth/TrainTestLabels", "TrainTestLabels")


@dataclass(frozen=True)
class _Part:
    """The files of Train or of Test."""

    images: LineFile
    features: tuple[LineFile, ...]
    tags: tuple[LineFile, ...]
    """one file of T columns, or T files of one column"""


@dataclass(frozen=True)
class NusWideSource:
    """A ``Source`` over an unpacked NUS-WIDE. Holds where lines start, and no rows."""

    root: str
    tags: str
    features: tuple[str, ...]
    parts: tuple[_Part, _Part] = field(repr=False)
    tag_names: tuple[str, ...] = field(repr=False)

    @property
    def num_rows(self) -> int:
        return sum(part.images.lines for part in self.parts)

    @property
    def dim(self) -> int:
        return sum(FEATURE_SIZES[name] for name in self.features)

    @staticmethod
    def open(
        path: str, tags: Literal["tags1k", "concepts"] = "tags1k", features: list[str] | None = None
    ) -> NusWideSource:
        """Find and count the files of the distribution.

        Args:
            tags: the 1000 frequent tags, or the 81 concepts of the ground truth.
            features: some of CH, CORR, EDH, WT, CM55, BoW; they come in this order.

        Raises:
            InputError: files are missing, disagree in their number of lines or columns, or image
                ids repeat.
        """
        if "://" in path:
            raise InputError(f"{path}: NUS-WIDE is read from a local folder; copy it to one first")
        root = Path(path).expanduser().absolute()
        if not root.is_dir():
            raise InputError(f"{path}: no such folder; give the folder NUS-WIDE was unpacked to")
        if tags not in ("tags1k", "concepts"):
            raise InputError(f"tags {tags!r}: use tags1k or concepts")
        chosen = _chosen(features)
        if tags == "tags1k":
            names, tag_paths = _tags1k(root)
        else:
            names, tag_paths = _concepts(root)
        images, matrices = _data_paths(root, chosen)
        with ThreadPoolExecutor(4) as threads:
            plain = [threads.submit(index_lines, p) for p in [*images, *chain(*matrices)]]
            flags = [threads.submit(index_lines, p, True) for p in chain(*tag_paths)]
            counted = [job.result() for job in plain]
            marked = [job.result() for job in flags]
        parts = []
        for place in range(2):
            width, kinds = len(tag_paths[place]), len(chosen)
            mine = marked[place * width : (place + 1) * width]
            feature_files = counted[2 + place * kinds : 2 + (place + 1) * kinds]
            part = _Part(counted[place], tuple(feature_files), tuple(mine))
            _check_lines(part)
            _check_columns(part, chosen, len(names))
            parts.append(part)
        _check_ids(parts)
        return NusWideSource(str(root), tags, chosen, (parts[0], parts[1]), names)

    def read(self, start: int, rows: int) -> Chunk:
        """Rows ``[start, start + rows)``; images without tags are rejected, as in the paper."""
        stop = min(start + rows, self.num_rows)
        tables, out, base = [], [], 0
        for part, name in zip(self.parts, ("train", "test"), strict=True):
            low, high = max(start - base, 0), min(stop - base, part.images.lines)
            if low < high:
                chunk = self._read_part(part, name, low, high)
                tables.append(chunk.table)
                out.append(chunk.rejected)
            base += part.images.lines
        if not tables:
            tables, out = [self._table([], np.zeros((0, self.dim), np.float32), None, [])], []
        return Chunk(pa.concat_tables(tables), pa.concat_tables(out) if out else rejected([]))

    def _read_part(self, part: _Part, name: str, low: int, high: int) -> Chunk:
        count = high - low
        ids = _ids(part.images, low, high)
        feature_BD = np.empty((count, self.dim), dtype=np.float32)
        column = 0
        for file, kind in zip(part.features, self.features, strict=True):
            size = FEATURE_SIZES[kind]
            feature_BD[:, column : column + size] = read_numbers(file, low, high, size)
            column += size
        columns = len(self.tag_names) // len(part.tags)
        has_tag_BT = np.concatenate(
            [read_flags(file, low, high, columns) for file in part.tags], axis=1
        )
        tagged_B = np.asarray(has_tag_BT.any(1))
        finite_B = np.asarray(np.isfinite(feature_BD).all(1))
        out: list[tuple[str | None, str, str]] = []
        for row in np.flatnonzero(~(tagged_B & finite_B)).tolist():
            line = low + row + 1
            if not tagged_B[row]:
                file = part.tags[0] if len(part.tags) == 1 else part.images
                out.append((ids[row], f"{file.path} line {line}", "no tags"))
                continue
            place = int(np.flatnonzero(~np.isfinite(feature_BD[row]))[0])
            file, place = self._file_of(part, place)
            what = "NaN" if np.isnan(feature_BD[row]).any() else "Inf"
            out.append(
                (ids[row], f"{file.path} line {line}", f"features hold {what} at position {place}")
            )
        good_B = tagged_B & finite_B
        lists = lists_from_matrix(has_tag_BT[good_B], pa.array(self.tag_names, pa.string()))
        kept = [image_id for image_id, good in zip(ids, good_B, strict=True) if good]
        table = self._table(kept, feature_BD[good_B], lists, [name] * len(kept))
        return Chunk(table, rejected(out))

    def _file_of(self, part: _Part, place: int) -> tuple[LineFile, int]:
        """The file of a position in the features, and the position there."""
        for file, kind in zip(part.features, self.features, strict=True):
            if place < FEATURE_SIZES[kind]:
                return file, place
            place -= FEATURE_SIZES[kind]
        raise IndexError(place)

    def _table(
        self, ids: list[str], feature_BD: np.ndarray, lists: pa.Array | None, splits: list[str]
    ) -> pa.Table:
        column = pa.FixedSizeListArray.from_arrays(pa.array(feature_BD.reshape(-1)), self.dim)
        tags = pa.array([], pa.list_(pa.string())) if lists is None else lists
        return pa.table(
            {
                IMAGE_ID: pa.array(ids, pa.string()),
                FEATURES: column,
                TAGS: tags,
                SPLIT: pa.array(splits, pa.string()),
            }
        )

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "nuswide",
            "input": self.root,
            "tags": self.tags,
            "split": "official",  # this and the seed stay: a store made before is known again by them
            "seed": 0,
            "features": list(self.features),
            "D": self.dim,
        }


def _ids(file: LineFile, start: int, stop: int) -> list[str]:
    """Image ids of lines of an image list."""
    try:
        text = file.read(start, stop).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.path}: not UTF-8 ({one_line(error)})") from error
    return [line.strip().replace("\\", "/") for line in text.split("\n")[:-1]]


# ---- finding and checking files


def _find(root: Path, folders: tuple[str, ...], name: str) -> Path:
    for folder in folders:
        if (root / folder / name).exists():
            return root / folder / name
    places = " or ".join(str(root / folder) for folder in folders[:2])
    raise InputError(f"{root}: no {name} in {places}; unpack all archives of NUS-WIDE there")


def _data_paths(root: Path, chosen: tuple[str, ...]) -> tuple[list[Path], list[list[Path]]]:
    images = [_find(root, _LIST_FOLDERS, f"{part}Imagelist.txt") for part in PARTS]
    matrices = [
        [
            _find(
                root,
                _FEATURE_FOLDERS,
                f"BoW_{part}_int.dat" if kind == "BoW" else f"{part}_Normalized_{kind}.dat",
            )
            for kind in chosen
        ]
        for part in PARTS
    ]
    return images, matrices


def _names(path: Path) -> list[str]:
    """Lines of a list of names; blank ones at the end do not count."""
    try:
        lines = path.read_text("utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    names = [line.strip() for line in lines]
    if "" in names:
        raise InputError(f"{path} line {names.index('') + 1}: empty; every line must hold a name")
    return names


def _tags1k(root: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    names = _names(_find(root, _TAG_FOLDERS, "TagList1k.txt"))
    return tuple(names), [[_find(root, _TAG_FOLDERS, f"{part}_Tags1k.dat")] for part in PARTS]


def _concepts(root: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    listed = _find(root, _CONCEPT_FOLDERS, "Concepts81.txt")
    names = _names(listed)
    folder = next((root / f for f in _LABEL_FOLDERS if (root / f).is_dir()), None)
    if folder is None:
        raise InputError(f"{root}: no folder {_LABEL_FOLDERS[0]}; unpack Groundtruth there")
    for line, name in enumerate(names, 1):
        if names.index(name) != line - 1:
            first = names.index(name) + 1
            raise InputError(f"{listed} line {line}: {name!r} is on line {first} already")
        for part in PARTS:
            if not (folder / f"Labels_{name}_{part}.txt").is_file():
                raise InputError(
                    f"{listed} line {line}: {name!r} has no file Labels_{name}_{part}.txt in {folder}"
                )
    for path in sorted(folder.glob("Labels_*_T*.txt")):
        name = path.name.removeprefix("Labels_").rpartition("_")[0]
        if name not in names:
            raise InputError(
                f"{path}: concept {name!r} is on no line of {listed}; add it there or remove the file"
            )
    labels = [[folder / f"Labels_{name}_{part}.txt" for name in names] for part in PARTS]
    return tuple(names), labels


def _chosen(features: list[str] | None) -> tuple[str, ...]:
    wanted = list(FEATURE_SIZES) if features is None else features
    for name in wanted:
        if name not in FEATURE_SIZES:
            raise InputError(f"features {name!r}: use some of {', '.join(FEATURE_SIZES)}")
    if not wanted:
        raise InputError(f"no features chosen: use some of {', '.join(FEATURE_SIZES)}")
    return tuple(name for name in FEATURE_SIZES if name in wanted)


def _check_lines(part: _Part) -> None:
    """All files have a line for every image."""
    wanted = part.images.lines
    if not wanted:
        raise InputError(f"{part.images.path}: the list is empty; it must name an image a line")
    for file in (*part.features, *part.tags):
        if file.lines != wanted:
            what = "is missing" if file.lines < wanted else "is one too many"
            raise InputError(
                f"{file.path}: {file.lines} lines, but {part.images.path} has {wanted}; "
                f"line {min(file.lines, wanted) + 1} {what}"
            )


def _check_columns(part: _Part, chosen: tuple[str, ...], tags: int) -> None:
    """The first line of each file has as many values as it should; the others are seen when read."""
    for file, kind in zip(part.features, chosen, strict=True):
        read_numbers(file, 0, 1, FEATURE_SIZES[kind])
    if len(part.tags) == 1:
        columns = len(part.tags[0].read(0, 1).split())
        if columns != tags:
            raise InputError(
                f"{part.tags[0].path} line 1: {columns} values, but the list of tags has {tags} "
                "lines; they must agree"
            )


def _check_ids(parts: list[_Part]) -> None:
    lists = [pa.array(_ids(part.images, 0, part.images.lines), pa.string()) for part in parts]

    def place(row: int) -> str:
        second = row >= len(lists[0])
        return f"{parts[second].images.path} line {row - second * len(lists[0]) + 1}"

    ids = pa.concat_arrays(lists)
    code = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(code, return_index=True)
    if len(first) != len(code):
        again = int(np.setdiff1d(np.arange(len(code)), first)[0])
        raise InputError(
            f"{place(again)}: {ids[again].as_py()!r} is on {place(int(first[code[again]]))} already; "
            "image ids must differ"
        )
    empty = pc.index(ids, "").as_py()
    if empty >= 0:
        raise InputError(f"{place(empty)}: empty; every line must name an image")
