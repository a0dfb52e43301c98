"""What config.json says of a bundle, as one object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drel_core.bundle.info import BundleInfo
from drel_core.errors import InputError

SOUND: dict[str, Any] = {
    "format": 1,
    "method": "drel",
    "version": "0123456789ab",
    "num_tags": 3,
    "trained_at": "2026-01-01T00:00:00+00:00",
    "train": {"seconds": 1.0},
    "image_dim": 8,
}


def test_what_is_known_is_an_attribute_and_what_is_not_is_kept() -> None:
    content = {**SOUND, "features": {"kind": "cnn"}, "parent": None, "from the future": [1]}
    info = BundleInfo.parse(json.dumps(content), "m")
    assert (info.method, info.version, info.num_tags, info.image_dim) == (
        "drel",
        "0123456789ab",
        3,
        8,
    )
    assert info.train == {"seconds": 1.0} and info.features == {"kind": "cnn"}
    assert info.parent is info.pictures is info.config is info.written_by is None
    assert info.content == content


def test_the_first_bundles_say_their_image_dim_with_the_model() -> None:
    content = {key: value for key, value in SOUND.items() if key != "image_dim"}
    assert BundleInfo.of({**content, "model": {"image_dim": 5}}).image_dim == 5
    with pytest.raises(KeyError):
        _ = BundleInfo.of(content).image_dim


@pytest.mark.parametrize(
    "change",
    [
        {"image_dim": "8"},
        {"image_dim": True},
        {"features": "cnn"},
        {"pictures": [1]},
        {"parent": 7},
        {"config": []},
        {"written_by": {}},
        {"num_tags": None},
    ],
)
def test_a_part_of_another_type_is_refused_by_its_name(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(InputError) as refused:
        BundleInfo.parse(json.dumps({**SOUND, **change}), "m")
    assert str(refused.value) == f"m: the model bundle is damaged (config.json: {name})"
