"""The encoded tags of a large model, made once a machine.

Encoding a million tags and their codes takes longer than all else that a scorer does before it can
answer. They are kept as plain arrays in a folder of this user's, and mapped from there: processes of a
machine share the memory. The folder is named by the files that it was made from.

Shapes: L latent size, T tags, n images.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distributed.bundles.locate import file_lock
from distributed.data.replay_buffer import RESERVOIR, kept_features
from distributed.storage.local_cache import cache_dir, cache_key, remove_unused
from drel_core.annotators.drel import DRELAnnotator, TagSide, encode_side, has_kernel, read_towers
from drel_core.annotators.load import answer_rules, checked_vocabulary
from drel_core.bundle.format import reading
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import check_files
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.decider import Decider
from drel_core.errors import InputError
from drel_core.scoring.tag_codes import TagCodes
from drel_core.scoring.tag_search import LEAST_RECALL, TagSearch, find_search

LEAST_TAGS = 32_768
"""With fewer, scoring each of them is as fast."""
_MEASURED_ROWS = 64
_LEAST_ROWS = 16
"""Different ones. Codes fit few rows so well that these say nothing of other images."""
_UNUSED_DAYS = 1
_KEPT = 4
"""Most folders of one machine: a million tags take a gigabyte, and versions may follow each other quickly."""
_FORMAT = 2
_ABOUT = "side.json"
_MAKING = ".making"
_LOG = logging.getLogger(__name__)


def may_search(folder: Path, info: BundleInfo) -> bool:
    """Whether codes can find a model's best tags: there are many, and no kernel scores each of them too."""
    many = info.num_tags >= LEAST_TAGS
    return info.method in ("drel", "wsabie") and many and not has_kernel(folder)


def open_with_side(folder: Path, info: BundleInfo) -> DRELAnnotator:
    """A bundle of many tags, with what this machine keeps of it; made now where it keeps nothing yet.

    Args:
        folder: on this machine; ``may_search`` holds.

    Raises:
        InputError: see ``load_bundle``.
    """
    check_files(folder)
    vocabulary = checked_vocabulary(folder, info)
    with reading(folder):
        try:
            side, search = _kept(folder, info, vocabulary)
        except OSError as error:
            _LOG.warning(
                "%s: its encoded tags cannot be kept on this machine (%s): each process makes its own; set "
                "DREL_SCRATCH to a folder with room",
                folder,
                error,
            )
            annotator = DRELAnnotator.load(folder, info, vocabulary)
            _, search = _find(folder, annotator)
        else:
            annotator = DRELAnnotator.load(folder, info, vocabulary, side)
        annotator.rules = answer_rules(folder, vocabulary)
    if search is None:
        _LOG.warning(
            "%s: every tag is scored: the bundle keeps fewer than %d rows that differ to try codes with "
            "(reservoir.rows)",
            folder,
            _LEAST_ROWS,
        )
    elif search.recall < LEAST_RECALL:
        _LOG.warning(
            "%s: every tag is scored: codes found %.2f%% of the best tags, less than %.1f%%",
            folder,
            100 * search.recall,
            100 * LEAST_RECALL,
        )
    else:
        annotator.search = search
    return annotator


def _find(folder: Path, annotator: DRELAnnotator) -> tuple[TagCodes, TagSearch] | tuple[None, None]:
    """Codes of an annotator's tags and the search by them, measured on rows that the bundle keeps; None
    where it keeps too few."""
    rows_ND = kept_features(folder, annotator.image_dim, _MEASURED_ROWS)
    if len(rows_ND) < _LEAST_ROWS:
        return None, None
    latent_nL = annotator.latents(torch.from_numpy(rows_ND))
    latent_nL = latent_nL[torch.isfinite(latent_nL).all(1)].unique(dim=0)
    if len(latent_nL) < _LEAST_ROWS:
        return None, None
    return find_search(annotator.tag_TL, annotator.bias_T, latent_nL)


def _kept(
    folder: Path, info: BundleInfo, vocabulary: Vocabulary
) -> tuple[TagSide, TagSearch | None]:
    """A bundle's tag side and the search in it, mapped from this machine's files.

    Raises:
        OSError: there is no room, or it may not be written.
        InputError, Exception: the bundle is damaged.
    """
    try:
        parent = cache_dir("tags")
    except InputError as error:  # another user's: the model can be opened all the same
        raise OSError(str(error)) from None
    state = _state(folder)
    place = parent / cache_key(f"{_FORMAT} {info.version} {state}")
    with file_lock(place):  # one process of a machine makes it, the others wait
        try:
            found = _read(place, info.num_tags)
        except Exception:  # nothing is there, or a cleaner of /tmp or a full disk took a part
            _make(folder, info, vocabulary, place)
            if _state(folder) != state:
                shutil.rmtree(place, ignore_errors=True)  # it may be named by other files
                raise InputError(
                    f"{folder}: its files changed while they were read; publish each version in a folder "
                    "of its own"
                ) from None
            found = _read(place, info.num_tags)
    os.utime(place)
    return found


def _state(folder: Path) -> str:
    """Which files a bundle has. Its version is what a file in it says: the files must be the same too."""
    others = ("config.json", "vocabulary.json", RESERVOIR)
    paths = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in others)]
    files = [(path.name, path.stat()) for path in paths if path.exists()]
    return " ".join(f"{name} {found.st_size} {found.st_mtime_ns}" for name, found in files)


def _make(folder: Path, info: BundleInfo, vocabulary: Vocabulary, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    remove_unused(place.parent, _UNUSED_DAYS, most=_KEPT - 1, making=_MAKING)
    # Of this name alone: what a killed process left goes before there is more.
    partial = place.with_suffix(_MAKING)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        model = read_towers(folder, info)
        tags, latent = len(vocabulary), model.config.latent
        side = TagSide(
            _new(partial / "tag.npy", (tags, latent)), _new(partial / "bias.npy", (tags,))
        )
        encode_side(folder, info, vocabulary, model, Decider.load(folder, tags), side)
        codes, search = _find(folder, DRELAnnotator(model, side, vocabulary, info))
        about: dict[str, Any] = {}
        if codes is not None and search is not None:
            parts = {name: part for name, part in vars(codes).items() if part is not None}
            for name, part in parts.items():
                np.save(partial / f"{name}.npy", part.numpy())
            about = {"candidates": search.candidates, "recall": search.recall, "codes": list(parts)}
        (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
        for path in partial.iterdir():
            _flush(path)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _flush(path: Path) -> None:
    """A machine that goes down must not leave a file of the right size without its content.

    Raises:
        OSError: the disk does not take it.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _read(place: Path, num_tags: int) -> tuple[TagSide, TagSearch | None]:
    about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    side = TagSide(_mapped(place / "tag.npy"), _mapped(place / "bias.npy"))
    if about == {}:
        return side, None
    codes = TagCodes(**{name: _mapped(place / f"{name}.npy") for name in about["codes"]})
    if not len(side.tag_TL) == len(side.bias_T) == len(codes.code_Th) == num_tags:
        raise ValueError(f"{place}: not of {num_tags} tags")
    return side, TagSearch(codes, *side, about["candidates"], about["recall"])


def _new(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A float32 file as a tensor that is written by filling it.

    Raises:
        OSError: there is no room.
    """
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    with open(path, "r+b") as file:
        # A write to a mapped file that finds no room would end the process.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return torch.from_numpy(array)


def _mapped(path: Path) -> Tensor:
    # "c": what is written stays in this process. Nothing is; but torch takes no array that is read-only.
    return torch.from_numpy(np.load(path, mmap_mode="c"))
