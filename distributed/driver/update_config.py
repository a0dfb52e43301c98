"""The options of an update, and the training run that they and the older model make."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from distributed.data.columns import Columns
from distributed.data.survey import OnBadRow
from distributed.storage.folder import Folder
from distributed.training.config import RunConfig, TrainConfig, config_from
from distributed.training.warm_start import Start
from drel_core.auto import AUTO
from drel_core.bundle.info import BundleInfo
from drel_core.errors import InputError


@dataclass(kw_only=True)
class UpdateData:
    """What to learn from."""

    new: str = ""
    """store of new images, with known and new tags: a Parquet file or folder; --data is short for it"""
    replay: str = ""
    """store of older images to rehearse, with the same column names; empty: the rows that the model keeps"""
    test: str = ""
    """store to score the old and the new model on"""
    validation: float = 0.0
    """share of the rows held out for early stopping and for probabilities"""
    watch: int | None = None
    """without validation, new rows held out only to show F1 beside the popularity floor while training; see \
    data.watch of jobs.train"""
    columns: Columns = field(default_factory=Columns)
    """names of the stores' columns"""
    on_bad_row: OnBadRow = "fail"
    """fail: a bad row ends the run; skip: it is left out, counted and listed"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation is {self.validation}; it must be in [0, 1)")
        if self.watch is not None and self.watch < 0:
            raise ValueError(f"data.watch is {self.watch}; it must be 0 or more, or null")


@dataclass(kw_only=True)
class UpdateTags:
    """What is known of tags beside their images."""

    new: str = ""
    """text file in UTF-8 with one tag a line ("# …" is a comment), for the model to know by name alone, \
    without images; --tags is short for it"""
    text: str = ""
    """where text vectors of names come from, see tags.text of jobs.train; empty: where the model's come \
    from"""
    skip: bool = False
    """leave out names without a text vector, instead of refusing them"""
    vocabulary: str = ""
    """vocabulary.yaml that replaces the model's, as tags.vocabulary of jobs.train; empty: the model's own \
    goes on being used"""


@dataclass(kw_only=True)
class UpdateConfig(RunConfig):
    """What to update, from what, and how."""

    model: str
    """model bundle of drel or wsabie, training folder, or folder of versions with `latest`"""
    out: str
    """folder for the new model, checkpoints and TensorBoard; the same one resumes"""
    data: UpdateData = field(default_factory=UpdateData)
    """stores"""
    tags: UpdateTags = field(default_factory=UpdateTags)
    """what is known of tags by their names"""
    from_feedback: str = ""
    """folder of feedback that the scorer kept; beside or instead of new images"""
    epochs: int = AUTO
    """passes over new and rehearsed rows; -1: by the numbers of rows"""
    lr: float = 1.0
    """learning rates, as a share of those that the model was trained with"""
    towers: float = AUTO
    """learning rate of what all tags share (towers, M, scale, bias head), as a further share; -1: by the \
    numbers of rows"""
    replay_ratio: float = 1.0
    """least number of rehearsed rows for each new one; rows are repeated to reach it"""
    start: Start = "auto"
    """where new tags start. random; text: a random row and what their names let expect, by the model's text \
    vectors or those of --tags.text; co-occurring: near the tags of the same images; auto: text for tags \
    with fewer than 10 images where there are text vectors, else random"""
    batch_size: int = AUTO
    """images in a step, over all workers together; 0: as the model was trained; -1: by the numbers of rows, \
    at most that"""
    seed: int = 0
    """decides the order of rows, candidates and dropout"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if self.replay_ratio < 0:
            raise ValueError(f"replay_ratio is {self.replay_ratio}; it must be 0 or more")
        if self.batch_size < 0 and self.batch_size != AUTO:
            raise ValueError(f"batch_size is {self.batch_size}; it must be 0 or more, or -1")
        if self.towers <= 0 and self.towers != AUTO:
            raise ValueError(f"towers is {self.towers}; it must be above 0, or -1")


def training_config(config: UpdateConfig, info: BundleInfo, out: Folder) -> TrainConfig:
    """The run that the model came from, with what differs now; what follows from rows is left to
    ``apply_update_rule``."""
    if info.config is None:
        raise InputError(
            f"{config.model}: config.json does not say how the model was trained, which jobs.update needs"
        )
    before: TrainConfig = config_from(TrainConfig, info.config)
    data = replace(
        before.data,
        train=config.data.new or config.from_feedback,
        test=None,
        validation=config.data.validation,
        watch=config.data.watch,
        columns=config.data.columns,
        on_bad_row=config.data.on_bad_row,
    )
    return replace(
        before,
        **{shared.name: getattr(config, shared.name) for shared in fields(RunConfig)},
        data=data,
        tags=replace(before.tags, vocabulary=config.tags.vocabulary),
        out=out.address,
        batch_size=max(config.batch_size, 0) or before.batch_size,
        table=replace(before.table, share=config.lr),
    )
