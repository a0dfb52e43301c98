"""Tags that come by name alone: a file of names becomes a model that scores them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distributed.bundles.locate import local_bundle
from distributed.bundles.unseen_tags import BundleText, NamedTags, NewNames, add_unseen
from distributed.data.added_names import NameReader
from distributed.driver import train
from distributed.driver.update_config import UpdateConfig, UpdateTags
from distributed.runtime.progress import Log, counted, saying
from distributed.storage.folder import Folder
from distributed.storage.resume import Plan, claim, digest
from drel_core.bundle.format import read_info, read_rules, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.sorted_names import sort_names
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag, some_names

LONGEST = 1000
"""Characters of a tag."""
NAMED = "with_names"
"""In the ``--out`` of an update that learns from images as well: the bundle with the names, which it starts
from."""


def read_names(path: str) -> list[str]:
    """The tags of a text file, one a line, each once, in their order. Blank lines are none, nor are comments:
    ``#`` alone or with a blank behind it. ``#sunset`` is a tag.

    Args:
        path: local, or on s3://.

    Raises:
        InputError: it cannot be read, is not UTF-8, names no tag, or one that is too long.
    """
    at = Folder.of(path)
    try:
        data = at.parent.read(at.name)
    except OSError as error:
        raise InputError(f"{path}: --tags cannot be read ({error.strerror or error})") from None
    if data is None:
        raise InputError(f"{path}: --tags names no file; give a text file with one tag a line")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        bad = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}: line {bad} is not UTF-8; save the file of --tags in UTF-8"
        ) from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        name = clean_tag(line)
        if name.split()[:1] == ["#"]:
            continue
        if len(name) > LONGEST:
            raise InputError(
                f"{path}: line {number} has {len(name)} characters; a tag has {LONGEST} at most, and --tags "
                "takes one a line"
            )
        if name:
            names[name] = None
    if not names:
        raise InputError(f"{path}: no tag in it; --tags takes a text file with one tag a line")
    return list(names)


@dataclass(frozen=True)
class NamePlan:
    """What becomes of a file of names.

    Attributes:
        text: of the model's tags.
        new: those to add.
    """

    text: BundleText
    new: NewNames

    def fingerprint(self, info: BundleInfo) -> Plan:
        """What makes the outcome."""
        vectors = self.new.vector_nd.half().numpy().tobytes()
        return Plan(
            {
                "parent": info.version,
                "tags": digest(self.new.names, vectors),
                "text": self.text.source,
            }
        )


def names_of(config: UpdateConfig, place: Folder, info: BundleInfo, log: Log) -> NamePlan | None:
    """The names of an update: those of a file, and those that were added at the scorer whose feedback it
    learns from. None where there are none.

    Raises:
        InputError: see ``plan_names``.
    """
    planned = plan_names(config.tags, place, info, log) if config.tags.new else None
    if not config.from_feedback:
        return planned
    reader = NameReader(config.from_feedback)
    if not reader.files():
        return planned
    vocabulary = read_vocabulary(local_bundle(place.address))
    text = planned.text if planned is not None else None
    if text is None:
        text = BundleText.of(local_bundle(place.address), info, vocabulary, config.tags.text)
    already = planned.new if planned is not None else NewNames((), torch.empty(0, text.tags.dim))
    known = {*vocabulary.names, *already.names}
    rules = read_rules(local_bundle(place.address))
    added = reader.names(known, text.source, text.tags.dim, rules)
    if added is None:
        return planned
    log(
        f"{config.from_feedback}: {counted(len(added.names), 'tag')} added by name at the scorer: "
        f"{some_names(added.names)}"
    )
    vector_nd = torch.cat([already.vector_nd, added.vector_nd])
    return NamePlan(text, NewNames((*already.names, *added.names), vector_nd))


def has_images(config: UpdateConfig) -> bool:
    """Whether there is more to learn from than names."""
    if config.data.new or not config.from_feedback:
        return bool(config.data.new)
    return any(name.endswith(".parquet") for name in Folder.of(config.from_feedback).files())


def plan_names(tags: UpdateTags, place: Folder, info: BundleInfo, log: Log) -> NamePlan:
    """Look at a file of names beside a model; says what becomes of them.

    Args:
        place: the model.

    Raises:
        InputError: the file or the source is no good, or names have no vector and shall not be left out.
    """
    path = tags.new
    names, folder = read_names(path), local_bundle(place.address)
    vocabulary, rules = read_vocabulary(folder), read_rules(folder)
    found = sort_names(names, vocabulary.names, rules)
    if found.blocked:
        log(f"{path}: left out, since the model's rules block them: {some_names(found.blocked)}")
    blocked = set(found.blocked)
    names = [name for name in names if name not in blocked]
    fresh = list(found.fresh)
    if known := len(names) - len(fresh):
        log(f"{path}: {counted(known, 'name')} of {len(names)} the model has as tags already")
    text = BundleText.of(folder, info, vocabulary, tags.text)
    vector_nd, has_n = text.vectors(fresh)
    if without := [name for name, has in zip(fresh, has_n.tolist(), strict=True) if not has]:
        said = (
            f"{path}: {counted(len(without), 'name')} without a text vector ({text.source}): "
            f"{some_names(without)}"
        )
        if not tags.skip:
            raise InputError(
                f"{said}; a tag cannot be scored by such a name: take it out of the file, or leave it out "
                "by --tags.skip true"
            )
        log(f"{said}; left out")
    chosen = tuple(name for name, has in zip(fresh, has_n.tolist(), strict=True) if has)
    return NamePlan(text, NewNames(chosen, vector_nd[has_n]))


def add_names(plan: NamePlan, place: Folder, info: BundleInfo, out: Folder, log: Log) -> None:
    """Leave a bundle with the names in the folder ``out``, unless it is there."""
    folder, new = local_bundle(place.address), plan.new
    with saying(log, "fitting what names say of images"):
        named = NamedTags.of(folder, info, read_vocabulary(folder), plan.text)
    with saying(log, "learning how probable such tags are"):
        add_unseen(place, folder, info, named, new, out)
    log(
        f"version {info.version} with {info.num_tags} tags gets {counted(len(new.names), 'tag')} by name "
        f"alone: {some_names(new.names)}"
    )


def names_only(plan: NamePlan, place: Folder, info: BundleInfo, out: Folder, log: Log) -> None:
    """Leave the bundle in ``OUT/model``, unless it is there; nothing is trained.

    Raises:
        InputError: ``out`` holds something else, or there is no name to add.
    """
    if not _is_made(plan, info, out, log):
        train.make_ready(out, plan.fingerprint(info))
        add_names(plan, place, info, out / "model", log)


def dry_run_names(plan: NamePlan, info: BundleInfo, out: Folder, log: Log) -> None:
    """Say what ``names_only`` would do.

    Raises:
        InputError: what it would refuse.
    """
    if not _is_made(plan, info, out, log):
        train.check_begun(out, plan.fingerprint(info))
        log(
            f"version {info.version} with {info.num_tags} tags would get "
            f"{counted(len(plan.new.names), 'tag')} by name alone: {some_names(plan.new.names)}"
        )


def _is_made(plan: NamePlan, info: BundleInfo, out: Folder, log: Log) -> bool:
    if not plan.new.names:
        raise InputError("--tags: no name is left to add; give --data a store to learn from images")
    if not out.has("model/config.json"):
        return False
    train.check_finished(out, plan.fingerprint(info))
    log(f"{out / 'model'} is there already")
    return True


def learning_from(
    plan: NamePlan, place: Folder, info: BundleInfo, out: Folder, log: Log
) -> tuple[Folder, BundleInfo]:
    """The bundle with the names, in ``OUT/with_names``, for an update that learns from images too; the older
    one where there is nothing to add.

    Raises:
        InputError: ``out`` holds one with other names.
    """
    if not plan.new.names:
        return place, info
    claim(
        out,
        f"{NAMED}.json",
        plan.fingerprint(info),
        "holds an update with other names ({names}); choose a new --out",
    )
    if not out.has(f"{NAMED}/config.json"):
        add_names(plan, place, info, out / NAMED, log)
    with_names = out / NAMED
    return with_names, read_info(local_bundle(with_names.address))
