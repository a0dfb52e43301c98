"""CSV as people have it: any line ends, blanks after separators, other separators than the name promises.

Columns are read as text.
"""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs as pafs

from distributed.storage.files import one_line
from drel_core.errors import InputError

BLOCK_BYTES = 16 << 20  # Arrow's readers want every row to fit a block
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class CsvFile:
    """A CSV file whose header has been read.

    Attributes:
        path: as the user named it.
        name: in its file system.
        written: names of the columns as they stand there.
        delimiter: between columns.
    """

    filesystem: pafs.FileSystem
    path: str
    name: str
    written: tuple[str, ...]
    delimiter: str

    @property
    def names(self) -> list[str]:
        """Names of the columns, without blanks around them."""
        return [name.strip() for name in self.written]

    @staticmethod
    def open(filesystem: pafs.FileSystem, path: str, name: str, delimiter: str) -> CsvFile:
        """
        Args:
            delimiter: which the file's name promises; another one counts where the header holds that alone.

        Raises:
            InputError: there is no header, or it is not UTF-8.
        """
        with filesystem.open_input_stream(name) as stream:
            line = _first_line(stream)
        if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
            raise InputError(f"{path}: UTF-16; save it as UTF-8")
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} line 1: not UTF-8 ({one_line(error)}); save it as UTF-8"
            ) from error
        if not text.strip():
            raise InputError(f"{path} line 1: empty; it must name the columns")
        if delimiter not in text:
            delimiter = (
                max(_DELIMITERS, key=text.count) if set(_DELIMITERS) & set(text) else delimiter
            )
        try:
            written = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise InputError(
                f"{path} line 1: cannot be read ({one_line(error)}); it must name the columns"
            ) from error
        return CsvFile(filesystem, path, name, tuple(written), delimiter)

    def read(self, columns: list[str]) -> pa.Table:
        """Some columns, by their ``names``, as strings.

        Raises:
            InputError: a line cannot be read.
        """
        if any(name[:1] == " " for name in self.written):
            return self._read_with_blanks(columns)
        try:
            table = self._read(columns, threads=True)
        except pa.ArrowInvalid:
            try:  # without threads the message has the row
                table = self._read(columns, threads=False)
            except pa.ArrowInvalid as error:
                with suppress(InputError):
                    return self._read_with_blanks(columns)
                raise InputError(self._why(error)) from error
        quoted = [pc.match_substring_regex(column, '^ +"') for column in table.columns]
        if any(pc.any(column).as_py() for column in quoted):
            with suppress(InputError):  # then such a quote is a letter
                return self._read_with_blanks(columns)
        return table

    def _read(self, columns: list[str], threads: bool) -> pa.Table:
        written = [self.written[self.names.index(column)] for column in columns]
        with self.filesystem.open_input_stream(self.name) as stream:
            table = pyarrow.csv.read_csv(
                stream,
                pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=threads),
                pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    include_columns=written,
                    column_types=dict.fromkeys(written, pa.string()),
                    strings_can_be_null=False,
                ),
            )
        return table.rename_columns(columns)

    def _read_with_blanks(self, columns: list[str]) -> pa.Table:
        """Where blanks follow separators, as in ``1, "cat,dog"``. Arrow takes such a quote for a letter."""
        places = [self.names.index(column) for column in columns]
        found: list[list[str]] = [[] for _ in columns]
        try:
            with self.filesystem.open_input_stream(self.name) as stream:
                text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
                reader = csv.reader(
                    text, delimiter=self.delimiter, skipinitialspace=True, strict=True
                )
                next(reader)
                for row in reader:
                    if not row:
                        continue
                    if len(row) != len(self.names):
                        raise InputError(
                            f"{self.path} line {reader.line_num}: {len(row)} values, but "
                            f"{len(self.names)} columns; {self._quoting}"
                        )
                    for values, place in zip(found, places, strict=True):
                        values.append(row[place])
        except csv.Error as error:
            raise InputError(f"{self.path}: {one_line(error)}; {self._quoting}") from error
        except UnicodeDecodeError as error:
            raise InputError(self._why(error)) from error
        return pa.table({c: pa.array(v, pa.string()) for c, v in zip(columns, found, strict=True)})

    @property
    def _quoting(self) -> str:
        return f"values that hold {self.delimiter!r} or quotes must be quoted"

    def _why(self, error: Exception) -> str:
        """What is wrong with a file that cannot be read: the slow way, taken once."""
        with self.filesystem.open_input_stream(self.name) as stream:
            data = stream.read()
        for number, line in enumerate(_LINE_END.split(data), 1):
            try:
                line.decode()
            except UnicodeDecodeError as bad:
                shown = line[max(0, bad.start - 20) : bad.start + 20].decode("latin-1")
                return (
                    f"{self.path} line {number}: not UTF-8 (as Latin-1 it would be {shown!r}); save the "
                    "file as UTF-8"
                )
        return f"{self.path}: {one_line(error)}; rows count from 1 with the header, {self._quoting}"


def _first_line(stream: pa.NativeFile) -> bytes:
    """The header with its end; a line end between quotes is part of it."""
    head = b""
    while True:
        more = stream.read(1 << 16)
        head += more
        for end in _LINE_END.finditer(head):
            line = head[: end.end()]
            if line.count(b'"') % 2 == 0:
                return line
        if not more:
            return head
