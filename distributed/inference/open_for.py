"""A model and a store that it is to score, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.manifest import (
    check_same_blocks,
    check_same_dim,
    check_same_features,
    features_of,
)
from distributed.data.picture_columns import bundle_columns
from drel_core.bundle.format import read_info
from drel_core.bundle.info import BundleInfo


@dataclass(frozen=True)
class ModelAndStore:
    """What fits together.

    Attributes:
        address: of the bundle, wherever it lies.
        bundle: the same one on this machine.
        info: its ``config.json``.
        store: the store, with the columns that the model reads.
    """

    address: str
    bundle: Path
    info: BundleInfo
    store: FeatureStore


def open_for(model: str, data: str, columns: Columns, tags_needed: bool = True) -> ModelAndStore:
    """The bundle that ``model`` means and the store of ``--data``.

    Args:
        tags_needed: False for images that are yet to be annotated. Of what jobs.ingest wrote these are all
            rows, and else the test part.

    Raises:
        InputError: one of them cannot be opened, or the store's features are not what the model takes.
    """
    address = find_bundle(model)[0].address
    bundle = local_bundle(address)
    info = read_info(bundle)
    columns = bundle_columns(info, data, columns, "--data")
    store = FeatureStore.open(data, columns, "--data", tags_needed, "test" if tags_needed else "")
    check_same_dim(data, store.image_dim, "the model takes", info.image_dim)
    if info.pictures is None:
        check_same_blocks(store, info.blocks)
    check_same_features(info.features, model, features_of(data, columns), data)
    return ModelAndStore(address, bundle, info, store)
