"""Online learning: new images and new tags into a model that there is (He et al., 2015, section 3.4).

New rows and rows that the model rehearses are one training set; vocabulary and table grow at their end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.data.canonical_tags import open_rules
from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore, RowSelection
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
from distributed.data.picture_columns import bundle_columns
from distributed.data.replay_buffer import RESERVOIR, replay_store
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver import train
from distributed.driver.launch import Launcher, launch
from distributed.driver.new_names import has_images, learning_from, names_of, names_only
from distributed.driver.new_tags import StartBy, init_new_tags, start_note
from distributed.driver.tag_text import grown_text
from distributed.driver.update_config import UpdateConfig, training_config
from distributed.driver.update_rule import UpdateRows, apply_update_rule
from distributed.driver.verdict import verdict
from distributed.inference.evaluate import evaluate_store
from distributed.runtime.progress import Log, counted, saying
from distributed.storage.files import past_short_errors
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from distributed.training.config import TrainConfig
from distributed.training.run_spec import RunSpec
from distributed.training.warm_start import ParentBundle
from distributed.training.watch import watch_plan
from drel_core.annotators.base import rules_of
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import CODEBOOK, read_info, read_rules, read_vocabulary
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tag_rules import TagRules
from drel_core.errors import InputError
from drel_core.tag_text import some_names

METHODS = ("drel", "wsabie")
FEEDBACK = "feedback.parquet"


def run(
    config: UpdateConfig,
    log: Log = print,
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
    config, place, info, out = opened(config)
    with owned(out, log):
        _make(config, place, info, out, log, begin, launcher)
        if not config.data.test:
            return None
        both = (("old", place), ("new", out / "model"))
        return {name: _score(folder, config, log) for name, folder in both}


def opened(config: UpdateConfig) -> tuple[UpdateConfig, Folder, BundleInfo, Folder]:
    """The configuration with the model's features columns, the bundle and what it says, and ``--out``.

    Raises:
        InputError: the model cannot be updated, or lies in ``--out``.
    """
    place, _ = find_bundle(config.model)
    bundle = local_bundle(place.address)
    info = read_info(bundle)
    if info.method not in METHODS:
        raise InputError(
            f"{place}: a model of method {info.method}; jobs.update takes {' and '.join(METHODS)}, "
            "train others anew"
        )
    config = _with_columns(config, info)
    out = Folder.of(config.out)
    out.check("--out")
    if out in (place, place.parent):
        raise InputError(
            f"{out}: --out holds the model itself; a bundle never changes, give a new folder"
        )
    return config, place, info, out


def _make(
    config: UpdateConfig,
    place: Folder,
    info: BundleInfo,
    out: Folder,
    log: Log,
    begin: Callable[[], None],
    launcher: Launcher,
) -> None:
    """Add names, learn from images, or both."""
    before = info.version
    names = names_of(config, place, info, log)
    if names is not None:
        if not has_images(config):
            if config.tags.vocabulary:
                raise InputError(
                    "--tags.vocabulary replaces the rules where images are learned from: give --data too, or "
                    "leave it out"
                )
            names_only(names, place, info, out, log)
            begin()
            return
        place, info = learning_from(names, place, info, out, log)
    spec = plan_of(config, place, info, out, log)
    assert spec.parent is not None
    spec = replace(spec, parent=replace(spec.parent, version=before))
    _learn(config, spec, out, log, begin, launcher)


def _learn(
    config: UpdateConfig,
    spec: RunSpec,
    out: Folder,
    log: Log,
    begin: Callable[[], None],
    launcher: Launcher,
) -> None:
    """Leave the bundle in ``OUT/model``, unless it is there."""
    parent, made_from = spec.parent, spec.fingerprint
    assert parent is not None
    if out.has("model/config.json"):
        train.check_finished(out, made_from)
        log(f"{out / 'model'} is there already")
    else:
        train.make_ready(out, made_from)
        begin()
        text = grown_text(parent, spec.survey.names.to_pylist(), out, log, config.tags.text)
        spec = replace(spec, text=text)
        with saying(log, "placing new tags near those of their images"):
            init_new_tags(
                parent,
                spec.survey.index,
                spec.survey.count_T,
                _first_rows(spec.survey.train, parent.new_images),
                config.data.columns,
                spec.config.model,
                StartBy.of(config, parent, out, text),
                spec.config.seed,
            )
        launcher(spec, log)


def _with_columns(config: UpdateConfig, info: BundleInfo) -> UpdateConfig:
    """The features columns that the model reads, unless others are named."""
    data = config.data
    stores = {"--data": data.new, "--data.replay": data.replay, "--data.test": data.test}
    option, path = next(((name, path) for name, path in stores.items() if path), ("--data", ""))
    return replace(
        config, data=replace(data, columns=bundle_columns(info, path, data.columns, option))
    )


def plan_of(
    config: UpdateConfig, place: Folder, info: BundleInfo, out: Folder, log: Log
) -> RunSpec:
    """What is learned, from which rows and how; says so."""
    bundle = local_bundle(place.address)
    training = training_config(config, info, out)
    given = config.tags.vocabulary
    rules = open_rules(given) if given else read_rules(bundle)
    new = _new_stores(config, info, bundle, out, log, rules)
    surveys = [_survey(store, config, training, rules, watched=True, log=log) for store in new]
    replay = _replay(config, bundle, out, new, training, rules)
    survey, repeats = combined(bundle, surveys, replay, config.replay_ratio)
    survey = replace(survey, rules=rules)
    rows = UpdateRows(
        new=sum(part.train_rows for part in surveys),
        rehearsed=replay.train_rows if replay is not None and repeats else 0,
        known=_known_images(info, bundle, surveys),
    )
    training, settings = apply_update_rule(training, config, rows)
    parent = ParentBundle(
        place.address,
        info.version,
        info.num_tags,
        int(info.content["table_parts"]),
        out.address,
        new_images=rows.new,
        images=rows.known,
        shown_T=_shown(survey.names, [*surveys, *([replay] if rows.rehearsed and replay else [])]),
    )
    _log_rows(log, parent, survey, rows.rehearsed, repeats)
    log(settings)
    if config.data.validation:
        log(f"{survey.validation_rows} rows are held out for validation")
    _log_skipped(log, surveys)
    if rules is not None and config.tags.vocabulary:
        for note in rules.check(survey.names.to_pylist()):
            log(f"{config.tags.vocabulary}: {note}")
    return RunSpec(
        config=training,
        survey=survey,
        features=info.features,
        codebook=_codebook(bundle),
        fingerprint=train.fingerprint(training, survey).also(
            {"parent": parent.version, "start": start_note(config, parent)}
        ),
        parent=parent,
    )


def _first_rows(selections: list[RowSelection], rows: int) -> list[RowSelection]:
    """The selections of the first rows: new ones come before rehearsed ones, which hold no new tag and would
    be read as often as they are repeated."""
    stops = np.cumsum([selection.take for selection in selections])
    return selections[: int(np.searchsorted(stops, rows)) + 1]


def _log_skipped(log: Log, surveys: Sequence[StoreSurvey]) -> None:
    for part in surveys:
        for path, row, reason in part.skipped[:20]:
            log(f"  left out: {path}: row {row}: {reason}")


def _log_rows(
    log: Log, parent: ParentBundle, survey: StoreSurvey, rehearsed: int, repeats: int
) -> None:
    log(
        f"version {parent.version} with {parent.num_tags} tags learns from "
        f"{counted(parent.new_images, 'new image')} with "
        f"{counted(len(survey.names) - parent.num_tags, 'new tag')}, and rehearses "
        f"{counted(rehearsed * repeats, 'row')}"
        + (f" ({repeats} times {rehearsed})" if repeats > 1 else "")
    )


def _known_images(info: BundleInfo, bundle: Path, new: Sequence[StoreSurvey]) -> int:
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


def _shown(names: pa.Array, parts: Sequence[StoreSurvey]) -> np.ndarray:
    """bool ``[T]``: the tags that some image has."""
    values = pa.chunked_array([part.names for part in parts], pa.string())
    return pc.is_in(names, value_set=values.combine_chunks()).to_numpy(zero_copy_only=False)


def _new_stores(
    config: UpdateConfig,
    info: BundleInfo,
    bundle: Path,
    out: Folder,
    log: Log,
    rules: TagRules | None,
) -> list[FeatureStore]:
    stores = []
    if config.data.new:
        store = FeatureStore.open(config.data.new, config.data.columns, "--data", part="train")
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


def _codebook(bundle: Path) -> np.ndarray | None:
    path = bundle / CODEBOOK
    return load_tensors(path)["word_K128"].numpy() if path.is_file() else None


def _dims(config: UpdateConfig, info: BundleInfo) -> tuple[int, ...]:
    """D of each features column that rows of the model's are written into."""
    several = len(config.data.columns.blocks) > 1
    return tuple(block.dim for block in info.blocks) if several else (info.image_dim,)


