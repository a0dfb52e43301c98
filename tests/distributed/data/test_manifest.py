"""Where features come from travels with a store, and different ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distributed.data.manifest import check_same_features, features_of
from drel_core.errors import InputError

LITE = {"kind": "cnn", "name": "efficientnet-lite0", "weights_sha256": "ab", "precision": "fp32"}


def test_the_manifest_is_found_beside_and_above(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "train").mkdir(parents=True)
    (store / "train" / "part.parquet").touch()
    assert features_of(str(store / "train")) is None
    (store / "manifest.json").write_text(json.dumps({"features": LITE}))
    assert features_of(str(store / "train")) == LITE
    assert features_of(str(store)) == LITE
    assert features_of(f"file://{store}/train/") == LITE
    (store / "train" / "manifest.json").write_text(json.dumps({"features": None}))
    assert features_of(str(store / "train")) is None
    assert features_of(str(tmp_path / "nowhere" / "train")) is None


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"not a manifest of jobs.ingest"):
            features_of(str(tmp_path))


def test_different_features_are_refused_and_precision_is_not() -> None:
    check_same_features(LITE, "a", None, "b")
    check_same_features(LITE, "a", LITE | {"precision": "bf16"}, "b")
    with pytest.raises(
        InputError, match=r"b and a hold different features .weights_sha256 ab and cd"
    ):
        check_same_features(LITE, "a", LITE | {"weights_sha256": "cd"}, "b")
