"""Stores of pictures instead of features: decoded, squeezed into a square and read like features of bytes.

Everything that reads a feature store reads these too: D = S * S * 3 pixel values of one byte, rows of a
square of side S one after another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from PIL import Image

from distributed.data.columns import Columns, sibling_option
from distributed.data.parquet_files import list_files, read_footer
from distributed.data.plain_types import is_text
from distributed.storage.files import READ_ERRORS, one_line, read_bytes, resolve
from drel_core.bundle.info import BundleInfo
from drel_core.errors import InputError
from drel_core.images.backbone import Preprocessing
from drel_core.images.pictures import BadPicture, decode

_UNIT_BYTES = 64 << 20
_WAITS = (0.2, 1.0, 3.0)  # seconds between attempts to read a picture


@dataclass(frozen=True, kw_only=True)
class PictureColumns(Columns):
    """Columns of a store of pictures; ``features`` names the one with encoded pictures, their paths, or
    a struct of both."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    named_by: str = ""
    """the column, or field of a struct, that says in which files pictures lie; empty: the store holds them"""

    @property
    def image_dim(self) -> int:
        return self.preprocessing.size**2 * 3

    @property
    def unit_rows(self) -> int:
        return max(16, _UNIT_BYTES // self.image_dim)

    @property
    def blocks(self) -> tuple[str, ...]:
        return (self.features,)

    def check(self, name: str, column: str, kind: pa.DataType) -> tuple[int | None, np.dtype]:
        if not may_hold_pictures(kind):
            raise InputError(
                f"{name}: column {column!r} is {kind}; it must be binary (encoded pictures), "
                "string (their paths), or a struct of bytes and path"
            )
        return self.image_dim, np.dtype(np.uint8)

    def decode(self, features: pa.Array) -> tuple[pa.Array, dict[int, str]]:
        data, path = bytes_and_paths(features)

        def load(row: int) -> Image.Image | None:
            if data is not None and data[row].is_valid:
                return decode(data[row].as_buffer())
            named = None if path is None else path[row].as_py()
            return decode(read_picture(named)) if named else None

        unusable: dict[int, BadPicture] = {}
        pixels_BSS3 = self.preprocessing.squares(range(len(features)), load, unusable)
        none_B = np.ones(len(features), dtype=bool)
        for part in (data, path):
            if part is not None:
                none_B &= part.is_null().to_numpy(zero_copy_only=False)
        nulls = none_B.nonzero()[0]
        faults = dict.fromkeys(nulls.tolist(), "the picture is null")
        faults |= {row: f"the picture is unusable: {error}" for row, error in unusable.items()}
        faults = dict(sorted(faults.items()))
        mask = None
        if faults:
            wrong_B = np.zeros(len(features), dtype=bool)
            wrong_B[list(faults)] = True
            mask = pa.array(wrong_B)
        flat = pa.array(pixels_BSS3.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, self.image_dim, mask=mask), faults


def read_picture(path: str) -> bytes:
    """
    Raises:
        BadPicture: there is no such file, or it is a pipe or a device.
        InputError: it cannot be read, not now at least. That is no property of the picture.
    """
    for wait in (*_WAITS, None):
        try:
            return read_once(path)
        except FileNotFoundError as error:
            raise BadPicture(f"{path} cannot be read ({one_line(error)})") from None
        except READ_ERRORS as error:
            if wait is None or isinstance(error, PermissionError):
                raise InputError(
                    f"{path}: cannot be read ({one_line(error)}); repeat the command when it can"
                ) from None
            time.sleep(wait)
    raise AssertionError


def read_once(path: str) -> bytes:
    """One attempt at ``read_picture``. A pipe may never give anything, and a device may never end.

    Raises:
        BadPicture: it is a pipe or a device.
        InputError: no location of this kind can be read.
        OSError, ArrowException: see ``READ_ERRORS``.
    """
    filesystem, name = resolve(path)
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    if is_local and filesystem.get_file_info(name).type == pafs.FileType.Unknown:
        raise BadPicture(f"{path} is a pipe or a device, and no file")
    return read_bytes(path)


def bytes_and_paths(pictures: pa.Array) -> tuple[pa.Array | None, pa.Array | None]:
    """What a column says of each picture; of a struct, as Hugging Face datasets write it, the bytes count
    where they are there."""
    if not pa.types.is_struct(pictures.type):
        return (None, pictures) if is_text(pictures.type) else (pictures, None)
    path = pc.struct_field(pictures, "path") if "path" in pictures.type.names else None
    return pc.struct_field(pictures, "bytes"), path


def may_hold_pictures(kind: pa.DataType) -> bool:
    """Of a column, by its plain type: encoded pictures, their paths, or a struct of both."""
    return _is_binary(kind) or is_text(kind) or _is_picture_struct(kind)


def _is_picture_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or "bytes" not in kind.names:
        return False
    named = kind.field("path").type if "path" in kind.names else pa.string()
    return _is_binary(kind.field("bytes").type) and is_text(named)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def picture_columns(
    path: str, columns: Columns, preprocessing: Preprocessing, option: str = "--data.train"
) -> PictureColumns:
    """Columns that read a store's pictures: its image column, or its path column where it has none.

    Raises:
        InputError: it has neither.
    """
    address, schema = _first_schema(path, option)
    for column in (columns.image, columns.path):
        if column in schema.names:
            kind = schema.field(column).type
            inside = f"{column}.path" if pa.types.is_struct(kind) and "path" in kind.names else ""
            return PictureColumns(
                image_id=columns.image_id,
                tags=columns.tags,
                image=columns.image,
                path=columns.path,
                features=column,
                preprocessing=preprocessing,
                named_by=column if is_text(kind) else inside,
            )
    raise InputError(
        f"{address}: no column {columns.image!r} with encoded pictures and no {columns.path!r} with "
        f"their paths; it has {', '.join(schema.names) or 'none'}; name one with "
        f"{sibling_option(option, 'columns')}.image"
    )


def _first_schema(path: str, option: str) -> tuple[str, pa.Schema]:
    """Address and columns of a store's first file."""
    filesystem, files = list_files(path, option)
    address, name, size = files[0]
    return address, read_footer(filesystem, address, name, size)[1]


def bundle_columns(info: BundleInfo, path: str, columns: Columns, option: str) -> Columns:
    """The columns that a bundle's model reads of a store: features, or pictures as it was trained on.

    Names of features columns that were given count before those of the bundle. A single column may go by the
    usual name as well.

    Args:
        info: the bundle's ``config.json``.
        path: the store; empty where there is none.

    Raises:
        InputError: the model takes pictures, and the store has none.
    """
    if info.pictures is not None:
        return picture_columns(path, columns, Preprocessing.from_dict(info.pictures), option)
    if columns.features != Columns().features:
        return columns
    names = [block.name for block in info.blocks]
    if len(names) == 1 and (not path or names[0] not in _first_schema(path, option)[1].names):
        return columns
    return replace(columns, features=",".join(names))
