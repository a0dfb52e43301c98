"""How each method is fitted: what ``jobs.train --method`` names, and what ends in ``OUT/model``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from distributed.bundles.finish import finish_bundle
from distributed.bundles.write import BundleWriter
from distributed.data.survey import StoreSurvey
from distributed.driver.knn import choose, write_shards
from distributed.driver.launch import launch
from distributed.driver.svm import fit_svm
from distributed.driver.worker_entry import enter
from distributed.runtime.progress import Log
from distributed.storage.folder import Folder
from distributed.training.config import TrainConfig

Fingerprint = dict[str, Any]
Features = dict[str, Any] | None
Fit = Callable[[TrainConfig, StoreSurvey, Features, Fingerprint, Log], None]


def fit(
    config: TrainConfig, survey: StoreSurvey, features: Features, mark: Fingerprint, say: Log
) -> None:
    """Fit the configured method and leave its bundle in ``OUT/model``.

    Args:
        features: what the store's manifest says of its features.
        mark: what must not change when the run is taken up again.
    """
    _FITS[config.method](config, survey, features, mark, say)


def _in_epochs(
    config: TrainConfig, survey: StoreSurvey, features: Features, mark: Fingerprint, say: Log
) -> None:
    settings = {"config": config, "data": survey, "features": features, "fingerprint": mark}
    launch(
        enter,
        settings,
        out=config.out,
        workers=config.workers,
        threads=config.threads,
        device=config.device,
        cluster=config.cluster,
        every=config.checkpoint.every,
        say=say,
    )


def _popularity(
    config: TrainConfig, survey: StoreSurvey, features: Features, mark: Fingerprint, say: Log
) -> None:
    keep(config, survey, features, lambda draft: None, time.perf_counter())


def keep(
    config: TrainConfig,
    survey: StoreSurvey,
    features: Features,
    save: Callable[[BundleWriter], dict[str, Any] | None],
    started: float,
) -> None:
    """Write the bundle of a method that is fitted once, without epochs; whole or not at all.

    Args:
        save: writes the method's tensor files into the draft, and gives what ``config.json`` says of them.
        started: when fitting began (``perf_counter``).
    """
    draft = BundleWriter(Folder.of(config.out) / "model")
    draft.clear()
    described = save(draft) or {}
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
        "features": features,
        "train": figures,
        "config": asdict(config),
        **described,
    }
    finish_bundle(draft, config.method, survey, config.data.columns, about)


def _knn(
    config: TrainConfig, survey: StoreSurvey, features: Features, mark: Fingerprint, say: Log
) -> None:
    started = time.perf_counter()
    k, weighting = config.knn.k, config.knn.weighting
    if k == 0:
        k, weighting = choose(survey, config.data.columns, len(survey.count_T), config.seed)
        say(f"chosen on training rows: k = {k}, weighting {weighting}")

    def save(draft: BundleWriter) -> dict[str, Any]:
        write_shards(survey, config.data.columns, config.workers.most, draft)
        return {"parts": config.workers.most, "k_neighbours": k, "weighting": weighting}

    keep(config, survey, features, save, started)


def _svm(
    config: TrainConfig, survey: StoreSurvey, features: Features, mark: Fingerprint, say: Log
) -> None:
    started = time.perf_counter()
    kept = Folder.of(config.out) / "checkpoints"
    fitted = fit_svm(survey, config.data.columns, config.svm, config.seed, kept, mark, say)
    keep(config, survey, features, lambda draft: fitted.save(draft.folder), started)


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
