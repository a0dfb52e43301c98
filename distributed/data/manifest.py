"""Whether the features of two places are the same: D, and what a store's manifest says of the network or the
codebook, and of how pictures were prepared."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from distributed.data.columns import Columns, sibling_option
from distributed.data.feature_store import FeatureStore
from distributed.storage.files import one_line, resolve
from drel_core.bundle.info import FeatureBlock
from drel_core.errors import InputError


def features_of(path: str, columns: Columns | None = None) -> dict[str, Any] | None:
    """The ``features`` of ``manifest.json`` in the store's folder or the one above it.

    Of a store with several features columns: what it says of the one that is read, or by their names of
    those that are, in their order.

    ``jobs.ingest`` writes ``OUT/manifest.json`` for ``OUT/train`` and ``OUT/test``. None where there is
    no manifest, or the features came ready-made.

    Raises:
        InputError: there is a manifest and it cannot be read.
    """
    return _from_manifest(
        path, lambda manifest: _of_columns(manifest["features"], columns or Columns())
    )


def tags_of(path: str) -> int | None:
    """T, as the manifest says it; None where there is none.

    Raises:
        InputError: there is a manifest and it cannot be read.
    """
    return _from_manifest(path, lambda manifest: int(manifest["T"]))


def _from_manifest(path: str, read: Callable[[dict[str, Any]], Any]) -> Any:
    filesystem, root = resolve(path)
    base = root.rstrip("/")
    above = base.rpartition("/")[0]
    for folder in (base, above):
        place = f"{folder}/manifest.json"
        try:
            if not folder or filesystem.get_file_info(place).type != pafs.FileType.File:
                continue
            with filesystem.open_input_stream(place) as stream:
                return read(json.loads(stream.read().decode("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, PermissionError | FileNotFoundError):
                continue
            raise InputError(
                f"{place}: not a manifest of jobs.ingest ({one_line(error)}); mend or remove it"
            ) from None
    return None


def codebook_of(path: str, features: dict[str, Any] | None) -> np.ndarray | None:
    """float32 ``[K, 128]``: the visual words of a store's low-level features; None where it has none of them,
    or no codebook beside its manifest.

    Args:
        features: what the manifest says (``features_of``).

    Raises:
        InputError: it cannot be read, or is not the one that the manifest names.
    """
    each = (features or {}).get("columns") or {"": features or {}}
    named = [about["codebook_sha256"] for about in each.values() if about.get("kind") == "lowlevel"]
    if not named:
        return None
    from drel_core.images.lowlevel import Codebook  # OpenCV and wavelets, which few stores need

    filesystem, root = resolve(path)
    base = root.rstrip("/")
    for folder in (base, base.rpartition("/")[0]):
        place = f"{folder}/codebook.npz"
        try:
            if not folder or filesystem.get_file_info(place).type != pafs.FileType.File:
                continue
            with filesystem.open_input_stream(place) as stream:
                codebook = Codebook.load(io.BytesIO(stream.read()))
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({one_line(error)})") from None
        if codebook.sha256 != named[0]:
            raise InputError(f"{place}: not the codebook that manifest.json names; put it back")
        return codebook.word_K128
    return None


def _of_columns(features: dict[str, Any] | None, columns: Columns) -> dict[str, Any] | None:
    if features is None or "columns" not in features:
        return features if len(columns.blocks) == 1 else None
    known = {name: features["columns"].get(name) for name in columns.blocks}
    if any(about is None for about in known.values()):
        return None
    return known[columns.features] if len(known) == 1 else {"columns": known}


def check_same_blocks(store: FeatureStore, blocks: Sequence[FeatureBlock]) -> None:
    """Several features columns of a store must be those of a model, in its order. They may have other names.

    Raises:
        InputError: they are not.
    """
    names, taken = store.columns.blocks, [block.name for block in blocks]
    if len(names) == 1 or len(taken) == 1:
        return
    swapped = sorted(names) == sorted(taken) and list(names) != taken
    if swapped or list(store.dims) != [block.dim for block in blocks]:
        have = ", ".join(f"{name} ({dim})" for name, dim in zip(names, store.dims, strict=True))
        wanted = ", ".join(f"{block.name} ({block.dim})" for block in blocks)
        raise InputError(
            f"{store.path}: columns and D are {have}; the model takes {wanted}, in this order; name them "
            f"so with {sibling_option(store.option, 'columns')}.features"
        )


def check_same_dim(path: str, image_dim: int, other: str, other_dim: int) -> None:
    """The features of a store must have the D of something else.

    Args:
        other: what has the other D, as in ``the model takes``.

    Raises:
        InputError: they have not.
    """
    if image_dim != other_dim:
        raise InputError(
            f"{path}: features have D = {image_dim}, {other} D = {other_dim}; "
            "both must come from the same features"
        )


def check_same_features(
    one: dict[str, Any] | None, one_name: str, other: dict[str, Any] | None, other_name: str
) -> None:
    """Features of two places must come from the same network and preparation, where both say.

    Raises:
        InputError: they differ; it says in what.
    """
    if one is None or other is None:
        return
    if "columns" in one and "columns" in other:
        for first, second in zip(one["columns"].items(), other["columns"].items(), strict=False):
            check_same_features(
                first[1], f"{first[0]} of {one_name}", second[1], f"{second[0]} of {other_name}"
            )
        return
    different = sorted(
        key
        for key in one.keys() | other.keys()
        if key != "precision" and one.get(key) != other.get(key)
    )
    if different:
        values = "; ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in different)
        raise InputError(
            f"{other_name} and {one_name} hold different features ({values}); "
            "ingest both with the same options"
        )
