"""What ``config.json`` says of a bundle."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from drel_core.errors import InputError

FORMAT = 1
METHODS = ("drel", "wsabie", "knn", "svm", "cnn-softmax", "cnn-hinge", "cnn-warp", "popularity")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REQUIRED = {"num_tags": int, "trained_at": str, "train": dict}
_OPTIONAL = {
    "image_dim": int,
    "images": int,
    "written_by": str,
    "features": dict,
    "pictures": dict,
    "columns": list,
    "parent": str,
    "config": dict,
}


@dataclass(frozen=True)
class FeatureBlock:
    """A features column that a model was trained on, and its D."""

    name: str
    dim: int


@dataclass(frozen=True)
class BundleInfo:
    """The description of a bundle, checked: a stranger may have written it.

    Attributes:
        method: one of METHODS.
        version: hash of the bundle's tensors and vocabulary; goes into logs, metrics and predictions.
        num_tags: T.
        trained_at: ISO 8601, UTC.
        written_by: version of the code; None in bundles of before it was kept.
        train: figures of the training run.
        features: where the features come from, as the store's manifest says; None where it does not.
        columns: name and D of each features column, in the order in which they are concatenated; None in
            bundles of before and for models of pictures. Ask ``blocks``.
        pictures: how a model of pictures takes them (``Preprocessing``); None for models of features.
        images: training images of the model and of those that it was updated from; None where the bundle
            does not say it.
        parent: version of the model that this one was updated from.
        config: the resolved configuration of the training run.
        content: the whole file. Each annotator reads in it what it wrote itself; unknown keys are kept.
    """

    method: str
    version: str = ""
    num_tags: int = 0
    trained_at: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    written_by: str | None = None
    features: dict[str, Any] | None = None
    pictures: dict[str, Any] | None = None
    columns: list[dict[str, Any]] | None = None
    images: int | None = None
    parent: str | None = None
    config: dict[str, Any] | None = None
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def image_dim(self) -> int:
        """D. The first bundles of DREL say it with the model's sizes alone.

        Raises:
            KeyError: the bundle does not say it.
        """
        dim = self.content.get("image_dim")
        return int(self.content["model"]["image_dim"] if dim is None else dim)

    @property
    def blocks(self) -> tuple[FeatureBlock, ...]:
        """The features columns of the model, in the order in which they are concatenated. Of an older bundle
        the one that its configuration names.

        Raises:
            KeyError: the bundle does not say D.
        """
        if self.columns is not None:
            return tuple(FeatureBlock(block["name"], block["dim"]) for block in self.columns)
        data = (self.config or {}).get("data")
        names = data.get("columns") if isinstance(data, dict) else None
        name = names.get("features") if isinstance(names, dict) else None
        return (FeatureBlock(str(name or "features"), self.image_dim),)

    @property
    def carried(self) -> dict[str, Any]:
        """What a bundle that is made of this one goes on saying: all but what ``write_bundle`` says."""
        own = ("format", "method", "version", "written_by", "num_tags")
        return {name: value for name, value in self.content.items() if name not in own}

    @staticmethod
    def parse(text: str, folder: str) -> BundleInfo:
        """Of the file's text; ``folder`` names the bundle in messages.

        Raises:
            InputError: of a format or method that this version does not know, or a part that every bundle has
                is missing or of another type.
            ValueError: no JSON.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise InputError(f"{folder}: the model bundle is damaged (config.json is no object)")
        if content.get("format") != FORMAT:
            raise InputError(
                f"{folder}: bundle format {content.get('format')!r}; this version reads {FORMAT}"
            )
        if content.get("method") not in METHODS:
            raise InputError(
                f"{folder}: bundle of method {content.get('method')!r}; this version reads "
                f"{', '.join(METHODS)}"
            )
        version = content.get("version")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise InputError(
                f"{folder}: the model bundle is damaged (version {str(version)[:80]!r}; at most 64 "
                "letters, digits, dots and dashes)"
            )
        for name, kind in {**_REQUIRED, **_OPTIONAL}.items():
            value = content.get(name)
            missing = value is None and name in _OPTIONAL
            if not missing and (not isinstance(value, kind) or isinstance(value, bool)):
                raise InputError(f"{folder}: the model bundle is damaged (config.json: {name})")
        origins = (content.get("features") or {}).get("columns", {})
        if not isinstance(origins, dict) or not all(isinstance(o, dict) for o in origins.values()):
            raise InputError(f"{folder}: the model bundle is damaged (config.json: features)")
        if not _are_blocks(content.get("columns"), content.get("image_dim")):
            raise InputError(f"{folder}: the model bundle is damaged (config.json: columns)")
        return BundleInfo.of(content)

    @staticmethod
    def of(content: dict[str, Any]) -> BundleInfo:
        """Of the file's content, unchecked."""
        fields = set(BundleInfo.__dataclass_fields__) - {"content"}
        known = {name: content[name] for name in fields if name in content}
        return BundleInfo(**known, content=content)


def _are_blocks(columns: Any, image_dim: Any) -> bool:
    """Whether ``columns`` is None, or different names with D that make up the model's."""
    if columns is None:
        return True
    for block in columns:
        if not isinstance(block, dict) or not isinstance(block.get("name"), str):
            return False
        if type(block.get("dim")) is not int or block["dim"] < 1:
            return False
    names = [block["name"] for block in columns]
    return len(set(names)) == len(names) and sum(b["dim"] for b in columns) == image_dim
