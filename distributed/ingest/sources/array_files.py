"""Matrices in .npy, .npz, MATLAB and HDF5 files, read by rows where the format lets us."""

from __future__ import annotations

import importlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.io

from distributed.storage.files import one_line
from drel_core.errors import InputError

ARRAY_SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".hdf")
_READ_FAULTS = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, NotImplementedError, struct.error),
    *(zipfile.BadZipFile, zlib.error, scipy.io.matlab.MatReadError),
    *(SyntaxError, tokenize.TokenError),  # numpy parses a header as Python's literals
)
_STRING_KINDS = "USO"


@dataclass(frozen=True)
class ArrayFile:
    """A matrix in a file. Holds no rows: each read opens the file.

    .npy, .npz as ``numpy.savez`` writes it, HDF5 and MATLAB 7.3 are read by rows; compressed .npz
    and older .mat have to be read whole, once a process.
    """

    path: str
    name: str
    rows: int
    dim: int
    half: bool = False
    """values are float16"""
    transposed: bool = False
    """MATLAB writes columns first into HDF5"""

    @staticmethod
    def open(path: str, name: str) -> ArrayFile:
        """Find the matrix and its shape.

        Raises:
            InputError: the file is not there or damaged, or holds no such matrix of numbers.
        """
        if "://" in path:
            raise InputError(
                f"{path}: arrays are read from a local or mounted file; copy it to one, "
                "or write the features to Parquet"
            )
        if not Path(path).expanduser().is_file():
            raise InputError(f"{path}: no such file; give --features_file an array file")
        path = str(Path(path).expanduser().absolute())
        with _arrays(path) as (shapes, _):
            fitting = [
                n for n, (shape, kind) in shapes.items() if len(shape) == 2 and kind.kind in "fiub"
            ]
            held = ", ".join(f"{n} {shape}" for n, (shape, _) in shapes.items()) or "none"
            if not name and len(fitting) != 1:
                raise InputError(
                    f"{path}: {len(fitting)} arrays with rows and columns of numbers; it holds {held}; "
                    "name the right one with --features_array"
                )
            name = name or fitting[0]
            if name not in shapes:
                raise InputError(
                    f"{path}: no array {name!r}; it holds {held}; "
                    "name the right one with --features_array"
                )
            if name not in fitting:
                shape, _ = shapes[name]
                raise InputError(
                    f"{path}: array {name!r} is {shape}; it must have rows and columns of real numbers"
                )
            shape, kind = shapes[name]
            transposed = _is_matlab_hdf5(path)
            rows, dim = reversed(shape) if transposed else shape
        if not dim:
            raise InputError(
                f"{path}: array {name!r} has D = 0; every row needs at least one value"
            )
        return ArrayFile(path, name, int(rows), int(dim), kind == np.float16, transposed)

    def take(self, row_B: np.ndarray) -> np.ndarray:
        """``[B, D]``, in stored dtype. A short span of rows is read as one piece."""
        if not len(row_B):
            return np.zeros((0, self.dim), dtype=np.float32)
        low, high = int(row_B.min()), int(row_B.max()) + 1
        with _arrays(self.path) as (shapes, get):
            shape, _ = shapes.get(self.name, ((), None))
            if tuple(shape) != (
                (self.dim, self.rows) if self.transposed else (self.rows, self.dim)
            ):
                raise InputError(f"{self.path}: has changed since it was opened; start again")
            array = get(self.name)
            if high - low <= 4 * len(row_B) + 64:
                piece = array[:, low:high].T if self.transposed else array[low:high]
                return np.asarray(piece)[row_B - low]
            row_S, place_B = np.unique(row_B, return_inverse=True)  # HDF5 wants rising rows
            piece = array[:, row_S].T if self.transposed else array[row_S]
            return np.asarray(piece)[place_B]

    def ids(self, name: str) -> pa.Array:
        """An array of image ids in the same file, as strings.

        Raises:
            InputError: it is not there, is neither text nor whole numbers, or has not a row an id.
        """
        with _arrays(self.path) as (shapes, get):
            if name not in shapes:
                raise InputError(
                    f"{self.path}: no array {name!r}; it holds {', '.join(shapes) or 'none'}; "
                    "name the right one with --ids_array"
                )
            try:
                ids = _texts(get(name))
            except ValueError as error:
                raise InputError(f"{self.path}: array {name!r}: {one_line(error)}") from error
        if len(ids) != self.rows:
            raise InputError(
                f"{self.path}: {len(ids)} ids in {name!r}, but {self.rows} rows in {self.name!r}; "
                "they must agree"
            )
        return pa.array(ids, pa.string())


Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
"""shape and type, by name of an array"""


