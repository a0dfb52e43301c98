"""How each method is fitted: what ``jobs.train --method`` names, and what ends in ``OUT/model``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from distributed.bundles.finish import finish_bundle
from distributed.bundles.write import BundleWriter
from distributed.driver.knn import check_memory, choose, write_shards
from distributed.driver.launch import Launcher
from distributed.driver.svm import fit_svm
from distributed.runtime.progress import Log
from distributed.storage.folder import Folder
from distributed.training.run_spec import RunSpec

Fit = Callable[[RunSpec, Log, Launcher], None]


def fit(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    """Fit the configured method and leave its bundle in ``OUT/model``.

    Args:
        launcher: starts what trains in epochs.
    """
    _FITS[spec.config.method](spec, log, launcher)


def _in_epochs(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    launcher(spec, log)


def _popularity(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    _write_at_once(spec, lambda writer: None, time.perf_counter(), log)


def _write_at_once(
    spec: RunSpec, save: Callable[[BundleWriter], dict[str, Any] | None], started: float, log: Log
) -> None:
    """Write the bundle of a method that is fitted once, without epochs; whole or not at all.

    Args:
        save: writes the method's tensor files into the writer's folder; gives what ``config.json`` says of
            them.
        started: when fitting began (``perf_counter``).
    """
    config, survey = spec.config, spec.survey
    writer = BundleWriter(Folder.of(config.out) / "model")
    writer.clear()
    described = save(writer) or {}
    seconds = time.perf_counter() - started
    figures = {
        "seconds": round(seconds, 2),
        "epochs": 1,
        "images_per_second": round(survey.train_rows / max(seconds, 1e-9), 1),
        "triplets_per_second": 0.0,
        "workers": config.workers.most,
    }
    about = {
        "image_dim": survey.image_dim,
        "k": config.k,
        "seed": config.seed,
        "features": spec.features,
        "train": figures,
        "config": asdict(config),
        **described,
    }
    finish_bundle(writer, config.method, survey, config.data.columns, about, log)


def _knn(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    started = time.perf_counter()
    config, survey = spec.config, spec.survey
    check_memory(survey)
    k, weighting = config.knn.k, config.knn.weighting
    if k == 0:
        k, weighting = choose(survey, config.data.columns, len(survey.count_T), config.seed)
        log(f"chosen on training rows: k = {k}, weighting {weighting}")

    def save(writer: BundleWriter) -> dict[str, Any]:
        write_shards(survey, config.data.columns, config.workers.most, writer)
        return {"parts": config.workers.most, "k_neighbours": k, "weighting": weighting}

    _write_at_once(spec, save, started, log)


def _svm(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    started = time.perf_counter()
    config = spec.config
    kept = Folder.of(config.out) / "checkpoints"
    fitted = fit_svm(
        spec.survey, config.data.columns, config.svm, config.seed, kept, spec.fingerprint, log
    )
    _write_at_once(spec, lambda writer: fitted.save(writer.folder), started, log)


_FITS: dict[str, Fit] = {
    "drel": _in_epochs,
    "wsabie": _in_epochs,
    "popularity": _popularity,
    "knn": _knn,
    "svm": _svm,
    "cnn-softmax": _in_epochs,
    "cnn-hinge": _in_epochs,
    "cnn-warp": _in_epochs,
}
