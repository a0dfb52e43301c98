"""A model and a store that it is to score, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.manifest import check_same_dim, check_same_features, features_of
from distributed.data.picture_columns import bundle_columns
from drel_core.bundle.format import read_about


@dataclass(frozen=True)
class ModelAndStore:
    """What fits together.

    Attributes:
        address: of the bundle, wherever it lies.
        bundle: the same one on this machine.
        about: its ``config.json``.
        store: the store, with the columns that the model reads.
    """

    address: str
    bundle: Path
    about: dict[str, Any]
    store: FeatureStore


def open_for(model: str, data: str, columns: Columns, tags_needed: bool = True) -> ModelAndStore:
    """The bundle that ``model`` means and the store of ``--data``.

    Args:
        tags_needed: False for images that are yet to be annotated.

    Raises:
        InputError: one of them cannot be opened, or the store's features are not what the model takes.
    """
    address = find_bundle(model)[0].address
    bundle = local_bundle(address)
    about = read_about(bundle)
    columns = bundle_columns(about, data, columns, "--data")
    store = FeatureStore.open(data, columns, "--data", tags_needed)
    check_same_dim(data, store.image_dim, "the model takes", int(about["image_dim"]))
    check_same_features(about.get("features"), model, features_of(data), data)
    return ModelAndStore(address, bundle, about, store)
