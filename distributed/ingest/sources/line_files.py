"""Text files of numbers, a row a line, of which any range of lines can be read and parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from drel_core.errors import InputError

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


def index_lines(path: Path, flags: bool = False) -> LineFile:
    """One pass over a file for its lines.

    Args:
        flags: the file is a 0/1 matrix and must hold nothing else.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    offsets, lines, at, content, content_lines = [np.zeros(1, np.int64)], 0, 0, 0, 0
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
    return LineFile(str(path), content_lines, every, offset_K, content, at)


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
