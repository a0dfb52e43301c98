"""The rows that an update learns from: new ones, those that feedback makes, and rehearsed ones, as one
training set with a vocabulary that has grown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.feedback import (
    LEARNED,
    correction_keys,
    feedback_rows,
    last_words,
    read_feedback,
    read_learned,
    write_learned,
)
from distributed.data.manifest import (
    check_same_blocks,
    check_same_dim,
    check_same_features,
    features_of,
)
from distributed.data.replay_buffer import RESERVOIR, replay_store
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver.update_config import UpdateConfig
from distributed.runtime.progress import Log, counted
from distributed.storage.files import past_short_errors
from distributed.storage.folder import Folder
from distributed.training.config import TrainConfig
from distributed.training.watch import watch_plan
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError, NoRowsError
from drel_core.tag_text import some_names

FEEDBACK = "feedback.parquet"


def new_stores(
    config: UpdateConfig,
    info: BundleInfo,
    bundle: Path,
    out: Folder,
    log: Log,
    rules: TagRules | None,
) -> list[FeatureStore]:
    """What is learned from: ``--data``, and the rows that feedback makes.

    Raises:
        InputError: there is nothing, or it does not fit the model.
    """
    stores = []
    if config.data.new:
        store = FeatureStore.open(config.data.new, config.data.columns, "--data.new")
        check_same_features(
            info.features,
            config.model,
            features_of(config.data.new, config.data.columns),
            config.data.new,
        )
        stores.append(store)
    nothing = "give --data a store, --from_feedback a folder, --tags a file of names, or several"
    if config.from_feedback:
        rows, said = _take_feedback(config, info, bundle, out, rules, log)
        log(f"{config.from_feedback}: {said}")
        if rows:
            stores.append(
                FeatureStore.open(out.file(FEEDBACK), config.data.columns, "--from_feedback")
            )
        nothing = f"{config.from_feedback}: {said}"
    elif len(learned := read_learned(bundle)) and not out.has(LEARNED):
        write_learned(out, learned)
    if not stores:
        raise InputError(f"nothing to learn from; {nothing}")
    for store in stores:
        check_same_dim(store.path, store.image_dim, "the model takes", info.image_dim)
        check_same_blocks(store, info.blocks)
    return stores


def _take_feedback(
    config: UpdateConfig,
    info: BundleInfo,
    bundle: Path,
    out: Folder,
    rules: TagRules | None,
    log: Log,
) -> tuple[int, str]:
    """Keep the rows that feedback makes in ``out``: a run that is taken up again learns from what it began
    with.

    Returns:
        their number, and what to say.
    """
    if out.has(FEEDBACK):
        with out.local(FEEDBACK) as path:
            rows = pq.read_metadata(path).num_rows
        return rows, f"goes on with {counted(rows, 'image')} that this run began with"
    said = past_short_errors(lambda: read_feedback(config.from_feedback, info.image_dim))
    key_N, learned = correction_keys(said), read_learned(bundle)
    new_N = ~np.isin(key_N, learned)
    kept = bundle / RESERVOIR
    table, undecided = feedback_rows(
        said.filter(pa.array(last_words(said) & new_N)),
        pq.read_table(kept) if kept.is_file() else None,
        config.data.columns,
        _dims(config, info),
        rules,
    )
    text = counted(int(new_N.sum()), "correction")
    if not new_N.all():
        text += f", without {int((~new_N).sum())} that the model has learned before"
    text += f": {counted(len(table), 'image')} with a tag"
    for tag, images in undecided.items():
        assert rules is not None
        log(
            f"WARNING: {config.from_feedback}: {counted(len(images), 'image')} left out: feedback adds "
            f"{tag!r}, which is split now, and none of its parts ({some_names(rules.split[tag])}). Send "
            f"feedback again that adds the part: {some_names(images, 5)}"
        )
    if not len(table) and not config.data.new:
        return 0, text
    write_learned(out, np.concatenate([learned, key_N]))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    out.write(FEEDBACK, buffer.getvalue())
    return len(table), text


def _dims(config: UpdateConfig, info: BundleInfo) -> tuple[int, ...]:
    """D of each features column that rows of the model's are written into."""
    several = len(config.data.columns.blocks) > 1
    return tuple(block.dim for block in info.blocks) if several else (info.image_dim,)


