"""Search over the configuration: Ray Tune with random search and ASHA (Li et al., 2020)."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from distributed.data.blocks import block_source
from distributed.data.survey import StoreSurvey
from distributed.driver.launch import ray_train_storage
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import start_ray
from distributed.storage.folder import Folder
from distributed.training.config import TrainConfig, with_option
from drel_core.errors import InputError

SPACE: dict[str, Any] = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "optim.weight_decay": {"low": 0.01, "high": 5.0, "log": True},
    "table.lr": {"low": 1e-3, "high": 0.1, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.6},
    "model.input_dropout": {"low": 0.0, "high": 0.7},
    "loss.negatives": [3, 10, 30],
    "loss.tag_weight_power": {"low": 0.0, "high": 0.75},
    "model.latent": [256, 512, 1024],
}
"""Searched unless another space is given. A list is a choice; low and high are the ends of a range."""
TRIALS = "trials"


@dataclass(frozen=True)
class SearchResult:
    """Of a finished search: the best values and what every trial reached, best first."""

    values: dict[str, Any]
    trials: list[dict[str, Any]]


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """A configuration with some values replaced, by dotted name; checks them as any other.

    Raises:
        InputError: no such option, or a value out of its range.
    """
    for name, value in values.items():
        if not _is_option(config, name):
            raise InputError(f"search space: no option {name!r}; `jobs.train --help` lists them")
        try:
            config = with_option(config, name, value)
        except ValueError as error:
            raise InputError(f"search space: {error}") from None
    return config


def _is_option(part: Any, name: str) -> bool:
    first, _, rest = name.partition(".")
    known = is_dataclass(part) and first in part.__dataclass_fields__
    return known and (not rest or _is_option(getattr(part, first), rest))


def domains(space: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Ray Tune's form of a space, once its names and ends have proved good.

    Raises:
        InputError: an entry is no choice and no range, or its values do not fit.
    """
    out: dict[str, Any] = {}
    for name, entry in space.items():
        if isinstance(entry, list) and entry:
            ends, out[name] = entry, tune.choice(entry)
        elif isinstance(entry, dict) and entry.keys() <= {"low", "high", "log"}:
            ends = [entry.get("low"), entry.get("high")]
            if not all(isinstance(end, int | float) for end in ends) or ends[0] >= ends[1]:
                raise InputError(f"search space: {name} needs numbers low < high, not {entry}")
            whole = all(isinstance(end, int) for end in ends)
            if entry.get("log"):
                if ends[0] <= 0:
                    raise InputError(f"search space: {name} with log needs low above 0")
                out[name] = (tune.lograndint if whole else tune.loguniform)(*ends)
            else:
                out[name] = tune.randint(ends[0], ends[1] + 1) if whole else tune.uniform(*ends)
        else:
            raise InputError(
                f"search space: {name} is {entry!r}; give a list of choices, or low and high (and log)"
            )
        for end in ends:
            with_values(config, {name: end})
    return out


class SearchIO:
    """Reports each epoch's validation metrics to Ray Tune, with the last checkpoint that was saved."""

    def __init__(self) -> None:
        self.saved: Path | None = None

    def log(self, line: str) -> None:
        """The search shows a line for each trial, not for its steps."""

    def save(self, folder: Path, metrics: dict[str, Any]) -> None:
        self._remove()
        self.saved = folder

    def validated(self, epoch: int, metrics: dict[str, Any]) -> None:
        figures = {key: metrics[key] for key in ("F1", "N+", "mP", "mR", "oF1")}
        checkpoint = None
        if self.saved is not None:
            checkpoint = tune.Checkpoint.from_directory(str(self.saved))
        try:
            tune.report({"epoch": epoch, **figures}, checkpoint=checkpoint)
        finally:  # Tune has its copy; it may end the trial here
            self._remove()

    def _remove(self) -> None:
        if self.saved is not None:
            shutil.rmtree(self.saved, ignore_errors=True)
        self.saved = None


@dataclass(frozen=True)
class TrialSetup:
    """What all trials share.

    Attributes:
        config: what is not searched.
        threads: of a trial's process.
    """

    config: TrainConfig
    survey: StoreSurvey
    threads: int
    cuda: bool


def _trial(values: dict[str, Any], setup: TrialSetup) -> None:
    """Train with one set of values in one process. The towers alone: no rule, no bundle."""
    import torch

    from distributed.training.build import build_learner
    from distributed.training.run_spec import RunSpec
    from distributed.training.trainer import Trainer

    config = with_values(setup.config, values)
    config.out = str(Path(tune.get_context().get_trial_dir()))
    fingerprint = {"values": json.dumps(values, sort_keys=True)}
    spec = RunSpec(config=config, survey=setup.survey, features=None, fingerprint=fingerprint)
    torch.set_num_threads(setup.threads)
    learner = build_learner(spec, torch.device("cuda" if setup.cuda else "cpu"))
    trainer = Trainer(spec, learner, block_source(setup.survey, config.data.columns), SearchIO())
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.restore(Path(folder))
    trainer.fit()
    trainer.close()


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id.rpartition('_')[2]}"


