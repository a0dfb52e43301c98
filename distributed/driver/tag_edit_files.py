"""Edits of tags as command lines and CSV files have them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from distributed.data.edited_tags import Assigned
from distributed.data.tag_values import clean_texts
from distributed.ingest.sources.csv_files import CsvFile
from distributed.storage.files import resolve
from drel_core.bundle.tag_edits import TagEdits
from drel_core.did_you_mean import did_you_mean
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag

EDITS = ("merge", "rename", "remove", "split")


def edits_of(
    merge: Sequence[str], rename: Sequence[str], remove: Sequence[str], split: Sequence[str]
) -> TagEdits:
    """Of options: ``a=b``, ``a=b``, ``a`` and ``a=b,c``.

    Raises:
        InputError: one is not of this form.
    """
    rows = [("merge", *_sides("merge", given)) for given in merge]
    rows += [("rename", *_sides("rename", given)) for given in rename]
    rows += [("remove", _name("remove", given, given), "") for given in remove]
    for given in split:
        tag, parts = _sides("split", given)
        rows += [("split", tag, _name("split", part, given)) for part in parts.split(",")]
    return _edits(rows)


def _sides(edit: str, given: str) -> tuple[str, str]:
    form = "ONE,OTHER" if edit == "split" else "OTHER"
    tag, mark, other = given.partition("=")
    if not mark:
        raise InputError(f"--{edit} {given}: give two names, --{edit} TAG={form}")
    return _name(edit, tag, given), _name(edit, other, given)


def _name(edit: str, text: str, given: str) -> str:
    name = clean_tag(text)
    if not name:
        raise InputError(f"--{edit} {given}: a name is empty")
    return name


def _edits(rows: Sequence[tuple[str, str, str]], places: Sequence[str] = ()) -> TagEdits:
    """Of (edit, tag, what it becomes), and the place where each is written."""
    found: dict[str, dict[str, list[str]]] = {edit: {} for edit in EDITS}
    for number, (edit, tag, other) in enumerate(rows):
        others = found[edit].setdefault(tag, [])
        if others and edit != "split":
            at = f"{places[number]}: " if places else ""
            same = f"{tag}={other}" if other else tag
            raise InputError(f"{at}--{edit} {same}: {tag!r} is in two edits; keep one")
        others.append(other)
    return TagEdits(
        {tag: others[0] for tag, others in found["merge"].items()},
        {tag: others[0] for tag, others in found["rename"].items()},
        tuple(found["remove"]),
        {tag: tuple(others) for tag, others in found["split"].items()},
        {tag: place for (_, tag, _), place in zip(rows, places, strict=False)},
    )


def read_edits(path: str) -> TagEdits:
    """A CSV file with columns ``edit`` (merge, rename, remove or split), ``tag`` and ``to``; of a split a
    line for each part.

    Raises:
        InputError: it cannot be read, or a line is no edit.
    """
    table = _columns(path, ["edit", "tag", "to"])
    rows, places = [], []
    for number, row in enumerate(
        zip(*(column.to_pylist() for column in table.columns), strict=True), 2
    ):
        edit, tag, other = (clean_tag(value) for value in row)
        if edit not in EDITS:
            raise InputError(
                f"{path} row {number}: edit is {edit!r}; it must be {', '.join(EDITS[:-1])} or {EDITS[-1]}"
                f"{did_you_mean(edit, EDITS)}"
            )
        if not tag or bool(other) == (edit == "remove"):
            needs = "a tag and nothing else" if edit == "remove" else "a tag and what it becomes"
            raise InputError(f"{path} row {number}: {edit} needs {needs}")
        rows.append((edit, tag, other))
        places.append(f"{path} row {number}")
    return _edits(rows, places)


def read_assigned(path: str, edits: TagEdits) -> list[tuple[str, Assigned]]:
    """A CSV file with columns ``image_id`` and ``tag``, a line for each part that an image has: which images
    have which parts of the tags that are split.

    Raises:
        InputError: it cannot be read, or a tag is no part of any split.
    """
    table = _columns(path, ["image_id", "tag"])
    tags = clean_texts(table.column("tag").combine_chunks())
    parts = {part for several in edits.split.values() for part in several}
    known = pc.is_in(tags, value_set=pa.array(sorted(parts), pa.string()))
    if not pc.all(known).as_py():
        row = known.index(False).as_py()
        wrong = tags[row].as_py()
        raise InputError(
            f"{path} row {row + 2}: {wrong!r} is no part of a tag that is split ({', '.join(sorted(parts))})"
            f"{did_you_mean(wrong, parts)}"
        )
    found = []
    for tag, several in edits.split.items():
        mine = pc.is_in(tags, value_set=pa.array(several, pa.string()))
        ids = table.column("image_id").combine_chunks().filter(mine)
        found.append((tag, Assigned.of(ids, tags.filter(mine).to_pylist())))
    return found


def _columns(path: str, names: list[str]) -> pa.Table:
    filesystem, name = resolve(path)
    try:
        file = CsvFile.open(filesystem, path, name, ",")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if missing := [wanted for wanted in names if wanted not in file.names]:
        raise InputError(
            f"{path} line 1: no column {missing[0]!r}; it has {', '.join(file.names)}; give "
            f"{', '.join(names)}"
        )
    return file.read(names)
