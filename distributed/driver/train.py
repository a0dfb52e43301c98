"""The driver's side of training: look at the data, fit the method, score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distributed.bundles.open import open_annotator
from distributed.data.canonical_tags import open_rules
from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore, has_negatives
from distributed.data.manifest import (
    check_same_blocks,
    check_same_dim,
    check_same_features,
    codebook_of,
    features_of,
)
from distributed.data.picture_columns import picture_columns
from distributed.data.survey import StoreSurvey, same_rows_line, survey_store
from distributed.driver.launch import Launcher, launch
from distributed.driver.methods import fit
from distributed.driver.neighbours import unrelated
from distributed.driver.tag_text import named
from distributed.driver.verdict import verdict
from distributed.inference.evaluate import evaluate_store
from distributed.runtime.progress import Log, saying
from distributed.storage.folder import Folder
from distributed.storage.local_cache import RunFolder
from distributed.storage.owner import owned
from distributed.storage.resume import CONTENT, Plan, check_same, digest, read_note, write_note
from distributed.training.config import NO_TEXT, PICTURE_METHODS, TrainConfig
from distributed.training.run_spec import RunSpec
from distributed.training.size_rule import DataSize, apply_size_rule
from distributed.training.watch import watch_plan
from drel_core.annotators.cnn import picture_preprocessing
from drel_core.auto import AUTO
from drel_core.bundle.info import FeatureBlock
from drel_core.errors import InputError
from drel_core.model.towers import ModelConfig


def fingerprint(config: TrainConfig, survey: StoreSurvey, vectors: str = "") -> Plan:
    """What must not differ between the command that began a run and one that resumes it: all that the model
    depends on. How fast it goes, and on what, may differ.

    Args:
        vectors: digest of the tags' text vectors; empty where there are none.
    """
    svm, optim = asdict(config.svm), asdict(config.optim)
    del svm["max_hours"], optim["compile"]
    sections = ("model", "table", "loss", "pool", "decision", "kernel", "knn", "cnn")
    nested = {
        **{name: asdict(getattr(config, name)) for name in sections},
        "svm": svm,
        "optim": optim,
    }
    newer = {
        CONTENT: survey.content,
        "k": config.k,
        "reservoir": asdict(config.reservoir),
        "tags.vocabulary": survey.rules.digest if survey.rules else "",
        **({"patience": config.patience} if config.data.validation else {}),
    }
    text = {"tags": {"text": config.tags.text, "vectors": vectors}}
    rows = [(Path(r.unit.path).name, r.unit.file_row, r.take) for r in survey.train]
    return Plan(
        {
            "data.train": digest(survey.names.to_pylist(), survey.count_T.tobytes(), rows),
            "data.validation": config.data.validation,
            "method": config.method,
            "seed": config.seed,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            **nested,
            **newer,
            **text,
        },
        # Notes of earlier versions name nothing of ``newer``. Of an option that came later they mean its
        # default: what it does not do unless it is asked for. They knew nothing of names.
        unsaid={**_defaults(config, nested), **newer, "tags": {"text": NO_TEXT, "vectors": ""}},
    )


def _defaults(config: TrainConfig, nested: dict[str, Any]) -> dict[str, Any]:
    """What each option of some sections is unless it is given."""
    every = {name: asdict(type(getattr(config, name))()) for name in nested}
    return {name: {key: every[name][key] for key in values} for name, values in nested.items()}


def run(
    config: TrainConfig,
    log: Log = print,
    begin: Callable[[TrainConfig], None] = lambda config: None,
    launcher: Launcher = launch,
) -> dict[str, Any] | None:
    """Train as configured, and score the test store when there is one.

    Args:
        log: takes a line for the person who watches.
        begin: called before training, once the input has proved good; is given the configuration with
            absolute paths, and with what follows from the size of the data.
        launcher: starts what trains in epochs.

    Returns:
        the content of metrics.json, or None without a test store.

    Raises:
        InputError: the data or ``--out`` do not fit.
    """
    config = with_absolute_paths(config)
    out = Folder(config.out)
    out.check("--out")
    with owned(out, log):
        return _run(config, out, log, begin, launcher)


def _run(
    config: TrainConfig,
    out: Folder,
    log: Log,
    begin: Callable[[TrainConfig], None],
    launcher: Launcher,
) -> dict[str, Any] | None:
    config, store, test, features = open_input(config)
    survey = survey_for(config, store, log)
    config, settings = apply_size_rule(config, DataSize.of(survey))
    config, text = named(config, survey.names.to_pylist(), begun_text(out), out, log)
    test_survey = None
    if test is not None:
        test_survey = survey_store(
            test,
            config.data.on_bad_row,
            statistics=False,
            workers=config.workers.least,
            log=log,
            rules=survey.rules,
        )
    _log_survey(log, config, survey, test_survey)
    if settings and config.method in ("drel", "wsabie", *PICTURE_METHODS):
        log(settings)
    made_from = fingerprint(config, survey, text.digest if text is not None else "")
    if out.has("model/config.json"):
        check_finished(out, made_from)
        log(f"{out / 'model'} is trained already; scoring it")
    else:
        make_ready(out, made_from)
        begin(config)
        spec = RunSpec(
            config=config,
            survey=survey,
            features=features,
            fingerprint=made_from,
            warnings=_warn(log, config, survey),
            codebook=codebook_of(config.data.train, features),
            text=text.keep(out) if text is not None else None,
        )
        fit(spec, log, launcher)
    if test_survey is None:
        return None
    with saying(log, "opening the model"):
        annotator = open_annotator((out / "model").address)
    metrics = evaluate_store(
        annotator,
        annotator.vocabulary,
        test_survey,
        config.data.columns,
        config.k,
        config.decide,
        on_bad_row=config.data.on_bad_row,
        log=log,
    )
    metrics["train"] = annotator.info.train
    metrics["warnings"] = verdict(annotator.info, metrics).warnings
    return metrics


def begun_text(out: Folder) -> str | None:
    """The source of text vectors that the run in ``out`` was begun with; None where there is no run."""
    before = read_note(out, _FINGERPRINT)
    if before is None:
        return None
    tags = before.get("tags", {})
    return str(tags.get("text", NO_TEXT)) if isinstance(tags, dict) else NO_TEXT


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers have another working folder."""
    absolute: dict[str, Any] = {
        name: str(Path(path).expanduser().absolute())
        for name in ("train", "test")
        if (path := getattr(config.data, name)) is not None and "://" not in path
    }
    tags = config.tags
    if tags.vocabulary and "://" not in tags.vocabulary:
        vocabulary = str(Path(tags.vocabulary).expanduser().absolute())
        tags = replace(tags, vocabulary=vocabulary)
    if "://" not in tags.text and ("/" in tags.text or Path(tags.text).exists()):
        tags = replace(tags, text=str(Path(tags.text).expanduser().absolute()))
    data = replace(config.data, **absolute)
    return replace(config, data=data, tags=tags, out=Folder.of(config.out).address)


