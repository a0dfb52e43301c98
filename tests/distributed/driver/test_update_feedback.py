"""Feedback is learned once: what a model or its parents have learned is not taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.data.feedback import LEARNED, Correction, append
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig, UpdateData
from distributed.training.config import with_option
from drel_core.bundle.format import read_vocabulary
from drel_core.errors import InputError
from tests.helpers.stores import write_planted
from tests.helpers.training import small_config

DIM = 16


def word(image_id: str, add: list[str], remove: list[str] | None = None) -> Correction:
    value = np.random.default_rng(len(image_id)).normal(size=DIM).astype(np.float32)
    return Correction(image_id, value, add, remove or [], "v")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    store = write_planted(tmp_path / "old.parquet", 60, dim=DIM)
    config = small_config(store, tmp_path / "v0", epochs=1)
    config = with_option(config, "decision.held_out", 0.0)
    train.run(config, log=lambda line: None, launcher=launch)
    return tmp_path


def updated(folder: Path, old: str, new: str, feedback: bool = True, data: str = "") -> str:
    """What an update says."""
    lines: list[Any] = []
    config = UpdateConfig(
        model=str(folder / old),
        out=str(folder / new),
        data=UpdateData(new=data),
        from_feedback=str(folder / "feedback") if feedback else "",
        epochs=1,
    )
    update.run(config, lines.append, launcher=launch)
    return "\n".join(lines)


def learned_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    table = pq.read_table(folder / name / "feedback.parquet", columns=["image_id", "tags"])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_a_correction_is_learned_once(begun: Path) -> None:
    folder = str(begun / "feedback")
    append(folder, [word("a", ["x"]), word("b", ["y"]), word("b", ["z"])])
    assert "3 corrections: 2 images with a tag" in updated(begun, "v0", "v1")
    assert [row["tags"] for row in learned_rows(begun, "v1")] == [["x"], ["z"]]
    append(folder, [word("c", ["x"])])
    assert "is there already" in updated(begun, "v0", "v1")  # what it began with

    said = updated(begun, "v1", "v2")
    assert "1 correction, without 3 that the model has learned before: 1 image with a tag" in said
    assert [row["image_id"] for row in learned_rows(begun, "v2")] == ["c"]
    assert read_vocabulary(begun / "v2" / "model").names[12:] == ("x", "z")
    with pytest.raises(
        InputError, match=r"nothing to learn from; .*/feedback: 0 corrections, with"
    ):
        updated(begun, "v2", "v3")
    assert not (begun / "v3").exists()
    assert "1 correction" not in updated(begun, "v0", "other")  # that model has learned none
    assert len(learned_rows(begun, "other")) == 3


def test_files_that_were_put_together_are_the_same_feedback(begun: Path) -> None:
    folder = begun / "feedback"
    for name in ("a", "b"):
        append(str(folder), [word(name, ["x"])])
    updated(begun, "v0", "v1")
    one = pa.concat_tables([pq.read_table(path) for path in sorted(folder.iterdir())])
    for path in folder.iterdir():
        path.unlink()
    pq.write_table(one, folder / "all.parquet")
    with pytest.raises(InputError, match="without 2 that the model has learned before"):
        updated(begun, "v1", "v2")


def test_an_update_without_feedback_hands_on_what_was_learned(begun: Path) -> None:
    append(str(begun / "feedback"), [word("a", ["x"])])
    updated(begun, "v0", "v1")
    new = str(write_planted(begun / "new.parquet", 20, seed=1, first=900, dim=DIM))
    updated(begun, "v1", "v2", feedback=False, data=new)
    assert pq.read_table(begun / "v2" / "model" / LEARNED).num_rows == 1
    said = updated(begun, "v2", "v3", data=new)
    assert "0 corrections, without 1" in said and "learns from 20 new images" in said


def test_feedback_that_leaves_no_tag_is_nothing_to_learn(begun: Path) -> None:
    append(str(begun / "feedback"), [word("a", [], ["x"])])
    with pytest.raises(InputError, match="1 correction: 0 images with a tag"):
        updated(begun, "v0", "v1")


def test_a_damaged_list_of_what_was_learned_is_one_line(begun: Path) -> None:
    append(str(begun / "feedback"), [word("a", ["x"])])
    (begun / "v0" / "model" / LEARNED).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"learned_feedback\.parquet: damaged"):
        updated(begun, "v0", "v1")
