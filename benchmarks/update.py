"""Does an update reach what training anew reaches, and in how much less time? Do many small ones drift?

    python -m benchmarks.update [--data FOLDER] [--seeds 0 1 2] [--validation SPLIT] [--out FOLDER]
    python -m benchmarks.update --part stream [--updates 10] [--images 50] [--twins 1]
    python -m benchmarks.update --store STORE ...     a planted store (benchmarks.make_store) instead

Of a set's tags every 9th by frequency is new, 40 at most. A model is trained on the images without any of
them, then updated with the images that carry them; another is trained on all images from the start. Both are
scored on the test part (with --validation: on 15% of the training rows, which nobody is then trained on),
over new and over old tags. Other options go to jobs.update. A run goes on where it stopped. --alone trains
without Ray, in one process on one thread.

stream: the images with new tags come in many small updates instead, one after the other, --images in each.
Every --twins-th of them, and the last, is compared with its twin: one update of the first model with all
images up to then. A line per update says both and the ratio of their F1 over new tags; the last line has the
least one. Beside them a model trained anew on the same images.

With --store the model is trained on the store's training rows, and what comes later is rows of the same
world that it has not, 30% of them with a tag that it has not; as many further rows are scored. --images is
2.5% of the store for one update, and 1% for each of a stream. The parts `update` of benchmarks.journey are
the same, with Ray and on the same rows.

Needs the larger data sets (DREL_SHARED_DATA), or a store.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.later_rows import planted_source, write_later
from distributed.data.blocks import load_rows
from distributed.data.canonical_tags import encode_tags
from distributed.data.feature_store import FeatureStore, flat_tags
from distributed.data.row_hash import is_drawn
from distributed.data.survey import survey_store
from distributed.driver.in_process import launch
from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.load import load_bundle
from drel_core.decision.decider import Decide
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from jobs import train, update

KINDS = ("new", "old", "all")


def split(train: pa.Table) -> tuple[pa.Table, pa.Table, list[str]]:
    """Images without new tags, images with them, and the new tags."""
    tags = train.column("tags").combine_chunks()
    counted = tags.flatten().value_counts()
    pairs = sorted(counted.to_pylist(), key=lambda pair: (-pair["counts"], pair["values"]))
    new = [pair["values"] for pair in pairs[8::9]][:40]
    values, offsets = flat_tags(tags)
    _, offsets = encode_tags(values, offsets, pa.array(new))
    has = np.diff(offsets) > 0
    return train.filter(pa.array(~has)), train.filter(pa.array(has)), new


def score(model: Path, test: Path, new: set[str], seen: set[str]) -> dict[str, float]:
    """F1 over new and over old tags, of the five most probable ones and of five by ``macro``."""
    annotator = load_bundle(model)
    store = FeatureStore.open(str(test))
    survey = survey_store(store, "fail", statistics=False)
    names = annotator.vocabulary.names
    rows = load_rows(survey.train, store.columns, pa.array(names))
    ways: tuple[Decide, ...] = ("top",) if annotator.decider is None else ("top", "macro")
    every = {how: MetricCounts(len(names), 5) for how in ways}
    tags: TagLists = rows.tags
    for start in range(0, len(tags), 1024):
        part = slice(start, start + 1024)
        for how, counts in every.items():
            chosen = choose(annotator, rows.features_BD[part], 5, decision_of(annotator, how))
            counts.update_topk(chosen.ids, tags[part])
    out = {}
    for label, some in zip(KINDS, (new, seen - new, seen), strict=True):
        wanted_T = torch.tensor([name in some for name in names])
        if "macro" in every:
            out[f"{label} macro F1"] = every["macro"].result(wanted_T)["F1"]
        found = every["top"].result(wanted_T)
        out |= {
            f"{label} F1": found["F1"],
            f"{label} N+": found["N+"],
            f"{label} tags": found["tags_scored"],
        }
    return out


def job(verb: str, *arguments: object, alone: bool = False) -> None:
    given = list(map(str, arguments))
    if alone:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            {"train": train.main, "update": update.main}[verb](given, launch)
        print(said.getvalue()[-400:], flush=True)
        return
    command = [sys.executable, "-m", f"jobs.{verb}", *given]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout[-400:] if done.returncode == 0 else done.stdout + done.stderr, flush=True)
    done.check_returncode()


@dataclass(frozen=True)
class Stores:
    """What one model is trained on, what comes later, what is scored, and the tags that are new later."""

    base: Path
    later: Path
    test: Path
    new: list[str]


def prepare(data: Path, out: Path, validation: int | None) -> Stores:
    """Of a real set; base.parquet and later.parquet are in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    train, test = data / "train.parquet", data / "test.parquet"
    if validation is not None:
        table = pq.read_table(train)
        ids = table.column("image_id").to_numpy().astype(object)
        held = is_drawn(ids, 0.15, "split", validation)
        train, test = out / "train.parquet", out / "test.parquet"
        pq.write_table(table.filter(pa.array(~held)), train)
        pq.write_table(table.filter(pa.array(held)), test)
    base, later, new = split(pq.read_table(train))
    print(f"{len(base)} images, then {len(later)} with {len(new)} new tags")
    for name, table in (("base", base), ("later", later)):
        if not (
            out / f"{name}.parquet"
        ).exists():  # a store that a run goes on from must not change
            pq.write_table(table, out / f"{name}.parquet")
    return Stores(out / "base.parquet", out / "later.parquet", test, new)


