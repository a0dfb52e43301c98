"""The ingress may ask a second replica with a correction that the first has kept already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distributed.data.columns import Columns
from distributed.data.feedback import Correction, append, feedback_rows, last_words, read_feedback


def test_a_correction_that_is_kept_twice_is_one_correction(tmp_path: Path) -> None:
    first = Correction("a", np.zeros(3, np.float32), ["cat"], ["dog"], "v1")
    other = Correction("b", np.ones(3, np.float32), ["sky"], [], "v1")
    once, twice = str(tmp_path / "once"), str(tmp_path / "twice")
    append(once, [first, other])
    append(twice, [first, other])
    append(twice, [first])

    def learned(folder: str) -> dict[str, list[str]]:
        table = read_feedback(folder, 3)
        rows, _ = feedback_rows(table.filter(last_words(table)), None, Columns())
        return dict(
            zip(rows.column("image_id").to_pylist(), rows.column("tags").to_pylist(), strict=True)
        )

    assert len(read_feedback(twice, 3)) == 3
    assert learned(twice) == learned(once) == {"a": ["cat"], "b": ["sky"]}
