from __future__ import annotations

from pathlib import Path

import pytest

from distributed.storage.folder import Folder
from distributed.storage.resume import claim, differing
from drel_core.errors import InputError

REFUSAL = "begun with another {names} ({values}); choose a new --out"


def test_a_folder_is_claimed_once_and_gone_on_with_by_the_same_plan(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    plan = {"k": 5, "units": (1, 2), "threshold": None}
    assert not claim(folder, "plan.json", plan, REFUSAL)
    assert claim(folder, "plan.json", plan, REFUSAL)


def test_another_plan_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    claim(folder, "plan.json", {"k": 5, "seed": 0, "data": "a"}, REFUSAL)
    with pytest.raises(InputError) as refused:
        claim(folder, "plan.json", {"k": 3, "seed": 0, "data": "b", "new": 1}, REFUSAL)
    assert str(refused.value) == (
        f"{tmp_path}: begun with another k, data, new (k 5 before, 3 now; data a before, b now; "
        "new None before, 1 now); choose a new --out"
    )


def test_a_damaged_note_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json: cannot be read"):
        claim(Folder(str(tmp_path)), "plan.json", {"k": 5}, REFUSAL)


def test_what_a_plan_does_not_name_does_not_count() -> None:
    assert not differing({"k": 5, "older": 1}, {"k": 5})