def survey_rows(
    store: FeatureStore,
    config: UpdateConfig,
    training: TrainConfig,
    rules: TagRules | None,
    watched: bool = False,
    log: Log | None = None,
) -> StoreSurvey:
    """A look at all rows of a store.

    Args:
        watched: some are held out, or scored, to show F1 while training.

    Raises:
        InputError: a row is bad, and bad rows may not be left out.
    """
    share = config.data.validation
    validation = Validation(share, training.seed) if share else None
    return survey_store(
        store,
        config.data.on_bad_row,
        validation,
        statistics=False,
        workers=config.workers.least,
        watch=watch_plan(training, store.num_rows) if watched else None,
        log=log,
        rules=rules,
    )


def rehearsed_rows(
    config: UpdateConfig,
    bundle: Path,
    out: Folder,
    new: list[FeatureStore],
    training: TrainConfig,
    rules: TagRules | None,
) -> StoreSurvey | None:
    """The older rows to rehearse: those of ``--data.replay``, else those that the bundle keeps and ``new``
    does not have; None where there are none.

    Of few that the bundle keeps, all can be held out for validation, or have no tag under new rules.

    Raises:
        InputError: the store of ``--data.replay`` does not fit.
    """
    if config.data.replay:
        store = FeatureStore.open(config.data.replay, config.data.columns, "--data.replay")
        check_same_dim(store.path, store.image_dim, "the new ones", new[0].image_dim)
        check_same_blocks(store, read_info(bundle).blocks)
        return survey_rows(store, config, training, rules)
    kept = replay_store(bundle, config.data.columns, out, new)
    try:
        return None if kept is None else survey_rows(kept, config, training, rules)
    except NoRowsError:
        return None


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
    held_out = [part for part in new if part.watch_held_out]
    watched = held_out or new  # not both in one figure
    every = [*new, *([replay] if replay is not None else [])]
    dim = new[0].image_dim
    return (
        StoreSurvey(
            image_dim=dim,
            dims=new[0].dims,
            item_bytes=max(part.item_bytes for part in every),
            names=pa.array(vocabulary.names, pa.string()),
            count_T=vocabulary.counts,
            mean_D=np.zeros(dim),
            std_D=np.ones(dim),
            train=train,
            validation=validation,
            skipped=[row for part in new for row in part.skipped],
            tagless=sum(part.tagless for part in new),
            watch=[selection for part in watched for selection in part.watch],
            watch_held_out=bool(held_out),
            content=_contents([*new, *([replay] if replay is not None and repeats else [])]),
        ),
        repeats,
    )


def _contents(parts: Sequence[StoreSurvey]) -> dict[str, str]:
    """Of all stores; files of one name share an entry."""
    content: dict[str, str] = {}
    for part in parts:
        for name, mark in part.content.items():
            content[name] = content.get(name, "") + mark
    return content


def known_images(info: BundleInfo, bundle: Path, new: Sequence[StoreSurvey]) -> int:
    """Training images of the older model. Where its bundle does not say it: the counts of its tags, over how
    many of these a new image has."""
    if info.images is not None:
        return info.images
    vocabulary = read_vocabulary(bundle)
    old = pa.array(vocabulary.names, pa.string())
    known = [pc.is_in(part.names, value_set=old).to_numpy(zero_copy_only=False) for part in new]
    tags = sum(int(part.count_T[is_old].sum()) for part, is_old in zip(new, known, strict=True))
    rows = sum(part.train_rows for part in new)
    return round(int(vocabulary.counts.sum()) * rows / max(1, tags))


def shown_tags(names: pa.Array, parts: Sequence[StoreSurvey]) -> np.ndarray:
    """bool ``[T]``: the tags that some image has."""
    values = pa.chunked_array([part.names for part in parts], pa.string())
    return pc.is_in(names, value_set=values.combine_chunks()).to_numpy(zero_copy_only=False)
