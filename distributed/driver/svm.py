"""One-vs-all SVMs on Ray: a task a batch of tags, features once a node, finished batches kept."""

from __future__ import annotations

import io
import re
import time
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.runtime.progress import Log
from distributed.runtime.ray_session import start_ray
from distributed.runtime.tasks import map_on_ray
from distributed.storage.folder import Folder
from distributed.storage.resume import differing, read_note, write_note
from drel_core.annotators.knn import tag_matrix
from drel_core.annotators.svm import SVMAnnotator, SVMConfig, TagSVM, fit_tag

_BATCH = 8  # tags of a task
_POSITIVES = 200  # training images that every tag keeps when rows are left out


def choose_rows(
    rows: int, tag_N: np.ndarray, row_N: np.ndarray, most: int, seed: int
) -> np.ndarray:
    """At most ``most`` rows, sorted: up to 200 of every tag first, then others, all at random.

    Args:
        rows: how many there are.
        tag_N, row_N: all (tag, row) pairs.
    """
    if rows <= most:
        return np.arange(rows)
    rank = np.random.default_rng(seed).permutation(rows)
    order = np.lexsort((rank[row_N], tag_N))
    tag = tag_N[order]
    within = np.arange(len(tag)) - np.searchsorted(tag, tag)
    wanted = np.zeros(rows, dtype=bool)
    wanted[row_N[order[within < _POSITIVES]]] = True
    first = np.lexsort((rank, ~wanted))
    return np.sort(first[:most])


def _read(survey: StoreSurvey, columns: Columns, most: int, seed: int) -> Rows:
    """The rows to fit on: two passes when some are left out, so that only the chosen are held."""
    if survey.train_rows <= most:
        return load_rows(survey.train, columns, survey.names)
    parts: list[Rows] = []
    tag, row, at = [], [], 0
    for selection in survey.train:
        tags = load_rows(selection, columns, survey.names).tags
        tag.append(tags.values.numpy())
        row.append(tags.row_ids().numpy() + at)
        at += len(tags)
    chosen = choose_rows(at, np.concatenate(tag), np.concatenate(row), most, seed)
    at = 0
    for selection in survey.train:
        rows = load_rows(selection, columns, survey.names)
        low, high = np.searchsorted(chosen, (at, at + len(rows)))
        parts.append(rows.select(torch.from_numpy(chosen[low:high] - at)))
        at += len(rows)
    return Rows.cat(parts)


def _fit_batch(
    features: Any, tag_NT: Any, config: SVMConfig, seed: int, tags: range
) -> tuple[range, list[TagSVM]]:
    features_ND, columns = ray.get(features), ray.get(tag_NT)
    machines = []
    for tag in tags:
        positive_N = np.zeros(len(features_ND), dtype=bool)
        positive_N[columns.indices[columns.indptr[tag] : columns.indptr[tag + 1]]] = True
        machines.append(fit_tag(features_ND, positive_N, config, seed))
    return tags, machines


def fit_svm(
    survey: StoreSurvey,
    columns: Columns,
    config: SVMConfig,
    seed: int,
    kept: Folder,
    fingerprint: dict[str, Any],
    log: Log,
) -> SVMAnnotator:
    """Fit every tag's machine, going on with the batches that an earlier call left in ``kept``."""
    rows = _read(survey, columns, config.max_rows, seed)
    if len(rows) < survey.train_rows:
        log(f"fitting on {len(rows)} of {survey.train_rows} images (svm.max_rows)")
    features_ND = rows.features_BD.numpy().astype(np.float64)
    features_ND -= survey.mean_D
    features_ND /= survey.std_D
    num_tags = len(survey.count_T)
    start_ray(1)
    work = partial(
        _fit_batch,
        ray.put(features_ND),
        ray.put(tag_matrix(rows.tags, num_tags).tocsc()),
        config,
        seed,
    )
    del features_ND
    done = _finished(kept, fingerprint)
    batches = [range(low, min(low + _BATCH, num_tags)) for low in range(0, num_tags, _BATCH)]
    todo = [batch for batch in batches if batch.start not in done]
    if done:
        log(f"{num_tags - sum(map(len, todo))} of {num_tags} tags are fitted already")
    started = last = time.perf_counter()
    fitted = 0
    for batch, machines in map_on_ray(work, todo):
        done[batch.start] = machines
        _save_batch(kept, batch, machines)
        fitted += len(batch)
        now = time.perf_counter()
        if now - last >= 3:
            left = int((now - started) * (sum(map(len, todo)) - fitted) / fitted)
            log(f"tags {fitted}/{sum(map(len, todo))}  left {left // 60}:{left % 60:02d}")
            last = now
    ordered = [machine for batch in batches for machine in done[batch.start]]
    return SVMAnnotator.of(ordered, survey.mean_D, survey.std_D)


def _save_batch(kept: Folder, batch: range, machines: list[TagSVM]) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        weight=np.stack([m.weight_D for m in machines]),
        rest=np.array([(m.b, m.a, m.c) for m in machines]),
    )
    kept.write(f"tags-{batch.start:08d}.npz", buffer.getvalue())


def _finished(kept: Folder, fingerprint: dict[str, Any]) -> dict[int, list[TagSVM]]:
    """Machines of finished batches, when they were fitted to the same data in the same way."""
    batches = [name for name in kept.files() if re.fullmatch(r"tags-\d+\.npz", name)]
    before = read_note(kept, "mark.json")
    if before is None or differing(before, fingerprint):
        kept.remove(batches)
        write_note(kept, "mark.json", fingerprint)
        return {}
    done: dict[int, list[TagSVM]] = {}
    for name in batches:
        with np.load(io.BytesIO(kept.read(name) or b""), allow_pickle=False) as held:
            done[int(name[len("tags-") : -len(".npz")])] = [
                TagSVM(weight, *rest.tolist())
                for weight, rest in zip(held["weight"], held["rest"], strict=True)
            ]
    return done
