"""A training run that leaves a bundle: the decision rule, the loop, the model."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from distributed.bundles.finish import finish_bundle
from distributed.bundles.write import BundleWriter
from distributed.runtime.progress import Log
from distributed.storage.folder import Folder
from distributed.training import checkpoint, collectives
from distributed.training.config import PICTURE_METHODS
from distributed.training.cross_fit import has_room, learn_decision
from distributed.training.drel_learner import DRELLearner
from distributed.training.kernel_fit import fit_kernel
from distributed.training.learner import Learner
from distributed.training.run_spec import RunSpec
from distributed.training.trainer import RunIO, Trainer
from distributed.training.warm_start import inherit, inherited_thresholds
from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.drel import DRELAnnotator


class ModelIO(RunIO, Protocol):
    """A ``RunIO`` whose checkpoints can be read back while the run goes on."""

    def best(self, epoch: int) -> AbstractContextManager[Path]:
        """A local folder with the whole checkpoint that was saved after ``epoch`` epochs, which is the best
        one; waits until it is there."""


class ModelTrainer(Trainer[ModelIO]):
    """A run that leaves its model in ``OUT/model``. Arguments are those of ``Trainer``."""

    left_out: dict[str, Any] | None = (
        None  # figures of rows that fits for the decision rule left out
    )

    def run(self) -> bool:
        """Learn the decision rule, train, and write the bundle of the best epoch.

        Returns:
            False if the run was asked to stop: then there is a checkpoint and no bundle.
        """
        started = time.perf_counter()
        if isinstance(self.learner, DRELLearner):
            self._decide(self.learner)
        decided = time.perf_counter()
        done = self.fit()
        if done:
            self._finish(decided - started, time.perf_counter() - decided)
        self.close()
        if done and self.rank == 0:
            self.run_folder.push()
        return done

    def _decide(self, learner: DRELLearner) -> None:
        """Give the learner its decision rule and its kernel regression, where the configuration asks for
        them. A model that came from another has that one's rule."""
        config, survey, parent = self.spec.config, self.spec.survey, self.spec.parent
        num_tags = len(survey.count_T)
        if (config.decision.fits or config.kernel.landmarks) and not has_room(num_tags):
            self._log(f"{num_tags} tags are too many for a decision rule and a kernel: left out")
            return
        kernel, new_images = None, 0
        if parent is not None:
            inherited = inherit(parent, survey)
            learner.rule, kernel, new_images = inherited.rule, inherited.kernel, parent.new_images
        elif config.decision.fits:
            decision = learn_decision(self.spec, self.blocks, learner.device, self.io.log)
            learner.rule, self.left_out = decision.rule, decision.found
        if config.kernel.landmarks:
            learner.kernel = fit_kernel(
                config.kernel,
                learner.model,
                self.reader,
                torch.tensor(survey.count_T),
                config.seed,
                kernel,
                new_images,
            )

    def _finish(self, decision_seconds: float, fit_seconds: float) -> None:
        """Write the bundle of the best epoch, or without validation of the last one."""
        cursor, config = self.cursor, self.spec.config
        if cursor.best_epoch >= 0:
            with self.io.best(cursor.best_epoch + 1) as folder:
                checkpoint.load(folder, self.learner, self.spec.fingerprint)
        figures: dict[str, Any] = {
            "seconds": round(decision_seconds + fit_seconds, 2),
            "epochs": cursor.epoch,
            "images_per_second": round(self.metrics.total_images / max(fit_seconds, 1e-9), 1),
            "triplets_per_second": round(self.metrics.total_triplets / max(fit_seconds, 1e-9), 1),
            "workers": self.world,
        }
        if config.decision.fits or config.kernel.landmarks:
            figures["decision_seconds"] = round(decision_seconds, 2)
        if self.validation is not None:
            figures["validation"] = {"F1": cursor.best_f1, "epoch": cursor.best_epoch + 1}
            if self.found is None:  # the best epoch was one of an earlier attempt
                self.found = self.validation.look()
        for name, found in (("watch", self.found), ("left_out", self.left_out)):
            if found is not None:
                figures[name] = watch_figures(found)
        warnings = [*self.spec.warnings, *filter(None, [self.metrics.unmoved])]
        if warnings:
            figures["warnings"] = warnings
        trained = write_model(self.spec, self.learner, figures, self.io.log)
        if isinstance(trained, DRELAnnotator):
            self.metrics.projector(trained)


def watch_figures(found: dict[str, Any]) -> dict[str, Any]:
    """What a bundle says of metrics that came from ``WatchedRows`` or from fits."""
    kept = ("F1", "N+", "oF1", "P@1")
    return {
        "rows": found["images"],
        "kind": found["kind"],
        **{key: found[key] for key in kept},
        "floor": {key: found["floor"][key] for key in kept},
    }


def write_model(
    spec: RunSpec, learner: Learner, figures: dict[str, Any], log: Log
) -> TrainedAnnotator | None:
    """Every rank writes its part of the bundle; rank 0 the rest, then gives the folder its name.

    Returns:
        the bundle as rank 0 loaded it; None on other ranks.
    """
    config = spec.config
    writer = BundleWriter(Folder.of(config.out) / "model")
    if collectives.rank() == 0:
        writer.clear()
    collectives.barrier()
    described = learner.write(writer.folder)
    writer.upload()
    collectives.barrier()
    if collectives.rank() == 0:
        writer.download_parts()
        about = {
            **described,
            **spec.origin,
            "image_dim": spec.survey.image_dim,
            "k": config.k,
            "seed": config.seed,
            "features": spec.features,
            "train": figures,
            "config": asdict(config),
        }
        rows = 0 if config.method in PICTURE_METHODS else config.reservoir.rows
        before_T = None
        if spec.parent is not None:
            before_T = inherited_thresholds(spec.parent, spec.survey)
        trained = finish_bundle(
            writer, config.method, spec.survey, config.data.columns, about, log, rows, before_T
        )
    else:
        trained = None
        writer.discard()
    collectives.barrier()
    return trained
