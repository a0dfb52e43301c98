"""A folder, local or on ``s3://``: what it holds, and whole files in and out of it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs

from distributed.storage.files import past_short_errors, resolve, write_bytes
from distributed.storage.listing import list_tree
from distributed.storage.s3 import denied, is_s3, reach
from drel_core.errors import InputError

_CHUNK = 8 << 20


@dataclass(frozen=True)
class Folder:
    """Names of files in it are relative, with ``/`` where they lie deeper.

    Attributes:
        address: an absolute path, or ``s3://bucket/key`` with or without ``?options``.
    """

    address: str

    @staticmethod
    def of(path: str | Path) -> Folder:
        """Of what a user gives: relative to the working folder, ``~``, or ``s3://``.

        Raises:
            InputError: another kind of URI.
        """
        given = str(path)
        if is_s3(given):
            base, mark, options = given.removeprefix("s3://").partition("?")
            return Folder(f"s3://{base.rstrip('/')}{mark}{options}")
        if "://" in given:
            raise InputError(f"{given}: neither a local path nor s3://")
        return Folder(str(Path(given).expanduser().absolute()))

    @property
    def remote(self) -> bool:
        return is_s3(self.address)

    @property
    def path(self) -> Path:
        """Of a local folder."""
        assert not self.remote, self.address
        return Path(self.address)

    @property
    def name(self) -> str:
        return self.address.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Folder:
        base, mark, options = self.address.partition("?")
        return Folder(base.rstrip("/").rpartition("/")[0] + mark + options)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.file(name))

    def file(self, name: str) -> str:
        """Address of a file in the folder, or below it."""
        if not self.remote:
            return f"{self.address.rstrip('/')}/{name}"
        base, mark, options = self.address.partition("?")
        return f"{base.rstrip('/')}/{quote(name)}{mark}{options}"

    def check(self, option: str) -> None:
        """
        Raises:
            InputError: a file is there, or S3 cannot be reached with these credentials.
        """
        if self.remote:
            reach(self.address)
        elif self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self}: {option} is a file; give a folder")

    def files(self) -> dict[str, int]:
        """Names of all files below the folder, relative to it, and their bytes; {} where it is not there."""
        filesystem, root = resolve(self.address)
        with denied(self.address):
            found = list_tree(filesystem, root, missing_ok=True).files
        return {path[len(root) :].lstrip("/"): size for path, size in found}

    def has(self, name: str) -> bool:
        filesystem, path = resolve(self.file(name))
        with denied(self.address):
            return bool(filesystem.get_file_info(path).type == pafs.FileType.File)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is not there."""
        filesystem, path = resolve(self.file(name))

        def read() -> bytes:
            while True:
                with filesystem.open_input_stream(path) as stream:
                    before, data = stream.metadata(), bytes(stream.read())
                if not self.remote:
                    return data
                # Opening asks for the size and reading for so many bytes: of another object, if it was
                # written again between the two.
                with filesystem.open_input_stream(path) as stream:
                    if stream.metadata() == before:
                        return data

        try:
            with denied(self.address):
                return past_short_errors(read)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        write_bytes(self.file(name), data)

    def fetch(self, name: str, into: Path) -> None:
        """Copy a file of the folder to a local folder.

        Raises:
            InputError: its name leads out of that folder, as a name in a bucket may.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"{self}: holds a file named {name!r}; remove it")
        filesystem, path = resolve(self.file(name))
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with denied(self.address):
            _copy(filesystem, path, pafs.LocalFileSystem(), str(target))

    def put(self, name: str, source: Path) -> None:
        """Copy a local file into the folder; on S3 in parts where it is large, there when all are."""
        filesystem, path = resolve(self.file(name))
        with denied(self.address):
            if not self.remote:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            _copy(pafs.LocalFileSystem(), str(source), filesystem, path)

    def put_all(self, source: Path, last: str) -> None:
        """Copy a local folder's files into the folder; ``last`` is there when all others are."""
        names = [p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()]
        for name in sorted(names, key=lambda name: (name == last, name)):
            self.put(name, source / name)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file as a local one: itself, or a copy that goes with the block."""
        if not self.remote:
            yield self.path / name
            return
        with tempfile.TemporaryDirectory(prefix="drel-") as folder:
            self.fetch(name, Path(folder))
            yield Path(folder) / name

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write to; the file has its name in the folder when the block has ended well."""
        if self.remote:
            with tempfile.TemporaryDirectory(prefix="drel-") as folder:
                yield Path(folder) / name
                self.put(name, Path(folder) / name)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f"{name}.partial"
        try:
            yield partial
            partial.replace(self.path / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, names: list[str]) -> None:
        for name in names:
            filesystem, path = resolve(self.file(name))
            with denied(self.address):
                filesystem.delete_file(path)


def _copy(one: pafs.FileSystem, source: str, other: pafs.FileSystem, target: str) -> None:
    pafs.copy_files(
        source,
        target,
        source_filesystem=one,
        destination_filesystem=other,
        chunk_size=_CHUNK,
        use_threads=False,
    )


def check_file(path: str, option: str, example: str) -> None:
    """Whether a file can be written, as far as it shows without writing: work of hours may come before it.

    Args:
        example: a name, for messages.

    Raises:
        InputError: a folder is there, or it is no place to write to.
    """
    file = Folder.of(path)
    try:
        if not file.name or (not file.remote and file.path.is_dir()):
            raise InputError(
                f"{path}: {option} is a folder; give the file to write, such as {example}"
            )
        file.parent.check(option)
        if not file.remote and not file.path.exists():
            there = next(one for one in file.path.parents if one.exists())
            if not os.access(there, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{path}: {option} cannot be written ({error.strerror or error}); choose another file"
        ) from None
