"""One-vs-all SVMs on Ray: a task a batch of tags, features once a node, finished batches kept."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from scipy.sparse import csc_matrix
from torch import Tensor

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.rows import Rows
from distributed.data.survey import StoreSurvey
from distributed.runtime.progress import Log, TimeLeft, duration, saying
from distributed.runtime.ray_session import local_ray, start_ray
from distributed.runtime.tasks import map_on_ray
from distributed.storage.folder import Folder
from distributed.storage.resume import differing, read_note, write_note
from distributed.training.held_out_fit import takes_second_fit
from distributed.training.run_spec import RunSpec
from distributed.training.size_rule import DataSize
from drel_core.annotators.knn import tag_matrix
from drel_core.annotators.svm import SVMAnnotator, SVMConfig, TagSVM, fit_tag
from drel_core.decision.held_out import HeldOut, best_of_all, sample_rows
from drel_core.errors import TooLargeError
from drel_core.scoring.tag_lists import TagLists

_BATCH = 8  # most tags of a task
_TASK_SECONDS = 30.0  # that a task may take: what is not finished when a run stops is lost
_POSITIVES = 200  # training images that every tag keeps when rows are left out
_SAMPLED = 5  # of the rows that are fitted then, at most a fifth to learn decisions from
_SCORED = 1024  # rows


def choose_rows(
    rows: int, tag_N: np.ndarray, row_N: np.ndarray, most: int, seed: int, sample_n: np.ndarray
) -> np.ndarray:
    """At most ``most`` rows, sorted: the sample first, up to 200 of every tag, then others, all at random.

    Args:
        rows: how many there are.
        tag_N, row_N: all (tag, row) pairs.
        sample_n: rows drawn with no look at their tags: decisions are learned from them.
    """
    if rows <= most:
        return np.arange(rows)
    rank = np.random.default_rng(seed).permutation(rows)
    order = np.lexsort((rank[row_N], tag_N))
    tag = tag_N[order]
    within = np.arange(len(tag)) - np.searchsorted(tag, tag)
    wanted = np.zeros(rows, dtype=bool)
    wanted[row_N[order[within < _POSITIVES]]] = True
    sampled = np.zeros(rows, dtype=bool)
    sampled[sample_n] = True
    first = np.lexsort((rank, ~wanted, ~sampled))
    return np.sort(first[:most])


def _read(
    survey: StoreSurvey, columns: Columns, most: int, seed: int, sample_n: np.ndarray
) -> tuple[Rows, np.ndarray]:
    """The rows to fit on, and the numbers of the sample among them. Two passes when some are left out, so
    that only the chosen are held."""
    if survey.train_rows <= most:
        return load_rows(survey.train, columns, survey.index), sample_n
    parts: list[Rows] = []
    tag, row, at = [], [], 0
    for selection in survey.train:
        tags = load_rows(selection, columns, survey.index).tags
        tag.append(tags.values.numpy())
        row.append(tags.row_ids().numpy() + at)
        at += len(tags)
    chosen = choose_rows(at, np.concatenate(tag), np.concatenate(row), most, seed, sample_n)
    at = 0
    for selection in survey.train:
        rows = load_rows(selection, columns, survey.index)
        low, high = np.searchsorted(chosen, (at, at + len(rows)))
        parts.append(rows.select(torch.from_numpy(chosen[low:high] - at)))
        at += len(rows)
    return Rows.cat(parts), np.searchsorted(chosen, sample_n)


def _fit_batch(
    features: Any, tag_NT: Any, config: SVMConfig, seed: int, sample_n: np.ndarray, tags: range
) -> tuple[range, list[TagSVM]]:
    features_ND, columns = ray.get(features), ray.get(tag_NT)
    return tags, [
        fit_tag(features_ND, _carries(columns, tag), config, seed, sample_n) for tag in tags
    ]


def _carries(tag_NT: csc_matrix, tag: int) -> np.ndarray:
    """bool ``[N]``: the image carries the tag."""
    carries_N = np.zeros(tag_NT.shape[0], dtype=bool)
    carries_N[tag_NT.indices[tag_NT.indptr[tag] : tag_NT.indptr[tag + 1]]] = True
    return carries_N


def one_tag_seconds(
    features_ND: np.ndarray, tag_NT: csc_matrix, config: SVMConfig, seed: int
) -> float:
    """Seconds that the tag of median frequency takes, of those that some image carries and some does not."""
    count_T = np.diff(tag_NT.indptr)
    tags = np.flatnonzero((count_T > 0) & (count_T < len(features_ND)))
    if not len(tags):
        return 0.0
    tag = tags[np.argsort(count_T[tags], kind="stable")[len(tags) // 2]]
    import sklearn.model_selection
    import sklearn.svm  # noqa: F401  fit_tag imports them, which is no part of fitting

    started = time.perf_counter()
    fit_tag(features_ND, _carries(tag_NT, int(tag)), config, seed)
    return time.perf_counter() - started


def _cpus() -> int:
    """Cores that tags are fitted on; starting a Ray here for that would take longer than the answer."""
    if local_ray():
        return os.cpu_count() or 1
    start_ray(1)
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def check_time(tags: int, seconds: float, cpus: int, most_hours: float) -> str:
    """How long it will take, in words.

    Args:
        tags: that are still to be fitted.
        seconds: of one tag.
        most_hours: the limit; 0: none.

    Raises:
        TooLargeError: it is above the limit.
    """
    whole = tags * seconds / cpus
    said = f"{tags:,} SVMs take about {duration(whole)} ({seconds:.2g} s a tag, {cpus} CPUs)"
    if most_hours and whole > most_hours * 3600:
        raise TooLargeError(
            f"{said}, above the limit of {most_hours:g} hours; raise it (jobs.train --svm.max_hours, "
            "jobs.compare --max_hours), or choose another method"
        )
    return said


def said_time(spec: RunSpec, size: DataSize) -> str:
    """How long all tags will take, in words: one is fitted here to try.

    Args:
        spec: its survey may be of some of the rows alone.
        size: of the whole store.

    Raises:
        TooLargeError: it is above ``svm.max_hours``.
    """
    survey, config, seed = spec.survey, spec.config.svm, spec.config.seed
    none = np.empty(0, np.int64)
    rows, _ = _read(survey, spec.config.data.columns, config.max_rows, seed, none)
    seconds = one_tag_seconds(*_matrices(rows, survey), config, seed)
    seconds *= max(1.0, min(size.rows, config.max_rows) / len(rows))
    return check_time(size.tags, seconds, _cpus(), config.max_hours)


def _matrices(rows: Rows, survey: StoreSurvey) -> tuple[np.ndarray, csc_matrix]:
    """Standardised features ``[N, D]``, and which tags they carry ``[N, T]``."""
    features_ND = rows.features_BD.numpy().astype(np.float64)
    features_ND -= survey.mean_D
    features_ND /= survey.std_D
    return features_ND, tag_matrix(rows.tags, len(survey.count_T)).tocsc()


def fit_svm(spec: RunSpec, kept: Folder, log: Log) -> tuple[SVMAnnotator, HeldOut | None]:
    """Fit every tag's machine, going on with the batches that an earlier call left in ``kept``.

    Returns:
        the machines, and of a sample of rows their log odds by machines that were fitted without them; None
        where decisions are learned from other rows or not at all.
    """
    survey, config, seed = spec.survey, spec.config.svm, spec.config.seed
    columns, num_tags = spec.config.data.columns, len(survey.count_T)
    # Not a second fit here: folds are left out anyway.
    sampled = _sampled(survey.train_rows, config.max_rows, spec) if takes_second_fit(spec) else 0
    sample_n = sample_rows(survey.train_rows, sampled, seed)
    with saying(log, "SVMs: reading the rows"):
        rows, sample_n = _read(survey, columns, config.max_rows, seed, sample_n)
    if len(rows) < survey.train_rows:
        log(f"fitting on {len(rows)} of {survey.train_rows} images (svm.max_rows)")
    features_ND, tag_NT = _matrices(rows, survey)
    tags_n = rows.tags.select(torch.from_numpy(sample_n))
    done = finished_batches(kept, spec.fingerprint, sampled)
    left = num_tags - sum(map(len, done.values()))
    if done:
        log(f"{num_tags - left} of {num_tags} tags are fitted already")
    size = _BATCH
    if left:
        with saying(log, "SVMs: fitting one tag to see how long all will take"):
            seconds = one_tag_seconds(features_ND, tag_NT, config, seed)
        log(check_time(left, seconds, _cpus(), config.max_hours))
        size = min(_BATCH, max(1, int(_TASK_SECONDS / max(seconds, 1e-9))))
    start_ray(1)
    work = partial(_fit_batch, ray.put(features_ND), ray.put(tag_NT), config, seed, sample_n)
    del features_ND, tag_NT
    todo = batches_left(num_tags, {start: len(machines) for start, machines in done.items()}, size)
    last = time.perf_counter()
    fitted, time_left = 0, TimeLeft(left)
    for batch, machines in map_on_ray(work, todo):
        done[batch.start] = machines
        save_batch(kept, batch, machines)
        fitted += len(batch)
        time_left.note(fitted)
        now = time.perf_counter()
        if now - last >= 3:
            log(f"tags {fitted}/{left}{time_left.text(fitted)}")
            last = now
    ordered = [machine for start in sorted(done) for machine in done[start]]
    annotator = SVMAnnotator.of(ordered, survey.mean_D, survey.std_D)
    return annotator, _held_out(ordered, tags_n) if sampled else None


def _sampled(rows: int, most: int, spec: RunSpec) -> int:
    """Size of the sample of rows that decisions are learned from."""
    return min(spec.config.decision.rows, rows if rows <= most else most // _SAMPLED)


def _held_out(machines: list[TagSVM], tags_n: TagLists) -> HeldOut:
    odds_Tn = torch.from_numpy(np.stack([machine.odds_n for machine in machines]))

    def scored() -> Iterator[tuple[Tensor, TagLists]]:
        for start in range(0, len(tags_n), _SCORED):
            rows = slice(start, start + _SCORED)
            yield odds_Tn[:, rows].T, tags_n[rows]

    return best_of_all(scored())


def batches_left(num_tags: int, done: dict[int, int], size: int) -> list[range]:
    """The tags that no finished batch holds, in batches of at most ``size``.

    Args:
        done: of each finished batch its first tag and its number of tags; batches of another size count too.
    """
    ends = [*sorted(done), num_tags]
    out, at = [], 0
    for end in ends:
        out += [range(low, min(low + size, end)) for low in range(at, end, size)]
        at = end + done.get(end, 0)
    return out


def save_batch(kept: Folder, batch: range, machines: list[TagSVM]) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        weight=np.stack([m.weight_D for m in machines]),
        rest=np.array([(m.b, m.a, m.c) for m in machines]),
        odds=np.stack([m.odds_n for m in machines]),
    )
    kept.write(f"tags-{batch.start:08d}.npz", buffer.getvalue())


def finished_batches(
    kept: Folder, fingerprint: Mapping[str, Any], sampled: int
) -> dict[int, list[TagSVM]]:
    """Machines of finished batches, when they were fitted to the same data in the same way.

    Args:
        sampled: rows whose log odds they must have; earlier versions kept none.
    """
    batches = [name for name in kept.files() if re.fullmatch(r"tags-\d+\.npz", name)]
    before = read_note(kept, "mark.json")
    if before is None or differing(before, fingerprint):
        kept.remove(batches)
        write_note(kept, "mark.json", fingerprint)
        return {}
    done: dict[int, list[TagSVM]] = {}
    for name in batches:
        with np.load(io.BytesIO(kept.read(name) or b""), allow_pickle=False) as held:
            if "odds" not in held or held["odds"].shape[1] != sampled:
                kept.remove([name])
                continue
            done[int(name[len("tags-") : -len(".npz")])] = [
                TagSVM(weight, b, a, c, odds)
                for weight, (b, a, c), odds in zip(
                    held["weight"], held["rest"].tolist(), held["odds"], strict=True
                )
            ]
    return done