def open_input(
    config: TrainConfig,
) -> tuple[TrainConfig, FeatureStore, FeatureStore | None, dict[str, Any] | None]:
    """The configuration with what follows from the kind of features; the training store, the test store, and
    what the first one's manifest says of its features.

    Raises:
        InputError: a store cannot be opened, or they do not fit each other or the options.
    """
    config = _with_picture_columns(config)
    store, test, features = _open_stores(config)
    config = with_power(config, store)
    if config.kernel.shares and len(config.kernel.shares) != len(store.dims):
        raise InputError(
            f"kernel.shares has {len(config.kernel.shares)} values for {len(store.dims)} features columns; "
            "give one for each, or leave it out"
        )
    return config, store, test, features


def _with_picture_columns(config: TrainConfig) -> TrainConfig:
    """For methods that take pictures: how they are read and prepared."""
    if config.method not in PICTURE_METHODS:
        return config
    columns = picture_columns(
        config.data.train, config.data.columns, picture_preprocessing(config.cnn)
    )
    return replace(config, data=replace(config.data, columns=columns))


def _open_stores(
    config: TrainConfig,
) -> tuple[FeatureStore, FeatureStore | None, dict[str, Any] | None]:
    """The training store, the test store, and what the first one's manifest says of its features.

    Raises:
        InputError: one cannot be opened, or they hold different features.
    """
    data = config.data
    store = FeatureStore.open(data.train, data.columns)
    test = None
    if data.test is not None:
        test = FeatureStore.open(data.test, data.columns, "--data.test")
        check_same_dim(data.test, test.image_dim, f"but {data.train} has", store.image_dim)
    features = features_of(data.train, data.columns)
    if test is not None and data.test is not None:
        blocks = [
            FeatureBlock(*block) for block in zip(data.columns.blocks, store.dims, strict=True)
        ]
        check_same_blocks(test, blocks)
        check_same_features(features, data.train, features_of(data.test, data.columns), data.test)
    return store, test, features


