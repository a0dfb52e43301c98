"""What the routes of a replica share."""

from __future__ import annotations

from functools import partial

from distributed.serving.added_tags import AddedTags
from distributed.serving.config import ScorerConfig
from distributed.serving.feedback import FeedbackWriter, default_folder
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.metrics import RequestMetrics
from distributed.serving.model import ServedModel
from distributed.serving.picture_folder import PictureFolder


class ScorerService:
    """The model that answers, where feedback goes, and the metrics of one replica.

    For one event loop. ``model`` holds no version before its ``follow`` has returned.
    """

    def __init__(self, config: ScorerConfig) -> None:
        self.config = config
        load = partial(ServedModel, backbone=config.backbone, search=config.search)
        feedback = config.feedback or default_folder(config.model)
        self.added = AddedTags(feedback)
        self.model = HotSwapModel(load, config.max_rows, config.queue_rows, self.added)
        self.feedback = FeedbackWriter(feedback)
        self.metrics = RequestMetrics()
        self.pictures = PictureFolder(config.pictures) if config.pictures else None

    @property
    def max_body_bytes(self) -> int:
        return self.config.max_body_mib << 20
