"""What each training worker does. Runs in Ray Train's workers; the process group is set up by then."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from distributed.bundles.finish import finish_bundle
from distributed.bundles.locate import local_bundle
from distributed.bundles.write import BundleWriter
from distributed.data.blocks import BlockSource
from distributed.data.epoch import ShardReader
from distributed.data.reshard import epoch_reader
from distributed.data.shard_layout import ShardLayout
from distributed.runtime.signals import LoopAction
from distributed.storage.folder import Folder
from distributed.storage.local_cache import RunFolder
from distributed.training import checkpoint, collectives
from distributed.training.build import build_drel_learner, is_resident, make_reader
from distributed.training.checkpoint import Cursor
from distributed.training.config import PICTURE_METHODS
from distributed.training.cross_fit import has_room, learn_decision
from distributed.training.drel_learner import DRELLearner
from distributed.training.heartbeat import Heartbeat
from distributed.training.kernel_fit import fit_kernel
from distributed.training.learner import Learner
from distributed.training.metrics_log import MetricsLogger
from distributed.training.run_spec import RunSpec
from distributed.training.warm_start import inherit
from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle


def train(
    spec: RunSpec,
    learner: Learner,
    blocks: BlockSource,
    restore: Path | None,
    report: Callable[[Path, dict[str, Any]], object],
    recall: Callable[[dict[str, Any]], AbstractContextManager[str]],
    say: Callable[[str], None],
    validated: Callable[[int, dict[str, Any]], None] | None = None,
    heartbeat: Heartbeat | None = None,
) -> dict[str, Any]:
    """Train, validate, write checkpoints, and leave the bundle in ``OUT/model``.

    Args:
        blocks: reads units (Ray Data in production).
        restore: a checkpoint folder, or None.
        say: takes a line of progress (rank 0).
        report: hands a folder with this rank's part of a checkpoint over for keeping.
        recall: a local folder with the whole checkpoint whose metrics hold these; waits until it is kept.
        validated: for a search, which wants no bundle: takes the epochs done and the validation metrics.
        heartbeat: how a run is stopped from outside; none without.

    Returns:
        Figures of the run; ``stopped``, the steps done, when the heartbeat said so and there is no bundle.
    """
    config, data, fingerprint = spec.config, spec.survey, spec.fingerprint
    world, rank = collectives.world_size(), collectives.rank()
    resident = is_resident(config, data)
    reader = make_reader(config, data, data.train, blocks, resident)
    held = make_reader(config, data, data.validation, blocks, resident=True)
    has_validation = bool(data.validation)
    trained_T = torch.tensor(data.count_T) > 0
    cursor = Cursor()
    if restore is not None:
        cursor = checkpoint.load(restore, learner, fingerprint)
    steps = reader.plan.steps
    total_steps = steps * config.epochs
    first = cursor.epoch * steps + cursor.step
    if restore is not None and rank == 0:
        say(f"resuming at epoch {cursor.epoch + 1}, step {first} of {total_steps}")
    # The rows of an epoch that was begun by other ranks are divided anew from here on.
    now = ShardLayout(cursor.step, world, resident, 0 if resident else config.data.shuffle_rows)
    if not cursor.step:
        cursor.readings = [now]
    elif not cursor.readings[-1].same_way(now):
        cursor.readings.append(now)
    current = reader
    if len(cursor.readings) > 1:
        current = epoch_reader(
            data.train, cursor.readings, steps, rank, config.seed, cursor.epoch, blocks
        )
    scratch = RunFolder(Folder.of(config.out))
    logs = str(scratch.folder / "tensorboard")
    started = time.perf_counter()
    if isinstance(learner, DRELLearner) and validated is None:  # a search looks at the towers alone
        _decide(spec, learner, reader, blocks, say)
    decided = time.perf_counter() - started
    monitor = MetricsLogger(logs, config.epochs, total_steps, first, say)
    learner.model.train()

    def keep(score: float) -> None:
        folder = Path(tempfile.mkdtemp(prefix="drel-checkpoint-"))
        checkpoint.save(folder, learner, cursor, fingerprint)
        done = cursor.epoch * steps + cursor.step
        report(folder, {"score": score, "epoch": cursor.epoch, "step": cursor.step, "done": done})
        if rank == 0:
            scratch.push()

    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin(first)
    stopped, stopping = has_validation and cursor.stale_epochs >= config.patience, False
    while cursor.epoch < config.epochs and not (stopped or stopping):
        epoch, begun = cursor.epoch, cursor.readings[-1].first_step
        for batch in current.epoch(epoch, cursor.step - begun):
            step = cursor.step
            done = epoch * steps + step
            size = current.plan.global_size(step - begun)
            result = learner.run(
                batch.features_BD,
                batch.tags,
                epoch=epoch,
                step=step,
                progress=done / total_steps,
                global_batch=size,
            )
            monitor.step(result, size)
            if monitor.due():
                rate = config.optim.lr * config.optim.rate(done / total_steps)
                monitor.line(epoch, done + 1, rate, world)
            cursor.step += 1
            order = heartbeat.after_step(done + 1)
            stopping = stopping or order is LoopAction.STOP
            due = order is not LoopAction.GO_ON or (done + 1) % config.checkpoint.every == 0
            if cursor.step < steps:
                if due:
                    # With validation below all scores: Ray keeps the last one and the best two.
                    keep(-1.0 if has_validation else done + 1.0)
                if order is LoopAction.CHECKPOINT and rank == 0:
                    say(f"a node is about to go: checkpoint after step {done + 1}")
                if stopping:
                    break
        if cursor.step < steps:
            break
        cursor.epoch, cursor.step = epoch + 1, 0
        cursor.readings, current = [replace(now, first_step=0)], reader
        done = cursor.epoch * steps
        if has_validation:
            metrics = learner.evaluate(held.epoch(0), config.k, trained_T)
            monitor.validation(metrics, done)
            if metrics["F1"] > cursor.best_f1:
                cursor.best_f1, cursor.best_epoch, cursor.stale_epochs = metrics["F1"], epoch, 0
                keep(cursor.best_f1)
            else:
                cursor.stale_epochs += 1
                stopped = cursor.stale_epochs >= config.patience
                if due:
                    keep(-1.0)
            if validated is not None:
                validated(cursor.epoch, metrics)
        elif due or cursor.epoch == config.epochs:
            keep(float(done))
    if stopping:
        done = cursor.epoch * steps + cursor.step
        if rank == 0:
            say(f"stopped after step {done} of {total_steps}, with a checkpoint")
        monitor.close()
        return {"stopped": done}
    monitor.line(cursor.epoch - 1, cursor.epoch * steps, 0.0, world)
    seconds = time.perf_counter() - started
    if stopped and rank == 0:
        say(f"stopped early: no better F1 for {config.patience} epochs")
    if validated is not None:
        monitor.close()
        return {"seconds": round(seconds, 2)}
    if has_validation and cursor.best_epoch >= 0:
        with recall({"epoch": cursor.best_epoch + 1, "step": 0}) as at:
            checkpoint.load(Path(at), learner, fingerprint)
    figures: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "epochs": cursor.epoch,
        "images_per_second": round(monitor.total_images / max(seconds - decided, 1e-9), 1),
        "triplets_per_second": round(monitor.total_triplets / max(seconds - decided, 1e-9), 1),
        "workers": world,
    }
    if config.decision.fits or config.kernel.landmarks:
        figures["decision_seconds"] = round(decided, 2)
    if has_validation:
        figures["validation"] = {"F1": cursor.best_f1, "epoch": cursor.best_epoch + 1}
    write_model(spec, learner, figures)
    if rank == 0:
        trained = load_bundle(local_bundle(f"{scratch.out / 'model'}"))
        if isinstance(trained, DRELAnnotator):
            monitor.projector(trained)
    monitor.close()
    if rank == 0:
        scratch.push()
    return figures


def _decide(
    spec: RunSpec,
    learner: DRELLearner,
    reader: ShardReader,
    blocks: BlockSource,
    say: Callable[[str], None],
) -> None:
    """Give the learner its decision rule and its kernel regression, where the configuration asks for them.

    Args:
        reader: of this rank's training rows.
    """
    config, data = spec.config, spec.survey
    has_both = config.decision.fits or config.kernel.landmarks
    if has_both and not has_room(len(data.count_T)):
        if collectives.rank() == 0:
            say(f"{len(data.count_T)} tags are too many for a decision rule and a kernel: left out")
        return
    inherited, new_images = None, 0
    if spec.parent is not None:
        inherited, new_images = inherit(spec.parent, data), spec.parent.new_images
        learner.rule = inherited.rule
    elif config.decision.fits:
        learner.rule = learn_decision(
            config,
            data,
            lambda own: build_drel_learner(own, data, learner.device),
            lambda own, reads, training: make_reader(
                own, data, reads, blocks, not training or is_resident(config, data)
            ),
            spec.fingerprint,
            say,
        )
    if config.kernel.landmarks:
        count_T = torch.tensor(data.count_T)
        learner.kernel = fit_kernel(
            config.kernel,
            learner.model,
            reader,
            count_T,
            config.seed,
            None if inherited is None else inherited.kernel,
            new_images,
        )


def write_model(spec: RunSpec, learner: Learner, figures: dict[str, Any]) -> None:
    """Every rank writes its part of the bundle; rank 0 the rest, then gives the folder its name."""
    config, data = spec.config, spec.survey
    draft = BundleWriter(Folder.of(config.out) / "model")
    if collectives.rank() == 0:
        draft.clear()
    collectives.barrier()
    described = learner.write(draft.folder)
    draft.upload()
    collectives.barrier()
    if collectives.rank() == 0:
        draft.gather()
        about = {
            **described,
            **spec.origin,
            "image_dim": data.image_dim,
            "k": config.k,
            "seed": config.seed,
            "features": spec.features,
            "train": figures,
            "config": asdict(config),
        }
        rows = 0 if config.method in PICTURE_METHODS else config.reservoir.rows
        finish_bundle(draft, config.method, data, config.data.columns, about, rows)
    else:
        draft.drop()
    collectives.barrier()
