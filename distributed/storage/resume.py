"""Is what lies in an output folder this run's own? A note in it says what began it.

A note is a plan: every option that the outcome depends on, and the content of every input (``content_of``).
Neither pyarrow nor Ray is imported here: checkpoints ask as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from drel_core.errors import InputError

_SHOWN = 5  # differences that a message names


class Notes(Protocol):
    """A ``Folder``, as far as it is needed here."""

    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, data: bytes) -> None: ...


CONTENT = "content"
"""The entry of a plan that holds a mark of each input file: files that are gone differ as well."""


class Plan(dict[str, Any]):
    """What a run is.

    Attributes:
        unsaid: what a note that does not name an entry is taken to say there, because the version that wrote
            it did not know the entry. Other entries that a note lacks differ.
    """

    def __init__(self, content: Mapping[str, Any], unsaid: Mapping[str, Any] | None = None) -> None:
        super().__init__(content)
        self.unsaid = dict(unsaid or {})

    def also(self, content: Mapping[str, Any]) -> Plan:
        """The same with more entries, which every note has."""
        return Plan({**self, **content}, self.unsaid)

    def completed(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """A note with what it leaves unsaid. Its list of files is whole or not there."""
        out = {**self.unsaid, **before}
        for name, value in self.unsaid.items():
            if name != CONTENT and isinstance(value, Mapping) and isinstance(out[name], Mapping):
                out[name] = {**value, **out[name]}
        return out


def flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names for what is nested."""
    out: dict[str, Any] = {}
    for name, value in plan.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def digest(*parts: Any) -> str:
    """Short, of bytes or of what has a ``repr`` that says all."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part if isinstance(part, bytes) else repr(part).encode())
    return state.hexdigest()[:16]


def differing(before: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What ``plan`` says otherwise than an earlier one, which was read from JSON: by dotted name, then and
    now. What the earlier one names beyond this one's entries does not count."""
    before = plan.completed(before) if isinstance(plan, Plan) else before
    now = dict(plan)
    for name, value in plan.items():  # earlier versions kept digests of what is nested now
        if isinstance(value, Mapping) and isinstance(before.get(name), str):
            now[name] = digest(value)
    then = flat({name: before[name] for name in now if name in before})
    now = flat(json.loads(json.dumps(now)))
    then = json.loads(json.dumps(then))
    return {
        name: (then.get(name), now.get(name))
        for name in [*now, *(name for name in then if name not in now)]
        if then.get(name) != now.get(name)
    }


def check_same(
    place: object,
    before: Mapping[str, Any],
    plan: Mapping[str, Any],
    refusal: str,
    free: Collection[str] = (),
) -> list[str]:
    """What an earlier plan made may be used by this one.

    Args:
        place: where it lies.
        refusal: what to say otherwise; in it {names} stands for what differs, {values} for how.
        free: dotted names of what may differ.

    Returns:
        which of these do.

    Raises:
        InputError: something else differs.
    """
    found = differing(before, plan)
    changed = [name for name in found if name in free]
    for name in changed:
        del found[name]
    if found:
        shown = list(found)[:_SHOWN]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        names = ", ".join(shown) + more
        values = "; ".join(
            f"{name} {found[name][0]} before, {found[name][1]} now" for name in shown
        )
        raise InputError(f"{place}: {refusal.format(names=names, values=values)}")
    return changed


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


def write_note(folder: Notes, name: str, content: Mapping[str, Any]) -> None:
    folder.write(name, (json.dumps(content, indent=1) + "\n").encode())


def claim(folder: Notes, name: str, plan: Mapping[str, Any], refusal: str) -> bool:
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
