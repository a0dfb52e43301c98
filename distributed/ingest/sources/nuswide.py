"""NUS-WIDE as its archives unpack: six feature files, image lists, 81 concepts, 1000 tags.

Opening runs once over every file for its lines; a range of rows then reads only its own lines.
Row order: Train files, then Test files. The paper says D = 1164 for all six features; its colour
moments are 225 numbers, not 255, so D = 1134.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from distributed.ingest.sources.base import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, rejected
from distributed.ingest.sources.tag_files import lists_from_matrix
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
_BLOCK_BYTES = 4 << 20
_EVERY_BYTES = 64 << 10  # about that far apart are the lines whose offset is kept
_BLANKS_TO_NEWLINES = bytes.maketrans(b" \t\r\v\f", b"\n" * 5)


@dataclass(frozen=True)
class LineFile:
    """A text file of which any range of lines can be read.

    Attributes:
        offset_K: byte at which lines 0, every, 2 every ... start.
        content: bytes without the blank end of the file.
        size: bytes of the whole file, to notice that it has changed.
    """

    path: str
    lines: int
    every: int
    offset_K: np.ndarray = field(repr=False)
    content: int
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Lines ``[start, stop)``, each with its newline."""
        low, high = start // self.every, -(-stop // self.every)
        begin = int(self.offset_K[low])
        end = int(self.offset_K[high]) if high < len(self.offset_K) else self.content
        try:
            with open(self.path, "rb") as file:
                same = file.seek(0, 2) == self.size
                file.seek(begin)
                text = file.read(end - begin)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if not same or len(text) < end - begin:
            raise InputError(f"{self.path}: has changed since it was opened; start again")
        if not text.endswith(b"\n"):
            text += b"\n"
        newline = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
        skip = start - low * self.every
        first = int(newline[skip - 1]) + 1 if skip else 0
        return text[first : int(newline[skip + stop - start - 1]) + 1]


