"""The last words of a training: is the model better than naming the most frequent tags?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed.training.watch import TRAINING_ROWS
from drel_core.bundle.info import BundleInfo
from drel_core.scoring.floor import BELOW, beats_floor, beside_floor, first_check


@dataclass(frozen=True)
class Verdict:
    """What is said of a model.

    Attributes:
        lines: for people, in order.
        warnings: of these the ones that say that something is wrong; empty where all is well.
    """

    lines: list[str]
    warnings: list[str]


def verdict(info: BundleInfo, test: Mapping[str, Any] | None) -> Verdict:
    """Of the most telling rows that were scored: the test part, rows that the model was not trained on, rows
    that other fits left out, and only then training rows.

    Args:
        info: of the bundle, whose ``train`` holds what was seen in training.
        test: metrics of the test part, where there is one.
    """
    if info.method == "popularity":
        return Verdict([], [])
    watch, left_out = info.train.get("watch"), info.train.get("left_out")
    if watch is not None and watch["kind"] == TRAINING_ROWS and left_out is not None:
        watch = left_out
    found, rows = (test, "test images") if test is not None else (watch, "")
    warnings = list(info.train.get("warnings", []))
    lines = []
    if found is not None:
        count = found["images"] if test is not None else found["rows"]
        what = rows or found["kind"]
        if count == 1:
            what = what.replace("rows", "row").replace("images", "image")
        on = f"on {count} {what}: {beside_floor(found)}"
        if not beats_floor(found):
            warnings.append(f"{BELOW} {on}. {_advice(info)}")
        else:
            lines.append(f"above the popularity floor {on}")
            if test is not None or found["kind"] != TRAINING_ROWS:
                warnings = []  # what was feared did not come true
            else:
                lines.append(
                    "training rows do not tell what the model does with new images: --data.test STORE or "
                    "--data.validation 0.1 does"
                )
    return Verdict([*lines, *(f"WARNING: {text}" for text in warnings)], warnings)


def _advice(info: BundleInfo) -> str:
    """What to try, in one sentence."""
    config = info.config or {}
    k = config.get("k", 0)
    check = first_check(k, info.num_tags)
    if k >= info.num_tags:
        return f"{check}."
    if info.method in ("knn", "svm") or not config.get("optim"):
        return f"{check}."
    if info.parent is not None:
        return f"{check}; else try another --lr or more --epochs (now {config['epochs']})."
    return (
        f"{check}; else try another --optim.lr (now {config['optim']['lr']:g}) or --table.lr (now "
        f"{config['table']['lr']:g}), more --epochs (now {config['epochs']}), less --optim.weight_decay (now "
        f"{config['optim']['weight_decay']:g})."
    )
