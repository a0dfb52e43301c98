"""The model bundle: one folder that never changes, without pickle, which evaluation and serving load.

config.json              what the bundle is, see ``BundleInfo``
vocabulary.json          tag names and training counts
vocabulary.yaml          rules of tags, see ``TagRules``; most bundles have none
*.safetensors            the model; the method's annotator says which files
codebook.safetensors     of low-level features, where the store had it
tag_text.safetensors     text vectors of the tags' names, see ``TagText``; where training was given a source
README.md                the model card, see ``card``; bundles of before have none, and nothing reads it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drel_core.bundle.info import FORMAT, BundleInfo
from drel_core.bundle.safe_loading import read_text
from drel_core.bundle.tag_rules import VOCABULARY_FILE, TagRules
from drel_core.bundle.tensor_files import tensor_file_error
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.did_you_mean import near_path
from drel_core.errors import InputError, disk_fault
from drel_core.version import written_by

CODEBOOK = "codebook.safetensors"
"""``word_K128``, the visual words of low-level features, so that pictures can be described again."""
LATEST = "latest"
"""In a folder that holds several bundles, the file that names the one to use."""


def write_bundle(folder: Path, method: str, vocabulary: Vocabulary, about: dict[str, Any]) -> str:
    """Write ``vocabulary.json`` and ``config.json`` beside the tensors that are in ``folder`` already.

    Args:
        about: what else ``config.json`` says.

    Returns:
        The version, see ``content_version``.
    """
    write_json(folder / "vocabulary.json", vocabulary.to_dict())
    version = content_version(folder)
    config = {
        "format": FORMAT,
        "method": method,
        "version": version,
        "written_by": written_by(),
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_tags": len(vocabulary),
        **about,
    }
    write_json(folder / "config.json", config)
    return version


def content_version(folder: Path) -> str:
    """12 hexadecimal digits: hash of the tensor files, the vocabulary and its rules."""
    digest = hashlib.sha256()
    rules = [path for path in [folder / VOCABULARY_FILE] if path.is_file()]
    for path in [*sorted(folder.glob("*.safetensors")), folder / "vocabulary.json", *rules]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def write_json(path: Path, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write under another name, then rename: a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class _NoBundle(InputError):
    """A folder can be read, and holds none."""


def bundle_place(read: Callable[[str], str | None], folder: str) -> str:
    """Where the bundle lies below a folder that the user gave, as a relative path.

    ``config.json`` is looked for in the folder itself ("") and in ``model``. Where the folder holds a file
    ``latest``, both are looked for in the folder that this file names.

    Args:
        read: gives the content of a file below the folder, or None where there is none.
        folder: its name, for messages.

    Raises:
        InputError: no bundle is there, or ``latest`` names no folder beside it.
    """
    version = ""
    pointer = read(LATEST)
    if pointer is not None:
        version = pointer.strip()
        plain = 0 < len(version) < 256 and version.isprintable()
        if not plain or Path(version).is_absolute() or ".." in Path(version).parts:
            raise InputError(
                f"{folder}/{LATEST}: names {version[:256]!r}; it must name a folder beside it"
            )
        version += "/"
    for place in (version, f"{version}model/"):
        if read(f"{place}config.json") is not None:
            return place.rstrip("/")
    at = f"{folder}/{version}".rstrip("/")
    raise _NoBundle(_no_bundle(at, "config.json is missing"))


def _no_bundle(at: str | Path, why: str) -> str:
    return f"{at}: no model bundle ({why}); give --model a folder written by jobs.train, OUT/model"


def bundle_folder(folder: str | Path) -> Path:
    """The bundle that a local folder means, see ``bundle_place``.

    Raises:
        InputError: there is none, or a link leads out of the folder.
    """
    at = Path(folder)

    def read(name: str) -> str | None:
        path = at / name
        try:
            if not path.is_file():
                return None
            with open(
                path, "rb"
            ) as file:  # the start is enough: of config.json its presence matters
                return file.read(1024).decode("utf-8", errors="replace")
        except PermissionError:
            raise InputError(_unreadable(path)) from None

    try:
        place = at / bundle_place(read, str(at))
    except _NoBundle as error:
        text = str(error) if at.exists() else _no_bundle(at, "there is no such folder")
        raise InputError(f"{text}{_near(at)}") from None
    if not place.resolve().is_relative_to(at.resolve()):
        raise InputError(f"{place}: a link that leads out of {at}; copy the bundle in its place")
    return place


def _near(at: Path) -> str:
    """What was perhaps meant: the training folder that it lies in, or one beside it."""

    def holds(folder: Path) -> bool:
        return any((folder / name).is_file() for name in ("config.json", "model/config.json"))

    if (at / LATEST).is_file():
        return ""
    above = at.parent if at.parent.name != "model" else at.parent.parent
    if holds(above):
        return f"; did you mean {above}?"
    return near_path(at, holds)


def _unreadable(path: object) -> str:
    return f"{path}: may not be read by this user; give access (chmod -R a+rX the model's folder)"


def read_info(folder: Path) -> BundleInfo:
    """``config.json``.

    Raises:
        InputError: damaged, or of a format or method that this version does not know.
    """
    with reading(folder):
        return BundleInfo.parse(read_text(folder / "config.json"), str(folder))


def parse_info(text: str, folder: str) -> BundleInfo:
    """``config.json`` of its text; ``folder`` names the bundle in messages.

    Raises:
        InputError: see ``read_info``.
    """
    with reading(folder):
        return BundleInfo.parse(text, folder)


def read_vocabulary(folder: Path) -> Vocabulary:
    """``vocabulary.json``.

    Raises:
        InputError: it is damaged.
    """
    with reading(folder):
        return Vocabulary.from_dict(json.loads(read_text(folder / "vocabulary.json")))


def read_rules(folder: Path) -> TagRules:
    """``vocabulary.yaml``; no rules where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = folder / VOCABULARY_FILE
    return TagRules.load(path) if path.is_file() else TagRules()


def write_rules(folder: Path, rules: TagRules | None) -> None:
    """Write the rules of a bundle's tags, before ``write_bundle``; nothing where there are none."""
    if rules:
        _write_text(folder / VOCABULARY_FILE, rules.to_yaml())


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """Turn every error of reading a damaged bundle into an ``InputError`` of one line.

    Raises:
        OSError: a disk is full, which is no fault of the bundle.
    """
    try:
        yield
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        ArithmeticError,
        tensor_file_error(),
    ) as error:
        if isinstance(error, InputError) or disk_fault(error) is not None:
            raise
        if isinstance(error, PermissionError):
            raise InputError(_unreadable(error.filename or folder)) from error
        raise InputError(
            f"{folder}: the model bundle is damaged ({error})".splitlines()[0]
        ) from error