def prepare_planted(store: Path, out: Path, rows: int) -> Stores:
    """Of a planted store: ``rows`` further rows to learn, a new tag for each 150 of them, and as many to
    score."""
    out.mkdir(parents=True, exist_ok=True)
    first = planted_source(store)["tags"]
    new = [f"tag{first + tag}" for tag in range(max(2, rows // 150))]
    later, test = out / "later.parquet", out / "unseen.parquet"
    if not test.exists():
        write_later(store, rows, new, later, test)
    print(f"{store}, then {rows} rows with {len(new)} new tags")
    return Stores(store / "train", later, test, new)


def together(base: Path, later: Path, out: Path) -> Path:
    """A store of both."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(base.glob("*.parquet")) if base.is_dir() else [base]
    for number, file in enumerate([*files, later]):
        link = out / f"{number:05d}.parquet"
        if not link.exists():
            link.symlink_to(file.resolve())
    return out


@dataclass(frozen=True)
class Run:
    """How jobs are run, and what each verb is given."""

    alone: bool
    precision: str
    shared: tuple[str, ...]
    update: tuple[str, ...]

    def train(self, data: Path, out: Path) -> None:
        job(
            "train",
            "--data.train",
            data,
            "--out",
            out,
            "--optim.precision",
            self.precision,
            *self.shared,
            alone=self.alone,
        )

    def learn(self, model: Path, data: Path, out: Path) -> None:
        job(
            "update",
            "--model",
            model,
            "--data",
            data,
            "--out",
            out,
            *self.shared,
            *self.update,
            alone=self.alone,
        )


def measure_update(stores: Stores, out: Path, run: Run) -> dict[str, dict[str, float]]:
    """One seed: figures of the older model, the updated one and the one trained anew."""
    run.train(stores.base, out / "base")
    run.learn(out / "base", stores.later, out / "updated")
    run.train(together(stores.base, stores.later, out / "all"), out / "anew")
    seen = set(load_bundle(out / "anew" / "model").vocabulary.names)
    result: dict[str, dict[str, float]] = {}
    for name in ("base", "updated", "anew"):
        result[name] = score(out / name / "model", stores.test, set(stores.new), seen)
        figures = load_bundle(out / name / "model").info.train
        result[name]["seconds"] = figures["seconds"]
        result[name]["fit seconds"] = figures["seconds"] - figures.get("decision_seconds", 0.0)
        print(name, json.dumps(result[name]), flush=True)
    (out / "results.json").write_text(json.dumps(result, indent=1))
    return result


def measure_stream(stores: Stores, out: Path, parts: Parts, run: Run) -> list[Step]:
    """One seed: each of many small updates, and its twin where it has one."""
    later = pq.read_table(stores.later)
    order = np.random.default_rng(0).permutation(len(later))[: parts.updates * parts.images]
    run.train(stores.base, out / "base")
    seen = set(load_bundle(out / "base" / "model").vocabulary.names)
    seen |= {tag for row in later.column("tags").to_pylist() for tag in row}

    def figures(name: str) -> dict[str, float]:
        found = score(out / name / "model", stores.test, set(stores.new), seen)
        seconds = load_bundle(out / name / "model").info.train["seconds"]
        print(name, json.dumps({**found, "seconds": seconds}), flush=True)
        return found

    def learn(model: str, name: str, row: np.ndarray) -> dict[str, float]:
        path = out / f"{name}.parquet"
        if not path.exists():
            pq.write_table(later.take(pa.array(row)), path)
        run.learn(out / model, path, out / name)
        return figures(name)

    figures("base")
    steps: list[Step] = []
    for number in range(1, parts.updates + 1):
        start, stop = (number - 1) * parts.images, number * parts.images
        before = f"update {number - 1}" if number > 1 else "base"
        found = learn(before, f"update {number}", order[start:stop])
        twin = found if number == 1 else None
        if number > 1 and (number % parts.twins == 0 or number == parts.updates):
            twin = learn("base", f"twin {number}", order[:stop])
        steps.append(Step(number, stop, found, twin))
        print(steps[-1].line(), flush=True)
    pq.write_table(later.take(pa.array(order)), out / "all later.parquet")
    run.train(together(stores.base, out / "all later.parquet", out / "all"), out / "anew")
    figures("anew")
    return steps


@dataclass(frozen=True)
class Parts:
    """A stream: how many updates, how many images in each, and every which one has a twin."""

    updates: int
    images: int
    twins: int


@dataclass(frozen=True)
class Step:
    """Figures after an update of a stream, and of one update with all images up to it."""

    number: int
    images: int
    stream: dict[str, float]
    twin: dict[str, float] | None

    @property
    def ways(self) -> list[str]:
        return [name for name in ("F1", "macro F1") if f"new {name}" in self.stream]

    def ratio(self, way: str) -> float:
        """Of F1 over new tags; 1 where both found nothing."""
        assert self.twin is not None
        ours, theirs = self.stream[f"new {way}"], self.twin[f"new {way}"]
        return ours / theirs if theirs else 1.0 if not ours else float("inf")

    def line(self) -> str:
        parts = []
        for way in self.ways:
            text = f"{way} new {self.stream[f'new {way}']:.3f}, old {self.stream[f'old {way}']:.3f}"
            if self.twin is not None:
                text += f"; at once {self.twin[f'new {way}']:.3f}, {self.twin[f'old {way}']:.3f}; "
                text += f"ratio of new {self.ratio(way):.3f}"
            parts.append(text)
        return f"update {self.number:2d}, {self.images:4d} images: {' | '.join(parts)}"


def mean_step(steps: Sequence[Step]) -> Step:
    """Mean figures of the same update with several seeds."""

    def mean(every: Sequence[dict[str, float]]) -> dict[str, float]:
        return {key: float(np.mean([one[key] for one in every])) for key in every[0]}

    first = steps[0]
    twins = [step.twin for step in steps if step.twin is not None]
    stream = mean([step.stream for step in steps])
    return Step(first.number, first.images, stream, mean(twins) if twins else None)


def least(steps: Sequence[Step]) -> str:
    """The least ratio, from the second update on: the first is its own twin."""
    compared = [step for step in steps if step.twin is not None and step.number > 1]
    if not compared:
        return "no update was compared"
    said = []
    for way in compared[0].ways:
        ratios = {step.number: step.ratio(way) for step in compared}
        worst = min(ratios, key=lambda number: ratios[number])
        mean = np.mean([*ratios.values()])
        said.append(f"{way}: least ratio {ratios[worst]:.3f}, at update {worst}; mean {mean:.3f}")
    return f"{'; '.join(said)} over {len(compared)} compared"


def options() -> tuple[argparse.Namespace, list[str]]:
    """Those of this benchmark, and those of jobs.update."""
    shared = Path(os.environ.get("DREL_SHARED_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=shared / "corel5k-cnn1280")
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("out/benchmark-update"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--validation", type=int, default=None, metavar="SPLIT")
    parser.add_argument("--part", choices=("update", "stream"), default="update")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--twins", type=int, default=1)
    return parser.parse_known_args()


def main() -> None:
    given, more = options()
    stream = given.part == "stream"
    if given.store is not None:
        whole = planted_source(given.store)["rows"]
        images = given.images or max(100, round(whole * (0.01 if stream else 0.025)))
        rows = images * given.updates if stream else images
        stores = prepare_planted(given.store, given.out, rows)
    else:
        images = given.images or 50
        stores = prepare(given.data, given.out, given.validation)
    results = []
    streams: list[list[Step]] = []
    for seed in given.seeds:
        out: Path = given.out / f"seed-{seed}"
        shared = ("--workers", str(given.workers), "--seed", str(seed))
        run = Run(given.alone, given.precision, shared, tuple(more))
        if stream:
            parts = Parts(given.updates, images, given.twins)
            streams.append(measure_stream(stores, out, parts, run))
            print(f"seed {seed}: {least(streams[-1])}", flush=True)
        else:
            results.append(measure_update(stores, out, run))
    if streams:
        means_of_steps = [mean_step(steps) for steps in zip(*streams, strict=True)]
        print(f"mean over {len(streams)} seeds")
        print("\n".join([*(step.line() for step in means_of_steps), least(means_of_steps)]))
        return
    keys = [*(f"{kind} F1" for kind in KINDS), "seconds", "fit seconds"]
    means = {
        name: {key: float(np.mean([result[name][key] for result in results])) for key in keys}
        for name in ("base", "updated", "anew")
    }
    for seed, result in zip(given.seeds, results, strict=True):
        ratios = {key: round(result["updated"][key] / result["anew"][key], 3) for key in keys}
        print(f"seed {seed}, of training anew: {ratios}")
    ratios = {key: round(means["updated"][key] / means["anew"][key], 3) for key in keys}
    print(f"means: {json.dumps(means)}")
    print(f"mean over {len(results)} seeds, of training anew: {ratios}")


if __name__ == "__main__":
    main()
