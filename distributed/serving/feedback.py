"""Feedback requests: checked, and kept on disk before they are answered."""

from __future__ import annotations

import asyncio
import logging

import pyarrow as pa
from ray import serve

from distributed.data.feedback import Correction, append
from distributed.serving.model import ServedModel
from distributed.serving.one_row import row_of
from distributed.serving.schemas import ApiError, FeedbackRequest
from distributed.storage.folder import Folder
from drel_core.bundle.tag_rules import TagRules
from drel_core.tag_text import some_names

_LOG = logging.getLogger("ray.serve.drel")


def default_folder(model: str) -> str:
    """``feedback`` in the training folder or folder of versions: the bundle itself never changes."""
    place = Folder.of(model)
    return ((place.parent if place.has("config.json") else place) / "feedback").address


class FeedbackWriter:
    """Writes feedback into a folder, for ``jobs.update`` to learn from.

    Args:
        folder: path or s3:// prefix.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    async def keep(self, request: FeedbackRequest, model: ServedModel) -> None:
        """Returns when the feedback is on disk.

        Raises:
            ApiError: 422, the request contradicts itself or does not fit the model; 503, it cannot be
                written.
        """
        correction = await asyncio.to_thread(_checked, request, model)
        await self._append(correction)

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0.02)
    async def _append(self, corrections: list[Correction]) -> list[None]:
        """One file for all that came within the wait."""
        try:
            await asyncio.to_thread(append, self.folder, corrections)
        except (OSError, pa.ArrowException) as error:
            _LOG.error("feedback could not be written to %s: %s", self.folder, error)
            raise ApiError(503, "not_kept", "feedback cannot be kept at the moment") from None
        return [None] * len(corrections)


def _checked(request: FeedbackRequest, model: ServedModel) -> Correction:
    """Raises:
    ApiError: 422.
    """
    rules = TagRules() if model.rules is None else model.rules.rules
    add = [*dict.fromkeys(map(rules.tag_of, request.add))]
    remove = rules.parts_of(request.remove)
    if undecided := rules.undecided(add):
        tag = undecided[0]
        raise ApiError(
            422,
            "split_tag",
            f"{tag!r} is split into {some_names(rules.split[tag])}; add those that the image has",
        )
    add = [tag for tag in add if tag not in rules.split]  # its part says more
    for tag in add:
        if tag in rules.blocked:
            raise ApiError(422, "blocked", f"{tag!r} is blocked by the vocabulary of this model")
        for other in rules.with_implied(tag):
            if other in remove:
                why = "is both in add and" if other == tag else f"is implied by {tag!r}, but"
                raise ApiError(422, "invalid_request", f"{other!r} {why} in remove")
    if not request.add and not request.remove:
        raise ApiError(422, "empty", "nothing in add or remove")
    features_D = row_of(request, model)
    return Correction(request.image_id, features_D, add, remove, model.version)
