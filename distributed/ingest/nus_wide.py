"""The NUS-WIDE distribution as it unpacks (Chua et al., CIVR 2009): six low-level feature files, image
lists, 81 concepts and 1000 tags, all of them text with one line an image.

    Low_Level_Features/{Train,Test}_Normalized_{CH,CORR,EDH,WT,CM55}.dat, BoW_{Train,Test}_int.dat
    ImageList/{Train,Test}Imagelist.txt
    ConceptsList/Concepts81.txt, Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt
    TagList1k.txt, NUS_WID_Tags/{Train,Test}_Tags1k.dat

Opening looks at every file once to find its lines; reading a range of images parses only their lines.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from distributed.ingest.source import FEATURES, IMAGE_ID, SPLIT, TAGS, Chunk, Rejection, rejected
from drel_core.errors import InputError

PARTS = ("Train", "Test")
# Where the archives put things, and where they end up when each is unpacked in a folder of its own.
_LOW = ("Low_Level_Features", "NUS_WID_Low_Level_Features/Low_Level_Features",
        "NUS_WID_Low_Level_Features", "NUS-WIDE-BoW", "BoW", ".")  # fmt: skip
_LISTS = ("ImageList", ".")
_TAGS = ("NUS_WID_Tags", ".")
_CONCEPTS = ("ConceptsList", ".")
_LABELS = ("Groundtruth/TrainTestLabels", "TrainTestLabels")
FEATURE_FILES = {
    "CH": ("{part}_Normalized_CH.dat", 64),
    "CORR": ("{part}_Normalized_CORR.dat", 144),
    "EDH": ("{part}_Normalized_EDH.dat", 73),
    "WT": ("{part}_Normalized_WT.dat", 128),
    "CM55": ("{part}_Normalized_CM55.dat", 225),
    "BOW": ("BoW_{part}_int.dat", 500),
}
"""In this order 1134 features. The paper prints 1164: it gives colour moments as 255."""
_STRIDE = 256  # lines between remembered places
_BLOCK = 8 << 20


@dataclass(frozen=True, kw_only=True)
class NusWideOptions:
    """Which labels and which features of NUS-WIDE."""

    labels: Literal["tags1k", "concepts81", "both"] = "tags1k"
    """tags1k: the 1000 tags of the photographers; concepts81: the 81 checked concepts"""
    features: str = "CH,CORR,EDH,WT,CM55,BOW"
    """which of the six, separated by commas; always joined in this order"""


@dataclass(frozen=True)
class LineFile:
    """A text file of which any range of lines can be read.

    Attributes:
        places: byte offset of line 0, 256, 512, …
    """

    path: str
    lines: int
    places: np.ndarray = field(repr=False)

    @staticmethod
    def open(path: Path) -> LineFile:
        """Find the lines. An empty last line does not count."""
        places, lines, at, last = [0], 0, 0, b"\n"
        try:
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10)
                    number = lines + 1 + np.arange(len(ends))
                    places += (at + 1 + ends[number % _STRIDE == 0]).tolist()
                    lines, at, last = lines + len(ends), at + len(block), block[-1:]
        except FileNotFoundError:
            raise InputError(f"{path}: missing; give --input the folder of NUS-WIDE") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        return LineFile(str(path), lines + (last != b"\n"), np.array(places, dtype=np.int64))

    def read(self, start: int, count: int) -> list[bytes]:
        """Lines ``[start, start + count)`` without their ends."""
        with open(self.path, "rb") as file:
            file.seek(self.places[start // _STRIDE])
            for _ in range(start % _STRIDE):
                file.readline()
            return [file.readline().rstrip(b"\r\n") for _ in range(count)]


def numbers(file: LineFile, start: int, count: int, columns: int) -> np.ndarray:
    """float32 ``[count, columns]``.

    Raises:
        InputError: a line holds another number of numbers, or something else; it names the line.
    """
    lines = file.read(start, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of text that is no number: seen below
        try:
            flat = np.fromstring(b" ".join(lines), dtype=np.float32, sep=" ")
        except ValueError:
            flat = np.zeros(0, dtype=np.float32)
    if len(flat) == count * columns and all(len(line.split()) == columns for line in lines):
        return flat.reshape(count, columns)
    for place, line in enumerate(lines):
        words = line.split()
        where = f"{file.path}: line {start + place + 1}"
        if len(words) != columns:
            raise InputError(f"{where} has {len(words)} numbers; it must have {columns}")
        for word in words:
            try:
                float(word)
            except ValueError:
                text = word.decode("utf-8", "replace")[:40]
                raise InputError(f"{where}: {text!r} is not a number") from None
    raise AssertionError("unreachable: some line is wrong")


@dataclass(frozen=True)
class NusWide:
    """The images of both parts, training images first."""

    root: str
    options: NusWideOptions
    lists: tuple[LineFile, LineFile]
    features: tuple[tuple[LineFile, LineFile], ...]
    sizes: tuple[int, ...]
    names: tuple[str, ...] = field(repr=False)
    tags: tuple[LineFile, LineFile] | None
    concepts: tuple[tuple[LineFile, LineFile], ...] = field(repr=False)
    official: bool = True

    @property
    def num_rows(self) -> int:
        return sum(file.lines for file in self.lists)

    @staticmethod
    def open(path: str, options: NusWideOptions, official: bool = True) -> NusWide:
        """Find all files and compare their numbers of lines.

        Args:
            official: rows carry the distribution's own split; else none.

        Raises:
            InputError: a file is missing, or has more or fewer lines than its image list.
        """
        if "://" in path:
            raise InputError(f"{path}: NUS-WIDE is read from a local or mounted folder")
        root = Path(path).expanduser().absolute()
        if not root.is_dir():
            raise InputError(f"{path}: no such folder; give --input the folder of NUS-WIDE")
        wanted = [name.strip().upper() for name in options.features.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in FEATURE_FILES]
        if unknown or not wanted:
            raise InputError(
                f"features {options.features!r}: {', '.join(unknown) or 'none'} is not one of "
                f"{', '.join(FEATURE_FILES)}"
            )
        chosen = [name for name in FEATURE_FILES if name in wanted]
        paths = [_find(root, _LISTS, f"{part}Imagelist.txt") for part in PARTS]
        for name in chosen:
            paths += [_find(root, _LOW, FEATURE_FILES[name][0].format(part=part)) for part in PARTS]
        labelled = len(paths)
        names: list[str] = []
        if options.labels != "concepts81":
            names += _names(_find(root, (".", "NUS_WID_Tags"), "TagList1k.txt"))
            paths += [_find(root, _TAGS, f"{part}_Tags1k.dat") for part in PARTS]
        concepts: list[str] = []
        if options.labels != "tags1k":
            concepts = _names(_find(root, _CONCEPTS, "Concepts81.txt"))
            paths += [
                _find(root, _LABELS, f"Labels_{name}_{part}.txt")
                for name in concepts
                for part in PARTS
            ]
        with ThreadPoolExecutor(8) as threads:
            files = list(threads.map(LineFile.open, paths))
        pairs = list(zip(files[::2], files[1::2], strict=True))
        for pair in pairs[1:]:
            for listed, other in zip(pairs[0], pair, strict=True):
                _same_length(listed, other)
        rest = pairs[labelled // 2 :]
        return NusWide(
            str(root), options, pairs[0], tuple(pairs[1 : 1 + len(chosen)]),
            tuple(FEATURE_FILES[name][1] for name in chosen), (*names, *concepts),
            rest[0] if options.labels != "concepts81" else None,
            tuple(rest[len(rest) - len(concepts) :]), official,
        )  # fmt: skip

    def read(self, start: int, rows: int) -> Chunk:
        pieces, at, stop = [], start, min(start + rows, self.num_rows)
        train = self.lists[0].lines
        while at < stop:
            part = int(at >= train)
            first, end = (at - train, stop - train) if part else (at, min(stop, train))
            pieces.append(self._read_part(part, first, end - first))
            at += end - first
        return Chunk(
            pa.concat_tables([piece.table for piece in pieces]),
            pa.concat_tables([piece.rejected for piece in pieces]),
        )

    def _read_part(self, part: int, start: int, count: int) -> Chunk:
        blocks = [
            numbers(pair[part], start, count, size)
            for pair, size in zip(self.features, self.sizes, strict=True)
        ]
        value_BD = np.concatenate(blocks, axis=1)
        relevant_BT = self._labels(part, start, count)
        row, tag = np.nonzero(relevant_BT)
        offsets = np.zeros(count + 1, dtype=np.int32)
        np.cumsum(np.bincount(row, minlength=count), out=offsets[1:])
        tags = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(self.names, pa.string()).take(pa.array(tag))
        )
        ids = [_image_id(line) for line in self.lists[part].read(start, count)]
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(value_BD.reshape(-1)), value_BD.shape[1]
        )
        split = pa.array([PARTS[part].lower() if self.official else None] * count, pa.string())
        table = pa.table({IMAGE_ID: pa.array(ids), FEATURES: column, TAGS: tags, SPLIT: split})
        good = [bool(text) for text in ids]
        bad: list[Rejection] = [
            (
                None,
                f"{self.lists[part].path} line {start + place + 1}",
                "the image list's line is empty",
            )
            for place, fine in enumerate(good)
            if not fine
        ]
        return Chunk(table.filter(pa.array(good)), rejected(bad))

    def _labels(self, part: int, start: int, count: int) -> np.ndarray:
        """bool ``[count, T]``."""
        columns = []
        if self.tags is not None:
            width = len(self.names) - len(self.concepts)
            columns.append(_flags(self.tags[part], start, count, width))
        columns += [_flags(pair[part], start, count, 1) for pair in self.concepts]
        return np.concatenate(columns, axis=1)

    def describe(self) -> dict[str, Any]:
        return {"kind": "nuswide", "input": self.root, "labels": self.options.labels,
                "features": self.options.features}  # fmt: skip


def _flags(file: LineFile, start: int, count: int, columns: int) -> np.ndarray:
    value = numbers(file, start, count, columns)
    wrong = np.argwhere((value != 0) & (value != 1))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{file.path}: line {start + row + 1}: {value[row, column]:g} in column {column + 1}; "
            "labels must be 0 or 1"
        )
    return value.astype(bool)


def _find(root: Path, folders: tuple[str, ...], name: str) -> Path:
    """The file in the first folder that has it; the usual place where none has."""
    return next(
        (root / f / name for f in folders if (root / f / name).is_file()), root / folders[0] / name
    )


def _names(path: Path) -> list[str]:
    """A list of tags or concepts, one a line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise InputError(f"{path}: missing; give --input the folder of NUS-WIDE") from None
    names = [line.strip() for line in lines if line.strip()]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"{path}: {name!r} is listed twice; remove one of them")
    if not names:
        raise InputError(f"{path}: the list is empty")
    return names


def _same_length(listed: LineFile, file: LineFile) -> None:
    if file.lines < listed.lines:
        raise InputError(
            f"{file.path}: {file.lines} lines, but {listed.path} has {listed.lines}; "
            f"line {file.lines + 1} is missing"
        )
    if file.lines > listed.lines:
        raise InputError(
            f"{file.path}: {file.lines} lines, but {listed.path} has {listed.lines}; "
            f"line {listed.lines + 1} is one too many"
        )


def _image_id(line: bytes) -> str:
    """``actor\\0001_2124494179.jpg`` as ``actor/0001_2124494179.jpg``."""
    return line.decode("utf-8", "replace").strip().replace("\\", "/")
