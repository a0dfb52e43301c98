"""Online learning: new images and new tags into a model that there is (He et al., 2015, section 3.4).

New rows and rows that the model rehearses are one training set; vocabulary and table grow at their end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distributed.bundles.locate import find_bundle, local_bundle
from distributed.data.canonical_tags import open_rules
from distributed.data.feature_store import FeatureStore
from distributed.data.picture_columns import bundle_columns
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver import train
from distributed.driver.launch import Launcher, launch
from distributed.driver.new_names import has_images, learning_from, names_of, names_only
from distributed.driver.new_tags import StartBy, init_new_tags, start_note
from distributed.driver.tag_text import grown_text
from distributed.driver.update_config import UpdateConfig, training_config
from distributed.driver.update_rows import (
    combined,
    known_images,
    new_stores,
    rehearsed_rows,
    shown_tags,
    survey_rows,
)
from distributed.driver.update_rule import UpdateRows, apply_update_rule
from distributed.driver.verdict import verdict
from distributed.inference.evaluate import evaluate_store
from distributed.runtime.progress import Log, counted, saying
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from distributed.training.run_spec import RunSpec
from distributed.training.warm_start import ParentBundle
from drel_core.annotators.base import rules_of
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import CODEBOOK, read_info, read_rules
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tag_edits import coming_back
from drel_core.errors import InputError

METHODS = ("drel", "wsabie")


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
        with saying(log, "choosing where new tags start"):
            init_new_tags(
                parent,
                spec.survey.index,
                spec.survey.count_T,
                parent.split(spec.survey.train)[0],
                config.data.columns,
                spec.config.model,
                StartBy.of(config, parent, out, text),
                spec.config.seed,
            )
        launcher(spec, log)


def _with_columns(config: UpdateConfig, info: BundleInfo) -> UpdateConfig:
    """The features columns that the model reads, unless others are named."""
    data = config.data
    stores = {"--data.new": data.new, "--data.replay": data.replay, "--data.test": data.test}
    option, path = next(((name, path) for name, path in stores.items() if path), ("--data.new", ""))
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
    new = new_stores(config, info, bundle, out, log, rules)
    surveys = [survey_rows(store, config, training, rules, watched=True, log=log) for store in new]
    replay = rehearsed_rows(config, bundle, out, new, training, rules)
    survey, repeats = combined(bundle, surveys, replay, config.replay_ratio)
    survey = replace(survey, rules=rules)
    rows = UpdateRows(
        new=sum(part.train_rows for part in surveys),
        rehearsed=replay.train_rows if replay is not None and repeats else 0,
        known=known_images(info, bundle, surveys),
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
        shown_T=shown_tags(
            survey.names, [*surveys, *([replay] if rows.rehearsed and replay else [])]
        ),
    )
    _log_rows(log, parent, survey, rows.rehearsed, repeats)
    log(settings)
    if config.data.validation:
        log(f"{survey.validation_rows} rows are held out for validation")
    _log_skipped(log, surveys)
    if rules is not None and given:
        names = survey.names.to_pylist()
        for note in rules.check(names):
            log(f"{given}: {note}")
        if back := coming_back(names, read_rules(bundle), rules):
            log(f"WARNING: {given}: {back}")
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


def _codebook(bundle: Path) -> np.ndarray | None:
    path = bundle / CODEBOOK
    return load_tensors(path)["word_K128"].numpy() if path.is_file() else None


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
