"""Tags that are added by name while the scorer runs.

A replica makes a bundle of its own with the names, in a folder of this user's, and moves to it as to any
newer version. All replicas read the names from one folder, so that they make the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from distributed.bundles.locate import file_lock, local_bundle
from distributed.bundles.unseen_tags import BundleText, NamedTags, NewNames, add_unseen
from distributed.data.added_names import AddedNames, NameReader, append_names
from distributed.serving.model import ServedModel
from distributed.serving.schemas import ApiError
from distributed.storage.folder import Folder
from distributed.storage.local_cache import cache_dir, cache_key, remove_unused
from distributed.storage.resume import digest
from drel_core.bundle.format import read_info, read_rules, read_vocabulary
from drel_core.bundle.sorted_names import sort_names
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.tag_text import some_names

_UNUSED_DAYS = 1
_MARK = ".names-"
"""In a version, between that of the bundle and what was added."""


@dataclass(frozen=True)
class NamedPlan:
    """A bundle with names that were added to it.

    Attributes:
        version: the bundle's, and a hash of the names.
        place: the bundle.
    """

    version: str
    place: Folder
    new: AddedNames

    def make(self) -> str:
        """The address of the bundle with the names; made now where this machine has none.

        Raises:
            InputError: the names cannot be added to this bundle.
        """
        at = cache_dir("named") / cache_key(f"{self.place.address} {self.version}")
        with file_lock(at):
            if not (at / "config.json").is_file():
                remove_unused(at.parent, _UNUSED_DAYS)
                folder = local_bundle(self.place.address)
                info, vocabulary = read_info(folder), read_vocabulary(folder)
                text = BundleText.of(folder, info, vocabulary)
                named = NamedTags.of(folder, info, vocabulary, text)
                new = NewNames(self.new.names, self.new.vector_nd)
                add_unseen(self.place, folder, info, named, new, Folder(str(at)))
        at.touch()
        return str(at)


class _Known(NamedTuple):
    """What is asked of the bundle that answers at every look."""

    version: str
    names: frozenset[str]
    text: BundleText | None
    rules: TagRules | None


class AddedTags:
    """The names that were added at this scorer, all replicas' alike.

    Args:
        feedback: folder or s3:// prefix.
    """

    def __init__(self, feedback: str) -> None:
        self.feedback = feedback
        self._reader = NameReader(feedback)
        self._known = _Known("", frozenset(), None, None)

    def plan(self, place: Folder, version: str) -> NamedPlan | None:
        """What is to be added to a bundle; None where there is nothing.

        Raises:
            InputError, OSError: the names cannot be read.
        """
        if not self._reader.files():
            return None
        if self._known.version != version:
            folder = local_bundle(place.address)
            info, vocabulary = read_info(folder), read_vocabulary(folder)
            try:
                text: BundleText | None = BundleText.of(folder, info, vocabulary)
            except InputError:  # a bundle without text vectors: nothing can be added to it
                text = None
            self._known = _Known(version, frozenset(vocabulary.names), text, read_rules(folder))
        _, known, text, rules = self._known
        if text is None:
            return None
        new = self._reader.names(known, text.source, text.tags.dim, rules)
        if new is None:
            return None
        return NamedPlan(f"{version}{_MARK}{digest(new.names)[:8]}", place, new)

    def keep(self, names: list[str], served: ServedModel) -> tuple[list[str], list[str]]:
        """Keep names, which are on disk when this returns; what of them is new, and what the model has.

        Raises:
            ApiError: 422, the model cannot have tags by name, or a name cannot be one; 503, they cannot be
                kept.
        """
        rules = None if served.rules is None else served.rules.rules
        found = sort_names(names, served.annotator.vocabulary.names, rules)
        if blocked := sorted(set(found.blocked)):
            raise ApiError(422, "blocked_tag", f"the model's rules block {some_names(blocked)}")
        fresh = list(found.fresh)
        if fresh:
            try:
                text = served.text()
                vector_nd, has_n = text.vectors(fresh)
            except InputError as error:
                raise ApiError(422, "no_text", str(error)) from None
            if without := [tag for tag, has in zip(fresh, has_n.tolist(), strict=True) if not has]:
                raise ApiError(
                    422,
                    "no_vector",
                    f"no text vector ({text.source}) for {some_names(without)}; a tag cannot be scored by "
                    "such a name",
                )
            try:
                append_names(self.feedback, AddedNames(text.source, tuple(fresh), vector_nd))
            except (OSError, pa.ArrowException):
                raise ApiError(503, "not_kept", "tags cannot be kept at the moment") from None
        return fresh, found.known
