"""Whether the features of two places are the same: D, and what a store's manifest says of the network or the
codebook, and of how pictures were prepared."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.fs as pafs

from distributed.storage.files import one_line, resolve
from drel_core.errors import InputError


def features_of(path: str) -> dict[str, Any] | None:
    """The ``features`` of ``manifest.json`` in the store's folder or the one above it.

    ``jobs.ingest`` writes ``OUT/manifest.json`` for ``OUT/train`` and ``OUT/test``. None where there is
    no manifest, or the features came ready-made.

    Raises:
        InputError: there is a manifest and it cannot be read.
    """
    filesystem, root = resolve(path)
    base = root.rstrip("/")
    above = base.rpartition("/")[0]
    for folder in (base, above):
        place = f"{folder}/manifest.json"
        try:
            if not folder or filesystem.get_file_info(place).type != pafs.FileType.File:
                continue
            with filesystem.open_input_stream(place) as stream:
                manifest = json.loads(stream.read().decode("utf-8"))
            features: dict[str, Any] | None = manifest["features"]
            return features
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, PermissionError | FileNotFoundError):
                continue
            raise InputError(
                f"{place}: not a manifest of jobs.ingest ({one_line(error)}); mend or remove it"
            ) from None
    return None


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
