"""Loss and quality over the steps of a training, from the event files that it wrote."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from distributed.storage.files import READ_ERRORS
from distributed.storage.folder import Folder
from drel_core.errors import InputError

_EVENTS = "events.out.tfevents"
_POINTS = 1000
_LOOKED_AT = ("validation", "watch")

Line = list[tuple[int, float]]
"""Step and value."""


@dataclass(frozen=True)
class Curves:
    """
    Attributes:
        loss: mean loss of the steps since the one before.
        quality: F1 and oF1, and those of the popularity floor as ``floor F1`` and ``floor oF1``.
    """

    loss: Line = field(default_factory=list)
    quality: dict[str, Line] = field(default_factory=dict)


def read_curves(bundle: Folder) -> Curves:
    """Of the training that wrote a bundle: ``tensorboard`` beside it; empty where there is none."""
    folder = bundle.parent / "tensorboard"
    with tempfile.TemporaryDirectory(prefix="drel-") as local:
        try:
            names = [name for name in folder.files() if name.rpartition("/")[2].startswith(_EVENTS)]
            if not names:
                return Curves()
            for name in names:
                folder.fetch(name, Path(local))
        except (*READ_ERRORS, InputError):
            return Curves()
        return _curves(Path(local))


def _curves(folder: Path) -> Curves:
    # TensorBoard takes a third of a second to import, and other jobs do not need this.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), {SCALARS: _POINTS})
    try:
        events.Reload()
    except Exception:  # a damaged file: whatever its reader raises
        return Curves()
    names = set(events.Tags()["scalars"])

    def line(name: str) -> Line:
        if name not in names:
            return []
        return [(int(point.step), float(point.value)) for point in events.Scalars(name)]

    rows = next((name for name in _LOOKED_AT if f"{name}/F1" in names), "")
    wanted = ("F1", "oF1", "floor F1", "floor oF1")
    quality = {key: found for key in wanted if rows and (found := line(f"{rows}/{key}"))}
    return Curves(line("train/loss"), quality)