def index_lines(path: Path, flags: bool = False) -> tuple[LineFile, np.ndarray]:
    """One pass over a file for its lines.

    Args:
        flags: the file is a 0/1 matrix: look which lines hold a 1, and for anything else.

    Returns:
        the file, and ``has_one_B`` for each of its lines (empty without ``flags``).
    """
    offsets, ones, lines, at, content, content_lines = [np.zeros(1, np.int64)], [], 0, 0, 0, 0
    every = 1
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                byte = np.frombuffer(block, np.uint8)
                newline = np.flatnonzero(byte == 10)
                if at == 0:
                    every = max(1, _EVERY_BYTES * max(1, len(newline)) // len(block))
                if flags and block.translate(None, b"01 \t\r\n"):
                    raise InputError(_not_a_flag(path, block, lines))
                if flags:
                    ones.append(
                        np.unique(lines + np.searchsorted(newline, np.flatnonzero(byte == 49)))
                    )
                kept = len(block.rstrip())
                if kept:
                    content = at + kept
                    content_lines = lines + int(np.searchsorted(newline, kept)) + 1
                # The line after newline k of this block is line lines + k + 1.
                first = -(lines + 1) % every
                offsets.append(at + newline[first::every] + 1)
                lines, at = lines + len(newline), at + len(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    offset_K = np.concatenate(offsets)[: -(-content_lines // every)]
    has_one_B = np.zeros(content_lines if flags else 0, dtype=bool)
    for part in ones:
        has_one_B[part] = True
    return LineFile(str(path), content_lines, every, offset_K, content, at), has_one_B


def _not_a_flag(path: Path, block: bytes, lines: int) -> str:
    bad = re.search(rb"[^01 \t\r\n]", block)
    assert bad is not None
    before = block.rfind(b"\n", 0, bad.start()) + 1
    words = block[before:].partition(b"\n")[0].split()
    word = next(word for word in words if word.strip(b"01"))
    line = lines + block.count(b"\n", 0, bad.start()) + 1
    return (
        f"{path} line {line}: {word[:40].decode('utf-8', 'replace')!r}; every value must be 0 or 1"
    )


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
    split: str
    seed: int
    features: tuple[str, ...]
    parts: tuple[_Part, _Part] = field(repr=False)
    tag_names: tuple[str, ...] = field(repr=False)
    test_bits: np.ndarray | None = field(repr=False)
    """test rows of a random split, packed eight to a byte"""

    @property
    def num_rows(self) -> int:
        return sum(part.images.lines for part in self.parts)

    @property
    def dim(self) -> int:
        return sum(FEATURE_SIZES[name] for name in self.features)

    @staticmethod
    def open(
        path: str,
        tags: Literal["tags1k", "concepts"] = "tags1k",
        split: str = "official",
        seed: int = 0,
        features: list[str] | None = None,
    ) -> NusWideSource:
        """Find and count the files of the distribution.

        Args:
            tags: the 1000 frequent tags, or the 81 concepts of the ground truth.
            split: official, or random:N for N test rows among all images with tags.
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
        test_rows = _random_rows(split)
        if tags == "tags1k":
            names, tag_paths = _tags1k(root)
        else:
            names, tag_paths = _concepts(root)
        images, matrices = _data_paths(root, chosen)
        with ThreadPoolExecutor(4) as threads:
            plain = [threads.submit(index_lines, p) for p in [*images, *chain(*matrices)]]
            flags = [threads.submit(index_lines, p, True) for p in chain(*tag_paths)]
            counted = [job.result()[0] for job in plain]
            marked = [job.result() for job in flags]
        parts, has_tags = [], []
        for place in range(2):
            width, kinds = len(tag_paths[place]), len(chosen)
            mine = marked[place * width : (place + 1) * width]
            feature_files = counted[2 + place * kinds : 2 + (place + 1) * kinds]
            part = _Part(counted[place], tuple(feature_files), tuple(file for file, _ in mine))
            _check_lines(part)
            _check_columns(part, chosen, len(names))
            parts.append(part)
            has_tags.append(np.logical_or.reduce([has_one for _, has_one in mine]))
        _check_ids(parts)
        bits = None
        if test_rows is not None:
            bits = _draw(np.concatenate(has_tags), test_rows, seed, split, path)
        return NusWideSource(
            str(root), tags, split, seed, chosen, (parts[0], parts[1]), names, bits
        )

    def read(self, start: int, rows: int) -> Chunk:
        """Rows ``[start, start + rows)``; images without tags are rejected, as in the paper."""
        stop = min(start + rows, self.num_rows)
        tables, out, base = [], [], 0
        for part, name in zip(self.parts, ("train", "test"), strict=True):
            low, high = max(start - base, 0), min(stop - base, part.images.lines)
            if low < high:
                chunk = self._read_part(part, name, low, high, base)
                tables.append(chunk.table)
                out.append(chunk.rejected)
            base += part.images.lines
        if not tables:
            tables, out = [self._table([], np.zeros((0, self.dim), np.float32), None, [])], []
        return Chunk(pa.concat_tables(tables), pa.concat_tables(out) if out else rejected([]))

    def _read_part(self, part: _Part, name: str, low: int, high: int, base: int) -> Chunk:
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
        test_B = np.full(count, name == "test")
        if self.test_bits is not None:
            first = base + low
            bits = np.unpackbits(self.test_bits[first // 8 : (base + high + 7) // 8])
            test_B = bits[first % 8 : first % 8 + count].astype(bool)
        lists = lists_from_matrix(has_tag_BT[good_B], pa.array(self.tag_names, pa.string()))
        kept = [image_id for image_id, good in zip(ids, good_B, strict=True) if good]
        splits = np.where(test_B[good_B], "test", "train").tolist()
        return Chunk(self._table(kept, feature_BD[good_B], lists, splits), rejected(out))

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
            "split": self.split,
            "seed": self.seed,
            "features": list(self.features),
            "D": self.dim,
        }


# ---- parsing


def read_numbers(file: LineFile, start: int, stop: int, columns: int) -> np.ndarray:
    """float32 ``[stop - start, columns]``. Every blank becomes a newline, so that Arrow parses one
    long column: the fastest way found, and it does not mind how many blanks there are."""
    text = file.read(start, stop)
    spread = text.translate(_BLANKS_TO_NEWLINES)
    if (_tokens(text, spread) != columns).any():
        raise InputError(_bad_line(file, start, text, columns))
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(spread),
            pyarrow.csv.ReadOptions(column_names=["v"], use_threads=False, block_size=_BLOCK_BYTES),
            pyarrow.csv.ParseOptions(delimiter="\x01", quote_char=False),
            pyarrow.csv.ConvertOptions(column_types={"v": pa.float32()}, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise InputError(_bad_line(file, start, text, columns)) from error
    values: np.ndarray = table.column(0).to_numpy()
    return values.reshape(stop - start, columns)


def read_flags(file: LineFile, start: int, stop: int, columns: int) -> np.ndarray:
    """bool ``[stop - start, columns]`` of a 0/1 matrix."""
    text = file.read(start, stop)
    digits = text.translate(None, b" \t\r\v\f\n")
    per_line = _tokens(text, text.translate(_BLANKS_TO_NEWLINES))
    if (
        (per_line != columns).any()
        or len(digits) != (stop - start) * columns
        or digits.translate(None, b"01")
    ):
        raise InputError(_bad_line(file, start, text, columns, flags=True))
    return (np.frombuffer(digits, np.uint8) == 49).reshape(stop - start, columns)


def _tokens(text: bytes, spread: bytes) -> np.ndarray:
    """Words on each line of a text; ``spread`` is the text with newlines for blanks."""
    inside = np.frombuffer(spread, np.uint8) != 10
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    newline = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
    starts = np.concatenate([np.zeros(1, np.int64), newline[:-1] + 1])
    counts: np.ndarray = np.add.reduceat(begins, starts, dtype=np.int64)
    return counts


def _bad_line(file: LineFile, start: int, text: bytes, columns: int, flags: bool = False) -> str:
    """What is wrong with the first bad line: the slow way, taken once."""
    for number, line in enumerate(text.split(b"\n"), start + 1):
        words = line.split()
        if len(words) != columns and number <= start + text.count(b"\n"):
            return f"{file.path} line {number}: {len(words)} values; it must have {columns}"
        for place, word in enumerate(words, 1):
            shown = word.decode("utf-8", "replace")[:40]
            if flags and word not in (b"0", b"1"):
                return f"{file.path} line {number}: {shown!r} is value {place}; it must be 0 or 1"
            if not flags and not _is_number(word):
                return f"{file.path} line {number}: {shown!r}, value {place}, is not a number"
    return f"{file.path} lines {start + 1} and on: they hold something that is not a number"


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return b"_" not in word


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


def _random_rows(split: str) -> int | None:
    """N of random:N; None of official."""
    if split == "official":
        return None
    match = re.fullmatch(r"random:([1-9]\d*)", split)
    if match is None:
        raise InputError(f"split {split!r}: use official, or random:N with N of 1 or more")
    return int(match.group(1))


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


def _draw(has_tags_B: np.ndarray, rows: int, seed: int, split: str, path: str) -> np.ndarray:
    """Packed bits of exactly ``rows`` test rows among those with tags."""
    candidates = np.flatnonzero(has_tags_B)
    if rows >= len(candidates):
        raise InputError(
            f"split {split!r}: {path} has {len(candidates)} images with tags; use a smaller N"
        )
    test_B = np.zeros(len(has_tags_B), dtype=bool)
    test_B[np.random.default_rng(seed).choice(candidates, rows, replace=False)] = True
    return np.packbits(test_B)
