"""What verbs that read a model would do; jobs.train's part is distributed/driver/dry_run.py."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from distributed.bundles.tag_side import may_search
from distributed.data.feature_store import FeatureStore, RowGroupSlice
from distributed.data.replay_buffer import RESERVOIR
from distributed.data.survey import survey_store
from distributed.driver.dry_run import say_disk
from distributed.driver.sizes import scorer_bytes
from distributed.inference.annotate import group_units
from distributed.inference.annotate_part import AnnotatePlan, PartAnnotator, part_name
from distributed.inference.evaluate import evaluate_store
from distributed.inference.score_config import ScoreConfig
from distributed.runtime.memory import available_bytes
from distributed.runtime.progress import counted, duration, size_of
from distributed.runtime.ray_session import RAY_STARTS, local_ray
from distributed.runtime.tasks import INLINE_BYTES
from distributed.storage.folder import Folder
from distributed.storage.owner import check_free
from drel_core.annotators.base import TrainedAnnotator, rules_of
from drel_core.bundle.format import read_info, read_vocabulary, reading
from drel_core.bundle.info import BundleInfo
from drel_core.export.two_tower import two_tower
from jobs.cli import say

_ROWS = 2048  # of a store, scored here to see how fast it goes


def annotation(plan: AnnotatePlan, store: FeatureStore, info: BundleInfo, workers: int) -> None:
    """Of jobs.annotate.

    Raises:
        InputError: a row of the sample is bad, or ``--out`` cannot be written.
    """
    out = Folder.of(plan.out)
    check_free(out)
    _say_model(info, store)
    groups = group_units(store.units)
    there = out.files()
    todo = [n for n in range(len(groups)) if part_name(n) not in there]
    if len(todo) < len(groups):
        say(f"resume   {len(groups) - len(todo)} of {len(groups)} files are there already")
    rows = sum(unit.rows for number in todo for unit in groups[number])
    unit = _sample(store)
    annotator = PartAnnotator(plan)
    started = time.perf_counter()
    found, _ = annotator.annotate(unit)
    rate = unit.rows / (time.perf_counter() - started)
    _say_time(rows, rate, store, workers)
    each = found.nbytes / max(1, unit.rows)
    say_disk(say, out, {f"{counted(len(todo), 'file')} of tags": round(each * rows)})


def evaluation(annotator: TrainedAnnotator, store: FeatureStore, config: ScoreConfig) -> None:
    """Of jobs.evaluate and jobs.report.

    Raises:
        InputError: a row of the sample is bad, or the model cannot decide so.
    """
    _say_model(annotator.info, store)
    sample = replace(store, units=[_sample(store)])
    started = time.perf_counter()
    survey = survey_store(sample, config.on_bad_row, statistics=False, rules=rules_of(annotator))
    read = time.perf_counter() - started
    found = evaluate_store(
        annotator,
        annotator.vocabulary,
        survey,
        store.columns,
        config.k,
        config.decide,
        config.precision,
        config.on_bad_row,
    )
    scored = read + found["score"]["seconds"]
    once = time.perf_counter() - started - scored  # adding up, and the speed of the model alone
    _say_time(store.num_rows, sample.num_rows / max(scored, 1e-9), store, 0, once)


def ingestion(rows: int, left: int, rate: float, pictures: bool) -> None:
    """Of jobs.ingest, after what its source said.

    Args:
        left: rows that are not there yet.
        rate: rows a second that were read here, and pictures seen by the network.
        pictures: the network had all cores; tables are read on one.
    """
    cores = os.cpu_count() or 1
    if left < rows:
        say(f"resume    {left:,} of {rows:,} rows are left")
    if not left:
        return
    place = (
        f"a Ray on this machine ({cores} cores)"
        if local_ray()
        else "the cluster that RAY_ADDRESS names"
    )
    say(f"where     {place}")
    seconds = RAY_STARTS + left / (rate if pictures else rate * cores)
    measured = f"{rate:,.0f} rows/s measured here just now"
    say(f"time      about {duration(seconds)}, or half or twice that ({measured})")


def export(bundle: Path, out: Folder) -> None:
    """Of jobs.export.

    Raises:
        InputError: the model cannot be exported, or ``out`` cannot be written.
    """
    check_free(out)
    info = read_info(bundle)
    with reading(bundle):
        two_tower(bundle, info, read_vocabulary(bundle))
    say(f"model    {info.method} {info.version} with {info.num_tags:,} tags")
    kept = {path.name: path.stat().st_size for path in bundle.iterdir() if path.is_file()}
    size = sum(size for name, size in kept.items() if name != RESERVOIR)
    say("where    in this process; seconds, or minutes where the model has gigabytes")
    say_disk(say, out, {"about": size + 4 * info.image_dim * 2048})


def scorer(bundle: Path, info: BundleInfo, replicas: int, address: str) -> None:
    """Of jobs.serve."""
    say(f"model    {info.method} {info.version} with {info.num_tags:,} tags, D = {info.image_dim}")
    place = (
        "a Ray on this machine" if local_ray() else f"the cluster at {os.environ['RAY_ADDRESS']}"
    )
    say(f"where    {place}, {counted(replicas, 'replica')}, {address}")
    files = {path.name: path.stat().st_size for path in bundle.iterdir() if path.is_file()}
    weights = sum(size for name, size in files.items() if name.endswith(".safetensors"))
    by_codes = may_search(bundle, info)
    if by_codes:
        say(
            "search   by codes, which the first replica of a machine makes; --search exact makes none"
        )
    latent = info.content.get("model", {}).get("latent", 0)
    own, shared = scorer_bytes(info.num_tags, latent, weights, by_codes)
    said = f", and {size_of(shared)} that they share" if shared else ""
    say(
        f"memory   about {size_of(own)} a replica{said}; {size_of(available_bytes())} are free here"
    )
    say(f"time     ready after about {duration(RAY_STARTS)}, longer the first time with many tags")


def _sample(store: FeatureStore) -> RowGroupSlice:
    """Some rows of the middle unit."""
    unit = store.units[len(store.units) // 2]
    return replace(unit, rows=min(unit.rows, _ROWS))


def _say_model(info: BundleInfo, store: FeatureStore) -> None:
    say(f"model    {info.method} {info.version} with {info.num_tags:,} tags")
    say(f"data     {store.path}: {store.num_rows:,} rows, D = {store.image_dim}")


def _say_time(rows: int, rate: float, store: FeatureStore, workers: int, once: float = 0.0) -> None:
    """Where rows are scored, and how long that takes at so many a second in one process."""
    cores = os.cpu_count() or 1
    seconds, said = once + rows / rate, f"{rate:,.0f} rows/s measured here just now"
    if store.num_bytes <= INLINE_BYTES:
        say("where    in this process")
    elif local_ray():
        most = workers or cores
        say(f"where    a Ray on this machine ({cores} cores), {counted(most, 'process')}")
        seconds += RAY_STARTS  # torch has all cores here: more processes share them
    else:
        address = os.environ["RAY_ADDRESS"]
        say(f"where    the cluster at {address}; how many cores are free is not known before")
        said += ", by this machine alone"
    say(f"time     about {duration(seconds)}, or half or twice that ({said})")