@contextmanager
def _arrays(path: str) -> Iterator[tuple[Shapes, Callable[[str], Any]]]:
    """Shapes of the arrays in a file, and what gets one of them (as lazily as the file allows)."""
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            yield {Path(path).stem: (array.shape, array.dtype)}, lambda _: array
        elif suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                yield _npz_shapes(archive), lambda name: _npz_array(path, name)
        elif suffix == ".mat" and not _is_matlab_hdf5(path):
            shapes: Shapes = {
                name: (shape, np.dtype(_MATLAB_KINDS.get(kind, "f8")))
                for name, shape, kind in scipy.io.whosmat(path)
            }
            yield shapes, lambda name: _mat_array(path, name, Path(path).stat().st_mtime_ns)
        elif suffix in ARRAY_SUFFIXES:
            with _h5py(path).File(path, "r") as file:
                yield _hdf5_shapes(file), lambda name: _Dataset(file, file[name])
        else:
            raise InputError(
                f"{path}: not a file of arrays by its name; it must end in {', '.join(ARRAY_SUFFIXES)}"
            )
    except InputError:
        raise
    except _READ_FAULTS as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); write it again") from error


_MATLAB_KINDS = {
    "char": "U",
    "cell": "O",
    "struct": "V",
    "object": "V",
    "sparse": "V",
    "function": "V",
    "opaque": "V",
    "logical": "?",
}


def _npz_shapes(archive: zipfile.ZipFile) -> Shapes:
    shapes: Shapes = {}
    for entry in archive.namelist():
        if entry.endswith(".npy"):
            with archive.open(entry) as file:
                shape, _, dtype = _npy_header(file)
                shapes[entry.removesuffix(".npy")] = (shape, dtype)
    return shapes


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _npz_array(path: str, name: str) -> np.ndarray:
    """Memory-mapped where the archive stores it uncompressed, else decompressed whole."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            return _decompressed(path, name, Path(path).stat().st_mtime_ns)
        with archive.open(entry) as member:
            shape, fortran, dtype = _npy_header(member)
            header = member.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects; save an array of strings or numbers")
    with open(path, "rb") as file:  # the local header, whose fields vary in length
        file.seek(entry.header_offset + 26)
        names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    start = entry.header_offset + 30 + names + extra + header
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


@lru_cache(maxsize=2)
def _decompressed(path: str, name: str, changed: int) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        array: np.ndarray = archive[name]
        return array


@lru_cache(maxsize=2)
def _mat_array(path: str, name: str, changed: int) -> np.ndarray:
    array: np.ndarray = scipy.io.loadmat(path, variable_names=[name], chars_as_strings=True)[name]
    return array


def _is_matlab_hdf5(path: str) -> bool:
    """MATLAB 7.3: HDF5 after a header of 512 bytes."""
    if Path(path).suffix.lower() != ".mat":
        return False
    with open(path, "rb") as file:
        head = file.read(520)
    return head[512:] == b"\x89HDF\r\n\x1a\n" or head[:8] == b"\x89HDF\r\n\x1a\n"


def _h5py(path: str) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise InputError(
            f"{path}: HDF5 and MATLAB 7.3 files need h5py: pip install h5py; "
            "or save the array as .npy"
        ) from error


def _hdf5_shapes(file: Any) -> Shapes:
    shapes: Shapes = {}

    def note(name: str, item: Any) -> None:
        if hasattr(item, "shape") and item.shape is not None and not name.startswith("#"):
            shapes[name] = (tuple(item.shape), item.dtype)

    file.visititems(note)
    return shapes


class _Dataset:
    """An HDF5 dataset; texts of MATLAB's cell arrays, which are references, are looked up."""

    def __init__(self, file: Any, data: Any) -> None:
        self.file, self.data = file, data

    def __getitem__(self, key: Any) -> np.ndarray:
        value: np.ndarray = self.data[key]
        return value

    def texts(self) -> Any:
        if self.data.attrs.get("MATLAB_class") == b"cell":
            cells = [self.file[reference][()] for reference in self.data[()].ravel()]
            return np.array(
                [
                    "".join(map(chr, c.ravel())) if c.dtype.kind == "u" else str(c.item())
                    for c in cells
                ]
            )
        value = self.data[()]
        if self.data.attrs.get("MATLAB_class") == b"char":  # letters by images
            return np.array(["".join(map(chr, row)).rstrip() for row in np.atleast_2d(value).T])
        return value


def _texts(array: Any) -> list[str]:
    """Ids as strings: arrays of text, bytes, whole numbers, or MATLAB's cells of one text each."""
    values = np.asarray(array.texts() if isinstance(array, _Dataset) else array)
    if values.size != max(values.shape, default=0):
        raise ValueError(f"it is {values.shape}; it must hold one id a row")
    values = values.ravel()
    if values.dtype.kind in "iu":
        return [str(value) for value in values.tolist()]
    if values.dtype.kind == "f" and (np.mod(values, 1) == 0).all():  # MATLAB's numbers
        return [str(int(value)) for value in values.tolist()]
    if values.dtype.kind not in _STRING_KINDS:
        raise ValueError(f"it holds {values.dtype}; ids must be text or whole numbers")
    return [_text(value) for value in values.tolist()]


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, np.ndarray) and not value.size:
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str | int):
        raise ValueError(f"an id is {str(value)[:40]!r}; ids must be text or whole numbers")
    return str(value).strip()


# ---- the source
