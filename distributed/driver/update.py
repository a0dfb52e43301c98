"""Online learning: new images and new tags into a model that there is (He et al., 2015, section 3.4).

New rows and rows that the model rehearses are one training set; vocabulary and table grow at their end.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.data.check_rows import Validation
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import read_feedback
from distributed.data.manifest import check_same_dim, check_same_features, features_of
from distributed.data.replay_buffer import RESERVOIR, replay_store
from distributed.data.survey import OnBadRow, StoreSurvey, survey_store
from distributed.driver import train
from distributed.driver.launch import Launcher, launch
from distributed.driver.new_tags import init_new_tags
from distributed.inference.evaluate import evaluate_store
from distributed.runtime.progress import Log
from distributed.runtime.worker_range import ONE, Workers
from distributed.storage.folder import Folder
from distributed.training.config import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    TrainConfig,
    config_from,
)
from distributed.training.run_spec import RunSpec
from distributed.training.warm_start import ParentBundle, Start
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.errors import InputError

METHODS = ("drel", "wsabie")


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
    """share of the rows held out for early stopping and per-tag thresholds"""
    columns: Columns = field(default_factory=Columns)
    """names of the stores' columns"""
    on_bad_row: OnBadRow = "fail"
    """fail: a bad row ends the run; skip: it is left out, counted and listed"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"data.validation is {self.validation}; it must be in [0, 1)")


@dataclass(kw_only=True)
class UpdateConfig:
    """What to update, from what, and how."""

    model: str
    """model bundle of drel or wsabie, training folder, or folder of versions with `latest`"""
    out: str
    """folder for the new model, checkpoints and TensorBoard; the same one resumes"""
    data: UpdateData = field(default_factory=UpdateData)
    """stores"""
    from_feedback: str = ""
    """folder of feedback that the scorer kept; beside or instead of new images"""
    epochs: int = 12
    """passes over new and rehearsed rows"""
    lr: float = 1.0
    """learning rates, as a share of those that the model was trained with"""
    replay_ratio: float = 1.0
    """least number of rehearsed rows for each new one; rows are repeated to reach it"""
    start: Start = "co-occurring"
    """where new tags start: near the tags of the same images, or at random"""
    batch_size: int = 0
    """images in a step, over all workers together; 0: as the model was trained"""
    workers: Workers = ONE
    """data-parallel processes; 2:8 for as many as the cluster has"""
    seed: int = 0
    """decides the order of rows, candidates and dropout"""
    patience: int = 5
    """with validation, epochs without a better F1 after which training stops"""
    k: int = 5
    """tags predicted for each image when scoring"""
    threads: int = 0
    """CPU threads of each worker; 0 shares the machine's cores among the workers"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU for each worker when the cluster has enough of them"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """when resumable state is written"""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """how a run waits, grows and goes on"""

    def __post_init__(self) -> None:
        self.workers = Workers(self.workers)
        for name in ("epochs", "k", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("lr",):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("replay_ratio", "batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def run(
    config: UpdateConfig,
    say: Log = print,
    begin: Callable[[], None] = lambda: None,
    launcher: Launcher = launch,
) -> dict[str, Any] | None:
    """Learn, and leave the bundle in ``OUT/model``; scores of the old and the new model with a test store.

    Args:
        begin: called before training, once the input has proved good.
        launcher: starts the training.

    Raises:
        InputError: model, data or ``--out`` do not fit.
    """
    place, _ = find_bundle(config.model)
    bundle = local_bundle(place.address)
    info = read_info(bundle)
    if info.method not in METHODS:
        raise InputError(
            f"{place}: a model of method {info.method}; jobs.update takes {' and '.join(METHODS)}, "
            "train others anew"
        )
    out = Folder.of(config.out)
    out.check("--out")
    if out in (place, place.parent):
        raise InputError(
            f"{out}: --out holds the model itself; a bundle never changes, give a new folder"
        )
    training = _training(config, info, out)
    new = _new_stores(config, info, bundle, out)
    surveys = [_survey(store, config, training) for store in new]
    replay = _replay(config, bundle, out, new, training)
    survey, repeats = combined(bundle, surveys, replay, config.replay_ratio)
    known = info.num_tags
    rows = sum(part.train_rows for part in surveys)
    parent = ParentBundle(
        place.address, info.version, known, int(info.content["table_parts"]), out.address, rows
    )
    say(
        f"version {parent.version} with {known} tags learns from {rows} new images with "
        f"{len(survey.names) - known} new tags, and rehearses {survey.train_rows - rows} rows"
        + (f" ({repeats} times {replay.train_rows})" if replay and repeats > 1 else "")
    )
    for part in surveys:
        for path, row, reason in part.skipped[:20]:
            say(f"  left out: {path}: row {row}: {reason}")
    mark = {**train.fingerprint(training, survey), "parent": parent.version, "start": config.start}
    if out.has("model/config.json"):
        train.check_finished(out, mark)
        say(f"{out / 'model'} is there already")
    else:
        train.make_ready(out)
        begin()
        init_new_tags(
            parent,
            survey.names,
            survey.count_T,
            [selection for part in surveys for selection in part.train],
            config.data.columns,
            training.model,
            config.start,
            training.seed,
        )
        spec = RunSpec(
            config=training, survey=survey, features=info.features, fingerprint=mark, parent=parent
        )
        launcher(spec, say)
        train.write_fingerprint(out, mark)
    if not config.data.test:
        return None
    return {
        name: _score(folder, config) for name, folder in (("old", place), ("new", out / "model"))
    }


def _training(config: UpdateConfig, info: BundleInfo, out: Folder) -> TrainConfig:
    """The run that the model came from, with what differs now."""
    if info.config is None:
        raise InputError(
            f"{config.model}: config.json does not say how the model was trained, which jobs.update needs"
        )
    training: TrainConfig = config_from(TrainConfig, info.config)
    training.data = DataConfig(
        train=config.data.new or config.from_feedback,
        validation=config.data.validation,
        columns=config.data.columns,
        on_bad_row=config.data.on_bad_row,
        residency=training.data.residency,
        memory_gib=training.data.memory_gib,
        shuffle_rows=training.data.shuffle_rows,
    )
    training.out = out.address
    training.optim.lr *= config.lr
    training.table.lr *= config.lr
    for name in (
        "epochs",
        "workers",
        "seed",
        "patience",
        "k",
        "threads",
        "device",
        "checkpoint",
        "cluster",
    ):
        setattr(training, name, getattr(config, name))
    training.decision.fits = (
        0  # the rule of the older model grows: fits without part of new rows alone say little
    )
    training.batch_size = config.batch_size or training.batch_size
    return training


def _new_stores(
    config: UpdateConfig, info: BundleInfo, bundle: Path, out: Folder
) -> list[FeatureStore]:
    dim = info.image_dim
    stores = []
    if config.data.new:
        store = FeatureStore.open(config.data.new, config.data.columns, "--data")
        check_same_features(
            info.features, config.model, features_of(config.data.new), config.data.new
        )
        stores.append(store)
    if config.from_feedback:
        name = "feedback.parquet"
        if not out.has(name):  # a run that is taken up again learns from what it began with
            kept = bundle / RESERVOIR
            table = feedback_rows(
                read_feedback(config.from_feedback, dim),
                pq.read_table(kept) if kept.is_file() else None,
                config.data.columns,
            )
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            out.write(name, buffer.getvalue())
        stores.append(FeatureStore.open(out.file(name), config.data.columns, "--from_feedback"))
    if not stores:
        raise InputError(
            "nothing to learn from; give --data a store, --from_feedback a folder, or both"
        )
    for store in stores:
        check_same_dim(store.path, store.image_dim, "the model takes", dim)
    return stores


def feedback_rows(said: pa.Table, kept: pa.Table | None, columns: Columns) -> pa.Table:
    """Feedback as rows to learn from: the tags that were added, and those that the image is known to have
    less those removed. On an image that nothing is known of, a removed tag needs no mention: every tag
    that a row does not name is irrelevant to it.

    Args:
        said: the last word on each image.
        kept: the model's reservoir, which knows some images.

    Raises:
        InputError: no image has a tag.
    """
    known: dict[str, list[str]] = {}
    if kept is not None:
        mine = kept.filter(pc.is_in(kept.column("image_id"), value_set=said.column("image_id")))
        known = dict(
            zip(mine.column("image_id").to_pylist(), mine.column("tags").to_pylist(), strict=True)
        )
    tags = []
    for image_id, add, remove in zip(
        *(said.column(name).to_pylist() for name in ("image_id", "add", "remove")), strict=True
    ):
        before = known.get(image_id, [])
        tags.append(sorted((set(before) | set(add)) - set(remove)))
    keep = pa.array([bool(row) for row in tags])
    table = pa.table(
        {
            columns.image_id: said.column("image_id"),
            columns.features: said.column("features"),
            columns.tags: pa.array(tags, pa.list_(pa.string())),
        }
    ).filter(keep)
    if not len(table):
        raise InputError("--from_feedback: no image there has a tag left; nothing to learn")
    return table


def _survey(store: FeatureStore, config: UpdateConfig, training: TrainConfig) -> StoreSurvey:
    share = config.data.validation
    validation = Validation(share, training.seed) if share else None
    return survey_store(
        store, config.data.on_bad_row, validation, statistics=False, workers=config.workers.least
    )


def _replay(
    config: UpdateConfig, bundle: Path, out: Folder, new: list[FeatureStore], training: TrainConfig
) -> StoreSurvey | None:
    if config.data.replay:
        store = FeatureStore.open(config.data.replay, config.data.columns, "--data.replay")
        check_same_dim(store.path, store.image_dim, "the new ones", new[0].image_dim)
        return _survey(store, config, training)
    kept = replay_store(bundle, config.data.columns, out, new)
    return None if kept is None else _survey(kept, config, training)


def combined(
    bundle: Path, new: list[StoreSurvey], replay: StoreSurvey | None, ratio: float
) -> tuple[StoreSurvey, int]:
    """One training set of new and rehearsed rows, with the parent's vocabulary grown at its end.

    Counts are the parent's and those of new images. Rehearsed rows are repeated whole, as often as
    ``ratio`` asks.

    Returns:
        the set, and how often rehearsed rows are in it.
    """
    vocabulary = read_vocabulary(bundle)
    for part in new:
        vocabulary = vocabulary.extended(part.names.to_pylist(), part.count_T)
    rows = sum(part.train_rows for part in new)
    repeats = 0
    train = [selection for part in new for selection in part.train]
    validation = [selection for part in new for selection in part.validation]
    if replay is not None and ratio:
        repeats = max(1, round(ratio * rows / replay.train_rows))
        train += replay.train * repeats
        validation += replay.validation
    every = [*new, *([replay] if replay is not None else [])]
    dim = new[0].image_dim
    return (
        StoreSurvey(
            image_dim=dim,
            item_bytes=max(part.item_bytes for part in every),
            names=pa.array(vocabulary.names, pa.string()),
            count_T=vocabulary.counts,
            mean_D=np.zeros(dim),
            std_D=np.ones(dim),
            train=train,
            validation=validation,
            skipped=[row for part in new for row in part.skipped],
            tagless=sum(part.tagless for part in new),
        ),
        repeats,
    )


def _score(folder: Folder, config: UpdateConfig) -> dict[str, Any]:
    annotator = load_bundle(local_bundle(folder.address))
    store = FeatureStore.open(config.data.test, config.data.columns, "--data.test")
    survey = survey_store(store, config.data.on_bad_row, statistics=False)
    metrics = evaluate_store(annotator, annotator.vocabulary, survey, config.data.columns, config.k)
    return {**metrics, "train": annotator.info.train}
