"""A training run that leaves a bundle: kernel and decisions, the loop, the model."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from distributed.bundles.finish import finish_bundle
from distributed.bundles.write import BundleWriter
from distributed.data.feedback import LEARNED
from distributed.runtime.progress import Log, saying
from distributed.storage.folder import Folder
from distributed.training import checkpoint, collectives
from distributed.training.config import PICTURE_METHODS
from distributed.training.drel_learner import DRELLearner
from distributed.training.held_out_fit import (
    Decided,
    decide_by,
    decide_by_second_fit,
    give,
    rows_of_both,
    rows_of_parent,
    takes_second_fit,
    without_probabilities,
)
from distributed.training.kernel_fit import fit_kernel, has_room
from distributed.training.learner import Learner
from distributed.training.run_spec import RunSpec
from distributed.training.score_moments import for_moments
from distributed.training.trainer import RunIO, Trainer
from distributed.training.warm_start import inherit
from drel_core.annotators.base import TrainedAnnotator
from drel_core.annotators.drel import DRELAnnotator
from drel_core.bundle.text_vectors import TAG_TEXT
from drel_core.decision.held_out import LEAST_ROWS


class ModelIO(RunIO, Protocol):
    """A ``RunIO`` whose checkpoints can be read back while the run goes on."""

    def best(self, epoch: int) -> AbstractContextManager[Path]:
        """A local folder with the whole checkpoint that was saved after ``epoch`` epochs, which is the best
        one; waits until it is there."""


class ModelTrainer(Trainer[ModelIO]):
    """A run that leaves its model in ``OUT/model``. Arguments are those of ``Trainer``."""

    decided: Decided | None = None  # what a second fit's left-out rows said
    shares: dict[str, float] | None = None  # of features columns in the kernel's distances

    def run(self) -> bool:
        """Learn decisions where that takes a second fit, train, and write the bundle of the best epoch.

        Returns:
            False if the run was asked to stop: then there is a checkpoint and no bundle.
        """
        started = time.perf_counter()
        if isinstance(self.learner, DRELLearner):
            self._prepare(self.learner)
        prepared = time.perf_counter()
        done = self.fit()
        if done:
            self._finish(prepared - started, time.perf_counter() - prepared)
        self.close()
        if done and self.rank == 0:
            self.run_folder.push()
        return done

    def _prepare(self, learner: DRELLearner) -> None:
        """Give the learner its kernel regression, where the configuration asks for one, and what a second
        fit says of its scores. A model that came from another has that one's decider, and a kernel if that
        one has."""
        config, survey, parent = self.spec.config, self.spec.survey, self.spec.parent
        num_tags = len(survey.count_T)
        inherited = None if parent is None else inherit(parent, survey)
        if inherited is not None:
            learner.decider = inherited.decider
            self._measure_parent(learner)
        kernel = older = None
        if parent is not None and inherited is not None and inherited.kernel is not None:
            older = inherited.kernel, parent.new_images
        if config.kernel.landmarks and not has_room(num_tags):
            self._log(f"{num_tags} tags are too many for a kernel regression: left out")
        elif config.kernel.landmarks and (parent is None or older is not None):
            kernel = fit_kernel(
                config.kernel,
                learner.model,
                self.reader,
                torch.tensor(survey.count_T),
                config.seed,
                older,
                survey.dims,
                self._rank_log,
            )
            learner.kernel = kernel.head
            if kernel.shares:
                self.shares = {
                    name: round(share, 3)
                    for name, share in zip(config.data.columns.blocks, kernel.shares, strict=True)
                }
                said = ", ".join(f"{name} {share:g}" for name, share in self.shares.items())
                self._log(f"shares of features columns in the kernel's distances: {said}")
        if line := without_probabilities(self.spec):
            self._log(line)
        if takes_second_fit(self.spec):
            decided = decide_by_second_fit(self.spec, self.blocks, learner, kernel, self._log)
            if decided is not None:
                decided.give(learner)
                self.decided = decided

    def _measure_parent(self, learner: DRELLearner) -> None:
        """Note where the parent's scores lie. A run that is taken up has it from its checkpoint."""
        if self.steps_done or learner.decider is None or self.spec.parent is None:
            return
        rows = rows_of_parent(self.spec, self.blocks)
        if rows is not None:
            self.cursor.parent_scores = learner.moments(rows, self.spec.parent.num_tags)

    def _follow_scores(self, learner: DRELLearner) -> None:
        """Updates rehearse the same rows again and again, and scores spread further each time. What made them
        probabilities follows, or a stream of updates would make the model ever surer of the same answers."""
        rows = rows_of_parent(self.spec, self.blocks) if self.cursor.parent_scores else None
        if rows is None or learner.decider is None or self.spec.parent is None:
            return
        kernel = learner.kernel
        now = learner.moments(rows, self.spec.parent.num_tags)
        factor = None if kernel is None else float(kernel.factor)
        give(learner, *for_moments(learner.decider, factor, self.cursor.parent_scores, now))

    @property
    def _rank_log(self) -> Log | None:
        """For lines of progress; only the first rank says them."""
        return self.io.log if self.rank == 0 else None

    def _decide(self, learner: DRELLearner) -> None:
        """Learn decisions from rows that the run held out, where there are any; make those of a second fit
        ready for the model, which is finished."""
        if self.decided is not None:
            scores = learner.moments(rows_of_both(self.spec, self.blocks))
            self.decided.for_scores(scores).give(learner)
        held = self.validation or self.watch
        enough = self.spec.survey.held_rows >= LEAST_ROWS
        if held is None or not enough or not self.spec.config.decision.held_out:
            self._follow_scores(learner)
            return
        with saying(self._rank_log, "calibration: learning from rows held out"):
            decided = decide_by(self.spec, learner, held.reader.load())
        if decided is not None:
            decided.give(learner)
            if decided.without_kernel:
                self._log(decided.without_kernel)
                self.found = held.look()  # what was found before was found with it
            return
        self._follow_scores(learner)
        if self.spec.parent is None:
            self._log("calibration: none of the held-out rows has a tag that the model knows")

    def _finish(self, prepared_seconds: float, fit_seconds: float) -> None:
        """Write the bundle of the best epoch, or without validation of the last one."""
        cursor, config = self.cursor, self.spec.config
        if cursor.best_epoch >= 0:
            with self.io.best(cursor.best_epoch + 1) as folder:
                checkpoint.load(folder, self.learner, self.spec.fingerprint)
        if isinstance(self.learner, DRELLearner):
            self._decide(self.learner)
        figures: dict[str, Any] = {
            "seconds": round(prepared_seconds + fit_seconds, 2),
            "epochs": cursor.epoch,
            "images_per_second": round(self.metrics.total_images / max(fit_seconds, 1e-9), 1),
            "triplets_per_second": round(self.metrics.total_triplets / max(fit_seconds, 1e-9), 1),
            "workers": self.world,
        }
        if config.kernel.landmarks or takes_second_fit(self.spec):
            figures["decision_seconds"] = round(prepared_seconds, 2)
        kept = isinstance(self.learner, DRELLearner) and self.learner.kernel is not None
        if self.shares is not None and kept:
            figures["kernel_shares"] = self.shares
        if self.validation is not None:
            figures["validation"] = {"F1": cursor.best_f1, "epoch": cursor.best_epoch + 1}
            if self.found is None:  # the best epoch was one of an earlier attempt
                self.found = self.validation.look()
        left_out = None if self.decided is None else self.decided.found
        for name, found in (("watch", self.found), ("left_out", left_out)):
            if found is not None:
                figures[name] = watch_figures(found)
        warnings = [*self.spec.warnings, *filter(None, [self.metrics.unmoved])]
        if warnings:
            figures["warnings"] = warnings
        with saying(self._rank_log, "writing the model"):
            trained = write_model(self.spec, self.learner, figures, self.io.log)
        if isinstance(trained, DRELAnnotator):
            self.metrics.projector(trained)
        decider = None if trained is None else trained.decider
        if decider is not None and decider.reliability_b2 is not None:
            self.metrics.calibration(decider.reliability_b2)


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
        if spec.parent is not None and (made := Folder.of(config.out)).has(LEARNED):
            made.fetch(LEARNED, writer.folder)
        if spec.text is not None:
            Folder.of(spec.text.out).fetch(TAG_TEXT, writer.folder)
        about = {
            **described,
            **spec.origin,
            "image_dim": spec.survey.image_dim,
            "k": config.k,
            "seed": config.seed,
            "features": spec.features,
            "train": figures,
            "config": asdict(config),
            **({"text": spec.text.about} if spec.text is not None else {}),
        }
        rows = 0 if config.method in PICTURE_METHODS else config.reservoir.rows
        trained = finish_bundle(
            writer, config.method, spec.survey, config.data.columns, about, log, rows, spec.codebook
        )
    else:
        trained = None
        writer.discard()
    collectives.barrier()
    return trained
