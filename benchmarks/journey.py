"""Every verb on one store, each as the command that a user types: seconds, rows/s, memory, quality.

    python -m benchmarks.journey --rows 1000000 --tags 100000 --out OUT
    python -m benchmarks.journey --rows 10000 100000 --tags 1000 10000 --out OUT     one after the other
    python -m benchmarks.journey --store STORE --out OUT       on one that benchmarks.make_store has made
    python -m benchmarks.journey ... --yardstick LOOP.py     another trainer beside it, for the same seconds

Parts: make (benchmarks.make_store), train (the default preset, no option but --workers), evaluate, yardstick,
annotate (the test rows), serve (until it answers, then single rows over HTTP), update (2.5% new rows, 30% of
them with a new tag; scored on as many further rows), export. With --parts also retrain (on old and new rows,
beside the update) and compare.

The yardstick is called as `LOOP.py TRAIN TEST SECONDS --threads N` and ends with one JSON line of metrics.

OUT has table.md and journey.json. A part that is done is not run again, one that was stopped goes on, and
one that failed is a line of the table and is tried again by the next call. Memory is the peak of the command
and all its processes, what they share counted once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.later_rows import planted_source, write_later
from benchmarks.processes import PeakMemory, stop_tree
from benchmarks.update import score
from distributed.runtime.signals import Stopped, stop_at_once
from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder
from distributed.storage.resume import claim
from drel_core.bundle.format import read_info
from drel_core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
QUALITY = ("F1", "N+", "oF1", "P@1")
WARM, ASKED = 100, 500  # requests to the scorer


class CommandFailed(Exception):
    """A command of a part ended with another code than 0; holds its last line."""


@dataclass
class Result:
    """Of a part.

    Attributes:
        rows: that it worked on, each as often as it did.
        lines: what was scored, and its metrics.
    """

    seconds: float = 0.0
    rows: int = 0
    peak_bytes: int = 0
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    note: str = ""
    failed: str = ""


@dataclass(frozen=True)
class Journey:
    """One store, and the folder of all that is made from it."""

    out: Path
    store: Path
    make: tuple[str, ...]
    workers: int
    yardstick: Path | None

    @property
    def parts(self) -> Path:
        return self.out / "parts"

    def rows(self, part: str) -> int:
        manifest = json.loads((self.store / "manifest.json").read_text("utf-8"))
        return int(manifest["rows"][part])

    @contextmanager
    def command(
        self, name: str, words: list[Any]
    ) -> Iterator[tuple[subprocess.Popen[bytes], PeakMemory]]:
        """A command that runs while the block does, its output in a file; it is stopped with the block."""
        with open(self.parts / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )
        try:
            with PeakMemory(process.pid) as peak:
                yield process, peak
        finally:
            stop_tree(process)

    def said(self, name: str) -> str:
        return (self.parts / f"{name}.log").read_text("utf-8", "replace")

    def run(self, name: str, *words: Any, rows: int) -> Result:
        """A command to its end.

        Raises:
            CommandFailed: it did not end well.
        """
        started = time.perf_counter()
        with self.command(name, list(words)) as (process, peak):
            code = process.wait()
        if code:
            last = (self.said(name).strip().splitlines() or [""])[-1]
            raise CommandFailed(f"exit code {code}: {last[:300]}")
        return Result(time.perf_counter() - started, rows, peak.bytes)

    def verb(self, name: str, verb: str, *options: Any, rows: int) -> Result:
        return self.run(name, "-m", f"jobs.{verb}", *options, rows=rows)


def make(journey: Journey) -> Result:
    if not journey.make:
        return Result(note=f"{journey.store} was there")
    result = journey.run(
        "make", "-m", "benchmarks.make_store", "--out", journey.store, *journey.make, rows=0
    )
    result.rows = journey.rows("train") + journey.rows("test")
    found = re.search(r"^planted scorer.*: (\{.*\})$", journey.said("make"), re.MULTILINE)
    if found:
        result.lines = [("who knows how it was made", json.loads(found[1]))]
    return result


def _train(journey: Journey, name: str, data: Path, rows: int) -> Result:
    options = ("--data.train", data, "--out", journey.out / name, "--workers", journey.workers)
    result = journey.verb(name, "train", *options, rows=0)
    figures = read_info(journey.out / name / "model").train
    result.rows = int(rows * figures["epochs"])
    result.note = (
        f"{figures['epochs']} epochs, {figures['images_per_second']:,.0f} images/s within "
        f"{figures['seconds']:,.0f} s of training"
    )
    return result


def train(journey: Journey) -> Result:
    return _train(journey, "train", journey.store / "train", journey.rows("train"))


def evaluate(journey: Journey) -> Result:
    kept = journey.parts / "metrics.json"
    options = ("--model", journey.out / "train", "--data", journey.store / "test", "--json", kept)
    result = journey.verb("evaluate", "evaluate", *options, rows=journey.rows("test"))
    metrics = json.loads(kept.read_text("utf-8"))
    others = [
        (f"DREL, {how}", found) for how, found in metrics["decisions"].items() if how != "top"
    ]
    result.lines = [("DREL", metrics), *others, ("popularity floor", metrics["floor"])]
    result.note = (
        f"{metrics['tags_scored']:,} of {metrics['tags']:,} tags scored, top {metrics['k']}"
    )
    return result


def yardstick(journey: Journey) -> Result:
    assert journey.yardstick is not None
    seconds = read_info(journey.out / "train" / "model").train["seconds"]
    stores = (journey.store / "train", journey.store / "test")
    threads = os.cpu_count() or 1
    result = journey.run(
        "yardstick", journey.yardstick, *stores, seconds, "--threads", threads, rows=0
    )
    metrics = json.loads(journey.said("yardstick").strip().splitlines()[-1])
    result.lines = [(journey.yardstick.stem, metrics)]
    result.rows = round(metrics["images_per_second"] * metrics["seconds"])
    result.note = (
        f"{metrics['epochs']} epochs, {metrics['images_per_second']:,.0f} images/s within "
        f"{metrics['seconds']:,.0f} s of training"
    )
    return result


def annotate(journey: Journey) -> Result:
    options = ("--model", journey.out / "train", "--data", journey.store / "test")
    rows = journey.rows("test")
    result = journey.verb(
        "annotate", "annotate", *options, "--out", journey.out / "tags", rows=rows
    )
    found = re.search(r"([\d,]+ rows/s)", journey.said("annotate").splitlines()[-1])
    result.note = f"{found[1]} once it scores" if found else ""
    return result


def _ask(connection: http.client.HTTPConnection, path: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"} if body else {}
    connection.request("POST" if body else "GET", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise CommandFailed(f"{path}: HTTP {answer.status}: {content[:200].decode()}")
    return content


def serve(journey: Journey) -> Result:
    file = next(iter(sorted((journey.store / "test").glob("*.parquet"))))
    rows = pq.ParquetFile(file).read_row_group(0, columns=["features"])["features"]
    bodies = [
        json.dumps({"features": [row], "k": 5}).encode() for row in rows[: WARM + ASKED].to_pylist()
    ]
    started = time.perf_counter()
    words = ["-m", "jobs.serve", "--model", journey.out / "train", "--port", 0]
    with journey.command("serve", words) as (process, peak):
        while not (found := re.search(r"http://([\d.]+):(\d+)", journey.said("serve"))):
            if process.poll() is not None:
                last = (journey.said("serve").strip().splitlines() or [""])[-1]
                raise CommandFailed(f"exit code {process.returncode}: {last[:300]}")
            time.sleep(0.05)
        connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=60)
        _ask(connection, "/v1/health/ready")
        ready = time.perf_counter() - started
        taken = []
        for number in range(WARM + ASKED):
            before = time.perf_counter()
            _ask(connection, "/v1/annotate", bodies[number % len(bodies)])
            taken.append(time.perf_counter() - before)
        connection.close()
    p50, p99 = np.percentile(taken[WARM:], [50, 99]) * 1000
    note = (
        f"seconds until it answers; one row over HTTP: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"{ASKED / sum(taken[WARM:]):,.0f} a second by one client"
    )
    return Result(ready, 0, peak.bytes, note=note)


def _later(journey: Journey) -> tuple[int, list[str]]:
    """How many rows come later, and the tags that are new in them: each has about 45 of the rows."""
    source = planted_source(journey.store)
    rows = max(100, round(0.025 * source["rows"]))
    return rows, [f"tag{source['tags'] + tag}" for tag in range(max(2, rows // 150))]


def update(journey: Journey) -> Result:
    rows, new = _later(journey)
    learned, unseen = journey.out / "new.parquet", journey.out / "unseen.parquet"
    write_later(journey.store, rows, new, learned, unseen)
    options = ("--model", journey.out / "train", "--data", learned, "--workers", journey.workers)
    result = journey.verb("update", "update", *options, "--out", journey.out / "updated", rows=rows)
    result.note = f"{len(new)} new tags; scored on {rows:,} rows that neither model saw"
    result.lines = _old_and_new(journey, new, "before", "train", ("old",))
    result.lines += _old_and_new(journey, new, "after", "updated", ("old", "new"))
    return result


def _old_and_new(
    journey: Journey, new: list[str], when: str, model: str, kinds: tuple[str, ...]
) -> list[tuple[str, dict[str, Any]]]:
    trained = pq.read_table(journey.store / "vocabulary.parquet", columns=["tag"])["tag"]
    found = score(
        journey.out / model / "model",
        journey.out / "unseen.parquet",
        set(new),
        {*trained.to_pylist(), *new},
    )
    return [
        (f"{kind} tags {when}", {name: found[f"{kind} {name}"] for name in ("F1", "N+")})
        for kind in kinds
    ]


def retrain(journey: Journey) -> Result:
    both = journey.out / "old-and-new"
    both.mkdir(exist_ok=True)
    for file in [*(journey.store / "train").glob("*.parquet"), journey.out / "new.parquet"]:
        link = both / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    rows, new = _later(journey)
    result = _train(journey, "retrained", both, journey.rows("train") + rows)
    result.lines = _old_and_new(journey, new, "trained anew", "retrained", ("old", "new"))
    return result


def export(journey: Journey) -> Result:
    options = ("--model", journey.out / "train", "--out", journey.out / "exported")
    result = journey.verb("export", "export", *options, rows=0)
    result.note = journey.said("export").strip().splitlines()[-1].rpartition(": ")[0]
    return result


def compare(journey: Journey) -> Result:
    stores = ("--data.train", journey.store / "train", "--data.test", journey.store / "test")
    options = (*stores, "--out", journey.out / "compared", "--workers", journey.workers)
    result = journey.verb("compare", "compare", *options, rows=0)
    kept = json.loads((journey.out / "compared" / "results.json").read_text("utf-8"))["methods"]
    result.lines = [
        (f"{one['name']}{': left out' if one['skipped'] else ''}", one["mean"]) for one in kept
    ]
    return result


@dataclass(frozen=True)
class Part:
    """What is run, which parts must be done before, and whether its command goes on after a stop."""

    work: Callable[[Journey], Result]
    needs: tuple[str, ...] = ()
    resumes: bool = False


PARTS = {
    "make": Part(make, resumes=True),
    "train": Part(train, ("make",), resumes=True),
    "evaluate": Part(evaluate, ("train",)),
    "yardstick": Part(yardstick, ("train",)),
    "annotate": Part(annotate, ("train",), resumes=True),
    "serve": Part(serve, ("train",)),
    "update": Part(update, ("train",), resumes=True),
    "export": Part(export, ("train",)),
    "retrain": Part(retrain, ("update",), resumes=True),
    "compare": Part(compare, ("make",), resumes=True),
}
USUAL = [name for name in PARTS if name not in ("retrain", "compare")]


def kept(journey: Journey, name: str) -> Result | None:
    """What an earlier call found."""
    path = journey.parts / f"{name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text("utf-8"))
    return Result(**{**found, "lines": [(scored, metrics) for scored, metrics in found["lines"]]})


def run_part(journey: Journey, name: str, parts: dict[str, Part] = PARTS) -> Result:
    """A part, or what an earlier call found. What fails is a result as well."""
    part, stopped = parts[name], journey.parts / f"{name}.stopped.json"
    before = kept(journey, name)
    if before is not None and not before.failed:
        return before
    needed = [(need, kept(journey, need)) for need in part.needs]
    if missing := [need for need, found in needed if found is None or found.failed]:
        return Result(failed=f"needs {', '.join(missing)}")
    spent = float(stopped.read_text("utf-8")) if stopped.exists() else 0.0
    print(f"{name}: begins, output in {journey.parts / name}.log", flush=True)
    started = time.perf_counter()
    try:
        result = part.work(journey)
        result.seconds += spent
    except CommandFailed as error:
        result = Result(time.perf_counter() - started, failed=str(error))
    except Exception as error:  # of the benchmark itself: the other parts can still be run
        result = Result(time.perf_counter() - started, failed=f"{type(error).__name__}: {error}")
    except BaseException:
        if part.resumes:
            write_json(str(stopped), spent + time.perf_counter() - started)
        raise
    write_json(str(journey.parts / f"{name}.json"), vars(result))
    stopped.unlink(missing_ok=True)
    return result


def table(results: dict[str, Result]) -> str:
    """Markdown: a line a part, and one for every further model that it scored."""
    head = ["part", "seconds", "rows/s", "peak, GiB", "scored", *QUALITY, ""]
    rows = []
    for name, one in results.items():
        if one.failed:
            seconds = f"{one.seconds:,.1f}" if one.seconds else ""
            rows.append([name, seconds, *[""] * (len(head) - 3), f"failed: {one.failed}"])
            continue
        rate = f"{one.rows / one.seconds:,.0f}" if one.rows else ""
        cost = [name, f"{one.seconds:,.1f}", rate, f"{one.peak_bytes / 2**30:.1f}"]
        for place, (scored, metrics) in enumerate(one.lines or [("", {})]):
            first = place == 0
            cells = [
                ""
                if (value := metrics.get(key)) is None
                else f"{value:,.0f}"
                if key == "N+"
                else f"{value:.3f}"
                for key in QUALITY
            ]
            rows.append([*(cost if first else [""] * 4), scored, *cells, one.note if first else ""])
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
        + "\n"
    )


def travel(journey: Journey, names: list[str], parts: dict[str, Part] = PARTS) -> dict[str, Result]:
    """All parts of a journey, its table written anew after each."""
    journey.parts.mkdir(parents=True, exist_ok=True)
    claim(
        Folder.of(journey.out),
        "plan.json",
        {"store": str(journey.store), "make": list(journey.make), "workers": journey.workers},
        "a journey with other {names} began here ({values}); choose another --out",
    )
    results: dict[str, Result] = {}
    for name in parts:
        if name in names:
            results[name] = run_part(journey, name, parts)
        elif (before := kept(journey, name)) is not None:
            results[name] = before
        else:
            continue
        write_text(str(journey.out / "table.md"), table(results))
        told = {key: vars(one) for key, one in results.items()}
        write_json(str(journey.out / "journey.json"), told)
        print(table({name: results[name]}).splitlines()[2], flush=True)
    return results


def journeys(given: argparse.Namespace) -> list[Journey]:
    """
    Raises:
        InputError: the options do not fit each other.
    """
    if given.yardstick and not given.yardstick.is_file():
        raise InputError(f"--yardstick {given.yardstick}: there is no such file")
    out = given.out.absolute()
    loop = given.yardstick.absolute() if given.yardstick else None
    if given.store:
        if given.rows or given.tags:
            raise InputError("give --store, or --rows and --tags")
        planted_source(given.store)
        return [Journey(out, given.store.absolute(), (), given.workers, loop)]
    if not given.rows or len(given.rows) != len(given.tags):
        raise InputError("give as many numbers to --rows as to --tags, at least one")
    found = []
    for rows, tags in zip(given.rows, given.tags, strict=True):
        place = out / f"{rows}x{tags}" if len(given.rows) > 1 else out
        words = ("--rows", rows, "--tags", tags, "--dim", given.dim, "--structure", given.structure)
        found.append(Journey(place, place / "store", tuple(map(str, words)), given.workers, loop))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[])
    parser.add_argument("--tags", type=int, nargs="+", default=[])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--structure", choices=("linear", "nonlinear"), default="linear")
    parser.add_argument("--store", type=Path, help="one that is there, instead of making it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--yardstick", type=Path, help="a script that trains for given seconds")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=USUAL)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, stop_at_once)
    failed = False
    try:
        for journey in journeys(given):
            without = () if journey.yardstick else ("yardstick",)
            results = travel(journey, [name for name in given.parts if name not in without])
            print(f"\n{journey.out}\n\n{table(results)}", flush=True)
            failed |= any(one.failed for one in results.values())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