class _Lines(tune.Callback):
    """A line for each trial that ends or is stopped: its best epoch, which is what counts at the end."""

    def __init__(self, log: Log, trials: int) -> None:
        self.log, self.trials = log, trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        last = trial.last_result or {}
        values = ", ".join(f"{key} {_short(value)}" for key, value in trial.config.items())
        self.log(
            f"trial {_ended(trials, trial)}/{self.trials}  validation F1 "
            f"{_reached(trial):.3f} in {last.get('epoch', 0)} epochs  "
            f"best so far {max(map(_reached, trials)):.3f}  ({values})"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.log(f"trial {_ended(trials, trial)}/{self.trials} failed: {trial.error_file}")

    def __getstate__(self) -> dict[str, Any]:
        return {"trials": self.trials}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, log=print)


def _ended(trials: list[Any], trial: Any) -> int:
    """How many trials have ended with this one, also before the search was killed."""
    return 1 + sum(one.is_finished() for one in trials if one.trial_id != trial.trial_id)


def _reached(trial: Any) -> float:
    """F1 of a trial's best epoch."""
    return float(trial.metric_analysis.get("F1", {}).get("max", 0.0))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def search(
    config: TrainConfig,
    survey: StoreSurvey,
    space: dict[str, Any],
    trials: int,
    concurrent: int,
    grace: int,
    log: Log,
) -> SearchResult:
    """Run the trials, or go on with those of an earlier call on the same ``config.out``.

    Args:
        config: what is not searched; its seed decides the values that are tried.
        concurrent: trials at a time, each one process; 0: as many as there are GPUs, or one.
        grace: epochs that every trial gets.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # a screen of boxes that we do not want
    start_ray(1)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cuda = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
    concurrent = concurrent or (gpus if cuda else 1)
    threads = config.threads or max(1, cpus // concurrent)
    setup = TrialSetup(config, survey, threads, cuda)
    trainable: Callable[..., Any] = tune.with_resources(
        tune.with_parameters(_trial, setup=setup), {"cpu": threads, "gpu": 1 if cuda else 0}
    )
    out = Folder.of(config.out)
    filesystem, place = ray_train_storage(out)
    folder = f"{place}/{TRIALS}"
    if tune.Tuner.can_restore(folder, storage_filesystem=filesystem):
        log(f"going on with the trials in {out / TRIALS}")
        tuner = tune.Tuner.restore(
            folder,
            trainable,
            resume_unfinished=True,
            restart_errored=True,
            storage_filesystem=filesystem,
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=domains(space, config),
            tune_config=_tune_config(config, trials, concurrent, grace),
            run_config=tune.RunConfig(
                name=TRIALS,
                storage_path=place,
                storage_filesystem=filesystem,
                verbose=0,
                callbacks=[_Lines(log, trials)],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
    return _result(tuner.fit())


def _tune_config(config: TrainConfig, trials: int, concurrent: int, grace: int) -> tune.TuneConfig:
    """Random search, whose trials ASHA stops early."""
    return tune.TuneConfig(
        metric="F1",
        mode="max",
        num_samples=trials,
        max_concurrent_trials=concurrent,
        scheduler=ASHAScheduler(
            time_attr="epoch",
            max_t=config.epochs,
            grace_period=min(grace, config.epochs),
            reduction_factor=3,
        ),
        trial_name_creator=_name,
        trial_dirname_creator=_name,
        search_alg=tune.search.BasicVariantGenerator(random_state=config.seed),
    )


def _result(grid: tune.ResultGrid) -> SearchResult:
    """
    Raises:
        RuntimeError: no trial has reported anything.
    """
    reached = []
    results = [grid[place] for place in range(len(grid))]
    for result in results:
        metrics = result.metrics or {}
        history = result.metrics_dataframe
        if result.error is None and "F1" in metrics and history is not None:
            best = history["F1"].max()
            reached.append(
                {
                    "F1": float(best),
                    "N+": int(metrics["N+"]),
                    "epochs": metrics["epoch"],
                    "values": metrics["config"],
                }
            )
    if not reached:
        first = next((str(r.error) for r in results if r.error), "no trial reported")
        raise RuntimeError(f"every trial failed: {first.strip().splitlines()[-1]}")
    reached.sort(key=lambda trial: -trial["F1"])
    return SearchResult(reached[0]["values"], reached)
