"""What a training would do: where it would run, how long, with how much memory and disk. Nothing is written,
and no Ray is started here; a cluster that RAY_ADDRESS names is joined and asked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from distributed.data.epoch import EpochPlan
from distributed.data.feature_store import FeatureStore
from distributed.driver import checkpoint_list, svm, train
from distributed.driver.knn import check_memory
from distributed.driver.launch import most_workers, on_gpus
from distributed.driver.look import StoreLook, look_at
from distributed.driver.pace import Pace, kernel_seconds, measure
from distributed.driver.sizes import (
    RAY_WORKER,
    SURVEY_ROW,
    bundle_bytes,
    checkpoint_bytes,
    landmarks,
    rank_bytes,
)
from distributed.driver.tag_text import find_text, look_up, settled_source, with_source
from distributed.runtime.capacity import Capacity, capacity, check_feasible, fits, shortage
from distributed.runtime.memory import available_bytes
from distributed.runtime.progress import Log, counted, duration, saying, size_of
from distributed.runtime.ray_session import RAY_STARTS, local_ray, start_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.folder import Folder
from distributed.storage.owner import check_free
from distributed.storage.resume import CONTENT
from distributed.training.config import NO_TEXT, PICTURE_METHODS, TrainConfig
from distributed.training.held_out_fit import without_probabilities
from distributed.training.run_spec import RunSpec
from distributed.training.size_rule import apply_size_rule
from drel_core.decision.held_out import LEAST_ROWS

_AGAIN = 1.8  # a second fit of four fifths of the rows
_LOOKS = 1.03  # looks at watched rows take up to 3% of the time


@dataclass(frozen=True)
class Place:
    """Where a run would work.

    Attributes:
        world: how many workers.
        cores: that they share; of a cluster those of this machine, where the pace is measured.
        local: on this machine.
        lines: that say so.
    """

    world: int
    cores: int
    local: bool
    lines: list[str]


@dataclass(frozen=True)
class Estimate:
    """Seconds of the parts of a run, in their order.

    Attributes:
        spec: what would run.
        exact: its survey is of all rows.
    """

    seconds: dict[str, float]
    spec: RunSpec
    exact: bool

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def dry_run(config: TrainConfig, log: Log) -> Estimate | None:
    """Say what ``train.run`` would do.

    Returns:
        how long; None where the model is there, or the time is not known.

    Raises:
        InputError: what the run would refuse, in the same words.
    """
    config = train.with_absolute_paths(config)
    out = Folder(config.out)
    out.check("--out")
    check_free(out)
    config, store, test, features = train.open_input(config)
    with saying(log, "looking at the rows"):
        look = look_at(config, store)
    config, settings = apply_size_rule(config, look.size)
    rows = f"{look.size.rows:,} training images" + (
        f", {look.held:,} held out" if look.held else ""
    )
    about = "" if look.exact else f" (about, {look.tags_from})"
    log(f"{config.data.train}: {rows}, D = {look.size.dim}, {look.size.tags:,} tags{about}")
    if settings and config.method in ("drel", "wsabie", *PICTURE_METHODS):
        log(settings)
    config, vectors = _named(config, look, out, log)
    if not look.exact:
        log("not known before all rows are read: bad rows and repeated ids")
    made_from = train.fingerprint(config, look.survey, vectors)
    if not look.exact:
        for part in ("data.train", CONTENT, "tags"):
            made_from.pop(part)
    if out.has("model/config.json"):
        train.check_finished(out, made_from)
        log(f"{out / 'model'} is trained already: it would only be scored")
        return None
    train.check_begun(out, made_from)
    spec = RunSpec(config=config, survey=look.survey, features=features, fingerprint=made_from)
    place = find_place(config)
    for line in place.lines:
        log(line)
    found: Estimate | None = _METHODS.get(config.method, in_steps)(spec, look, test, place, log)
    return found


def _named(config: TrainConfig, look: StoreLook, out: Folder, log: Log) -> tuple[TrainConfig, str]:
    """The configuration with ``tags.text`` settled, and the digest of the text vectors.

    Raises:
        InputError: the source that is asked for cannot be used.
    """
    config = with_source(config, settled_source(config, train.begun_text(out)))
    if config.tags.text == NO_TEXT:
        return config, ""
    if look.exact:
        text = find_text(config.tags.text, look.survey.names.to_pylist(), out, log)
        return config, "" if text is None else text.digest
    look_up(config.tags.text, [], log)
    log(f"names of tags: {config.tags.text}; how many have a vector is not known before")
    return config, ""


def find_place(config: TrainConfig) -> Place:
    """
    Raises:
        InputError: the cluster cannot be joined, or can never have room.
    """
    workers, cores = config.workers, os.cpu_count() or 1
    if local_ray():
        have = {"CPU": float(cores), "GPU": float(torch.cuda.device_count())}
        cuda = on_gpus(workers, config.device, Capacity(have, have))
        world = most_workers(workers)
        kind = f"{counted(world, 'worker')}{' with a GPU each' if cuda else ''}"
        lines = [f"where    a Ray on this machine ({cores} cores), {kind}"]
        if world * max(1, config.threads) > cores:
            lines.append(f"         more workers than cores: they share {cores}")
        return Place(world, cores, True, lines)
    start_ray(workers.least)
    found = capacity()
    cuda = on_gpus(workers, config.device, found)
    resources = {"CPU": 1.0, "GPU": 1.0} if cuda else {"CPU": 1.0}
    check_feasible(resources, workers.least, found)
    room = fits(resources, found.free)
    world = min(workers.most, max(workers.least, room))
    address = os.environ["RAY_ADDRESS"]
    lines = [
        f"where    the cluster at {address}: {counted(world, 'worker')} of {workers} asked for"
    ]
    if room < workers.least:
        lines.append(f"         {shortage(resources, workers.least - room, found)}")
    return Place(world, cores, False, lines)


def in_steps(
    spec: RunSpec, look: StoreLook, test: FeatureStore | None, place: Place, log: Log
) -> Estimate:
    """DREL and WSABIE."""
    config, size, world = spec.config, look.size, place.world
    with saying(log, "measuring steps"):
        pace = measure(config, look.survey, world, place.cores)
    steps = EpochPlan.make(size.rows, world, config.batch_size).steps * config.epochs
    if line := without_probabilities(spec):
        log(line)
    done = checkpoint_list.steps_done(Folder(config.out) / "checkpoints")
    if done:
        log(f"resume   goes on from step {done:,} of {steps:,}")
    seconds = _seconds(spec, look, test, place, pace, steps, done)
    item = look.survey.item_bytes
    parts = rank_bytes(config, size, item, world, pace.pool)
    if pace.held:
        parts = {
            "code, tag table and steps, measured": pace.held,
            **{name: parts[name] for name in ("rows", "kernel")},
        }
    parts["Ray and checkpoints"] = RAY_WORKER
    driver = SURVEY_ROW * size.rows + round(size.tags * (189 + look.name_bytes))
    _say_time(log, seconds, f"{steps - done:,} steps of {pace.step * 1000:.0f} ms", config)
    _say_memory(log, parts, driver, place)
    say_disk(
        log,
        Folder(config.out),
        {
            "model": bundle_bytes(config, size, item, look.name_bytes),
            "checkpoints": 3 * checkpoint_bytes(config, size),
        },
    )
    return Estimate(seconds, spec, look.exact)


def _seconds(
    spec: RunSpec,
    look: StoreLook,
    test: FeatureStore | None,
    place: Place,
    pace: Pace,
    steps: int,
    done: int,
) -> dict[str, float]:
    config, size, world = spec.config, look.size, place.world
    spread = place.cores if look.survey.num_bytes > INLINE_BYTES else 1
    survey = size.rows * look.row_seconds / (1 if look.exact else spread)
    tested = 0 if test is None else test.num_rows
    parts = {
        "survey": survey + tested * look.row_seconds,
        "start": RAY_STARTS,
        "kernel": kernel_seconds(config, size, world, pace) if landmarks(config, size) else 0.0,
    }
    fit = steps * pace.step * _LOOKS + size.rows * pace.read / world
    if _fits_again(spec, look) and not Folder(config.out).has("decision.safetensors"):
        parts["calibration"] = fit * (_AGAIN - 1)
    parts["training"] = fit * (1 - done / steps)
    parts["scoring"] = tested * (pace.score + pace.read)
    return {name: part for name, part in parts.items() if part}


def _fits_again(spec: RunSpec, look: StoreLook) -> bool:
    share = spec.config.decision.held_out
    spared = not look.held and spec.parent is None
    return bool(share) and spared and look.size.rows * share >= LEAST_ROWS


def _knn(spec: RunSpec, look: StoreLook, test: FeatureStore | None, place: Place, log: Log) -> None:
    check_memory(look.size.rows, look.size.dim)
    log("time     not known: all rows are read once and kept; it is scoring that takes long")


def _svm(spec: RunSpec, look: StoreLook, test: FeatureStore | None, place: Place, log: Log) -> None:
    log(f"time     {svm.said_time(spec, look.size)}")


def _unknown(
    spec: RunSpec, look: StoreLook, test: FeatureStore | None, place: Place, log: Log
) -> None:
    log("time     not known: what networks from pixels take was not measured here")


def _soon(
    spec: RunSpec, look: StoreLook, test: FeatureStore | None, place: Place, log: Log
) -> None:
    log("time     seconds: tags are counted")


_METHODS: Mapping[str, Any] = {
    "knn": _knn,
    "svm": _svm,
    "popularity": _soon,
    **dict.fromkeys(PICTURE_METHODS, _unknown),
}


def _say_time(log: Log, seconds: dict[str, float], steps: str, config: TrainConfig) -> None:
    most = "at most " if config.data.validation else ""
    parts = ", ".join(f"{name} {duration(part)}" for name, part in seconds.items() if part >= 1)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = (
        f"; other programs slow it down, load {load:.1f} on {cores} cores" if load > cores else ""
    )
    log(
        f"time     {most}about {duration(sum(seconds.values()))}, or half or twice that: {parts} "
        f"({steps}, measured here just now{busy})"
    )


def _say_memory(log: Log, parts: dict[str, int], driver: int, place: Place) -> None:
    one = sum(parts.values())
    shown = sorted(parts.items(), key=lambda part: -part[1])
    said = ", ".join(f"{name} {size_of(part)}" for name, part in shown if part >= 0.05 * one)
    log(
        f"memory   {size_of(one)} a worker ({said}), {size_of(driver)} in the driver beside its code"
    )
    if not place.local:
        return
    needed, free = one * place.world + driver, available_bytes()
    if needed > free:
        log(
            f"WARNING: {counted(place.world, 'worker')} need {size_of(needed)}, and {size_of(free)} are "
            "free: give fewer --workers, a smaller --batch_size or --data.memory_gib"
        )


def say_disk(log: Log, out: Folder, parts: dict[str, int]) -> None:
    """What will be written into ``out``, by what it is, and whether there is room."""
    said = ", ".join(f"{name} {size_of(part)}" for name, part in parts.items())
    if out.remote:
        log(f"disk     up to {said} in {out}")
        return
    there = next(one for one in (out.path, *out.path.parents) if one.is_dir())
    free = shutil.disk_usage(there).free
    log(f"disk     up to {said}; {size_of(free)} are free at {there}")
    if sum(parts.values()) > free:
        log(f"WARNING: {there} has too little room; choose another --out")