def with_power(config: TrainConfig, store: FeatureStore) -> TrainConfig:
    """``model.power`` settled, which statistics of the store depend on.

    Features that are never negative, histograms and the pooled output of a network, take the root; of signed
    ones it would bend what is linear (docs/log.md). Each features column is looked at by itself.
    """
    if config.model.power != AUTO:
        return config
    powers = [1.0]
    if config.method in ("drel", "wsabie"):
        powers = [1.0 if signed else 0.5 for signed in has_negatives(store)]
    if len(set(powers)) == 1:
        return replace(config, model=replace(config.model, power=powers[0]))
    blocks = list(zip(store.dims, powers, strict=True))
    return replace(config, model=replace(config.model, power=1.0, power_blocks=blocks))


def power_of(model: ModelConfig) -> float | np.ndarray:
    """The power of all features, or ``[D]`` where features columns differ in it."""
    if not model.power_blocks:
        return model.power
    dims, powers = zip(*model.power_blocks, strict=True)
    return np.repeat(powers, dims)


def survey_for(config: TrainConfig, store: FeatureStore, log: Log | None = None) -> StoreSurvey:
    """The training store's survey.

    Raises:
        InputError: it has bad rows, or too few for what is asked of them.
    """
    validation = Validation(config.data.validation, config.seed) if config.data.validation else None
    survey = survey_store(
        store,
        config.data.on_bad_row,
        validation,
        statistics=config.method not in PICTURE_METHODS,
        power=power_of(config.model) if config.method in ("drel", "wsabie") else 1.0,
        workers=config.workers.least,
        watch=watch_plan(config, store.num_rows),
        log=log,
        rules=open_rules(config.tags.vocabulary),
    )
    if config.data.validation and not survey.validation_rows:
        raise InputError(
            f"data.validation {config.data.validation} holds out none of {survey.train_rows} rows; "
            "raise it or leave it out"
        )
    return survey


def _log_survey(
    log: Log, config: TrainConfig, survey: StoreSurvey, test: StoreSurvey | None
) -> None:
    log(
        f"{config.data.train}: {survey.train_rows} training images"
        + (f", {survey.validation_rows} for validation" if config.data.validation else "")
        + (f", {survey.watch_rows} held out to watch F1" if survey.watch_held_out else "")
        + f", D = {survey.image_dim}, {len(survey.names)} tags"
    )
    if line := survey.shortfall(config.data.validation):
        log(line)
    if survey.rules is not None:
        for note in survey.rules.check(survey.names.to_pylist()):
            log(f"{config.tags.vocabulary}: {note}")
    if test is not None and (line := same_rows_line(survey, test)):
        log(f"WARNING: {config.data.test}: {line}")
    for found in (survey, test):
        if found is None:
            continue
        if found.tagless:
            log(f"{found.tagless} rows without tags left out")
        if found.skipped:
            log(f"{len(found.skipped)} bad rows skipped:")
            for path, row, reason in found.skipped[:20]:
                log(f"  {path}: row {row}: {reason}")
            if len(found.skipped) > 20:
                log(f"  and {len(found.skipped) - 20} more")


def _warn(log: Log, config: TrainConfig, survey: StoreSurvey) -> tuple[str, ...]:
    """What is wrong before training begins, where training itself would not show it."""
    if config.method in PICTURE_METHODS or not survey.watch or survey.watch_held_out:
        return ()
    line = unrelated(survey, config.data.columns, config.seed)
    if line is None:
        return ()
    log(f"WARNING: {line}")
    return (line,)


_FINGERPRINT = "fingerprint.json"


def make_ready(out: Folder, made_from: Mapping[str, Any]) -> None:
    """Before a run begins or goes on in ``out``: note what it is.

    Raises:
        InputError: checkpoints of another run are there.
    """
    check_begun(out, made_from)
    if not out.remote:
        out.path.mkdir(parents=True, exist_ok=True)
    elif not out.has("config.yaml"):
        RunFolder(out).begin()
    write_note(out, _FINGERPRINT, made_from)


def check_begun(out: Folder, made_from: Mapping[str, Any]) -> None:
    """Raises:
    InputError: checkpoints of another run are in ``out``.
    """
    before = read_note(out, _FINGERPRINT)
    if before is not None and any("epoch-" in name for name in (out / "checkpoints").files()):
        check_same(
            out,
            before,
            made_from,
            "holds checkpoints of a run with another {names} ({values}); "
            "repeat the command that began it, or choose a new --out",
        )


def check_finished(out: Folder, made_from: Mapping[str, Any]) -> None:
    """Raises:
    InputError: the finished model in ``out`` was trained with something else.
    """
    before = read_note(out, _FINGERPRINT)
    # Earlier versions wrote it last: without it, one was killed just before, and the run was this one.
    if before is not None:
        check_same(
            out,
            before,
            made_from,
            "holds a model trained with another {names} ({values}); choose a new --out",
        )