def _survey(
    store: FeatureStore,
    config: UpdateConfig,
    training: TrainConfig,
    rules: TagRules | None,
    watched: bool = False,
    log: Log | None = None,
) -> StoreSurvey:
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


def _replay(
    config: UpdateConfig,
    bundle: Path,
    out: Folder,
    new: list[FeatureStore],
    training: TrainConfig,
    rules: TagRules | None,
) -> StoreSurvey | None:
    if config.data.replay:
        store = FeatureStore.open(config.data.replay, config.data.columns, "--data.replay")
        check_same_dim(store.path, store.image_dim, "the new ones", new[0].image_dim)
        check_same_blocks(store, read_info(bundle).blocks)
        return _survey(store, config, training, rules)
    kept = replay_store(bundle, config.data.columns, out, new)
    return None if kept is None else _survey(kept, config, training, rules)


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


def _score(folder: Folder, config: UpdateConfig, log: Log) -> dict[str, Any]:
    annotator = load_bundle(local_bundle(folder.address))
    store = FeatureStore.open(config.data.test, config.data.columns, "--data.test")
    survey = survey_store(
        store, config.data.on_bad_row, statistics=False, log=log, rules=rules_of(annotator)
    )
    metrics = evaluate_store(
        annotator,
        annotator.vocabulary,
        survey,
        config.data.columns,
        config.k,
        on_bad_row=config.data.on_bad_row,
        log=log,
    )
    warnings = verdict(annotator.info, metrics).warnings
    return {**metrics, "train": annotator.info.train, "warnings": warnings}
