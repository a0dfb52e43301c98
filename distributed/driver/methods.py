"""How each method is fitted: what ``jobs.train --method`` names, and what ends in ``OUT/model``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from distributed.bundles.finish import finish_bundle
from distributed.bundles.write import BundleWriter
from distributed.driver.knn import check_memory, choose, left_out_scores, write_shards
from distributed.driver.launch import Launcher
from distributed.driver.svm import fit_svm
from distributed.runtime.progress import Log, saying
from distributed.storage.folder import Folder
from distributed.training.held_out_fit import takes_second_fit
from distributed.training.run_spec import RunSpec
from drel_core.decision.decider import DECISION, learn_decider
from drel_core.decision.held_out import HeldOut, sample_rows

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
    finish_bundle(
        writer, config.method, survey, config.data.columns, about, log, codebook=spec.codebook
    )


def _knn(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    started = time.perf_counter()
    config, survey = spec.config, spec.survey
    check_memory(survey.train_rows, survey.image_dim)
    k, weighting = config.knn.k, config.knn.weighting
    if k == 0:
        with saying(log, "kNN: choosing k on training rows"):
            k, weighting = choose(survey, config.data.columns, len(survey.count_T), config.seed)
        log(f"chosen on training rows: k = {k}, weighting {weighting}")

    parts, rows = config.workers.most, survey.train_rows

    def save(writer: BundleWriter) -> dict[str, Any]:
        with saying(log, f"kNN: reading and writing {rows:,} rows"):
            write_shards(survey, config.data.columns, parts, writer)
        if takes_second_fit(spec):  # here: a search without the rows themselves
            most = min(config.decision.rows, int(rows * config.decision.held_out))
            row_n = sample_rows(rows, most, config.seed)
            total, fewer = len(survey.count_T), min(k, rows - 1)
            with saying(log, f"calibration: neighbours of {len(row_n):,} rows"):
                held = left_out_scores(writer.folder, parts, total, fewer, weighting, row_n)
            _decide(spec, held, writer, log)
        return {"parts": parts, "k_neighbours": k, "weighting": weighting}

    _write_at_once(spec, save, started, log)


def _svm(spec: RunSpec, log: Log, launcher: Launcher) -> None:
    started = time.perf_counter()
    fitted, held = fit_svm(spec, Folder.of(spec.config.out) / "checkpoints", log)

    def save(writer: BundleWriter) -> None:
        fitted.save(writer.folder)
        if held is not None:
            _decide(spec, held, writer, log)

    _write_at_once(spec, save, started, log)


def _decide(spec: RunSpec, held: HeldOut, writer: BundleWriter, log: Log) -> None:
    """Learn decisions, and put them beside what the method has written."""
    survey = spec.survey
    with saying(log, "calibration: learning from rows left out"):
        learned = learn_decider(
            held, torch.from_numpy(survey.count_T), survey.train_rows, spec.config.k
        )
    if learned is None:
        log("calibration: rows left out say nothing of scores, which stay scores")
    else:
        learned[0].save(writer.folder / DECISION)


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
