"""Is what lies in an output folder this run's own? A note in it says what began it.

Neither pyarrow nor Ray is imported here: checkpoints ask as well.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from drel_core.errors import InputError


class Notes(Protocol):
    """A ``Folder``, as far as it is needed here."""

    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, data: bytes) -> None: ...


def differing(before: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Names of what ``plan`` says otherwise than an earlier one, which was read from JSON."""
    now = json.loads(json.dumps(plan))
    return [name for name in now if before.get(name) != now[name]]


def check_same(place: object, before: dict[str, Any], plan: dict[str, Any], refusal: str) -> None:
    """What an earlier plan made may be used by this one.

    Args:
        place: where it lies.
        refusal: what to say otherwise; in it {names} stands for what differs, {values} for how.

    Raises:
        InputError: the plans differ.
    """
    names = differing(before, plan)
    if names:
        values = "; ".join(f"{name} {before.get(name)} before, {plan[name]} now" for name in names)
        raise InputError(f"{place}: {refusal.format(names=', '.join(names), values=values)}")


def read_note(folder: Notes, name: str) -> dict[str, Any] | None:
    """A JSON file of a folder; None where there is none.

    Raises:
        InputError: it is no JSON, or cannot be read.
    """
    try:
        data = folder.read(name)
        content: dict[str, Any] | None = None if data is None else json.loads(data)
        return content
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}/{name}: cannot be read ({error}); choose a new --out") from None


def write_note(folder: Notes, name: str, content: dict[str, Any]) -> None:
    folder.write(name, (json.dumps(content, indent=1) + "\n").encode())


def claim(folder: Notes, name: str, plan: dict[str, Any], refusal: str) -> bool:
    """Note in a folder what this run is, or find that the same plan began it: then it is gone on with.

    Returns:
        whether there is something to go on with.

    Raises:
        InputError: another plan began it (see ``check_same``), or its note is damaged.
    """
    before = read_note(folder, name)
    if before is None:
        write_note(folder, name, plan)
        return False
    check_same(folder, before, plan, refusal)
    return True
