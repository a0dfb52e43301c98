"""How much of the bare scorer's rows/s `jobs.annotate` keeps, in how much memory, and what kill -9 costs.

    python -m benchmarks.make_store --rows 1000000 --dim 256 --out STORE
    python -m benchmarks.annotate --store STORE [--tags 1000] [--share 2]
    python -m benchmarks.annotate --store STORE --part kill

The model is the preset `best` with random weights. The bare scorer is the same annotator on the same batches,
in memory, on all cores, without Ray, before and after the job: one process with all threads, and one process
a core with one thread each, of which the faster counts. The job's rate is given over its whole command,
without what comes before its workers are there, and in its steady state (from its second part file to its
last); also rows a second of CPU time of all its processes, which other work on the machine changes less.
Memory is that of all its processes, private pages only, sampled once a second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.processes import cpu_seconds, descendants, private_bytes
from benchmarks.serving import bundle
from distributed.data.feature_store import FeatureStore
from distributed.runtime.ray_session import MALLOC

BARE = """
import sys, time, numpy as np, pyarrow.parquet as pq, torch
from distributed.inference.annotate_part import _BATCH
from drel_core.annotators.load import load_bundle
store, model, threads, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
annotator = load_bundle(model)
column = pq.ParquetFile(store).read_row_groups([0, 1], columns=["features"]).column(0)
flat = column.combine_chunks().flatten().to_numpy()
held_BD = torch.from_numpy(flat.reshape(-1, annotator.image_dim).copy())
batches = held_BD.split(_BATCH)
annotator.annotate(batches[0].float(), 5)
print("ready", flush=True)
sys.stdin.readline()
done, start, cpu = 0, time.perf_counter(), time.process_time()
while done < rows:
    batch = batches[done // _BATCH % (len(batches) - 1)]
    annotator.annotate(batch.float(), 5)
    done += len(batch)
print(done / (time.perf_counter() - start), done / (time.process_time() - cpu))
"""


def bare(file: Path, model: Path, processes: int, rows: int) -> tuple[float, float]:
    """Rows/s of all processes together, started at the same moment, and rows a second of CPU time."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                BARE,
                str(file),
                str(model),
                str(threads),
                str(rows // processes),
            ],
            env=os.environ | MALLOC,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    rates = np.array([process.communicate()[0].split() for process in running], dtype=float)
    return float(rates[:, 0].sum()), float(rates[:, 1].mean())


class Usage(threading.Thread):
    """Most private memory that a process and those below it have held at a time, and their CPU time."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.total, self.largest, self.driver, self.over = root, 0, 0, 0, False
        self.cpu_of: dict[int, float] = {}

    @property
    def cpu(self) -> float:
        """Seconds of CPU time of all of them, those that have ended included."""
        return sum(self.cpu_of.values())

    def run(self) -> None:
        while not self.over:
            every = [self.root, *descendants(self.root)]
            self.cpu_of |= {
                process: seconds for process in every if (seconds := cpu_seconds(process))
            }
            sizes = {process: private_bytes(process) for process in every}
            self.total = max(self.total, sum(sizes.values()))
            self.driver = max(self.driver, sizes.pop(self.root, 0))
            self.largest = max(self.largest, max(sizes.values(), default=0))
            time.sleep(1)


def command(model: Path, data: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jobs.annotate",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(out),
    ]


def job(model: Path, data: Path, out: Path, rows: int) -> dict[str, Any]:
    started = time.time()
    process = subprocess.Popen(command(model, data, out), stdout=subprocess.PIPE, text=True)
    usage = Usage(process.pid)
    usage.start()
    said = process.communicate()[0]
    whole = time.time() - started
    usage.over = True
    usage.join()
    if process.returncode:
        raise SystemExit("jobs.annotate failed")
    parts = sorted(out.glob("part-*.parquet"), key=lambda path: path.stat().st_mtime)
    cores = os.cpu_count() or 1
    at = [path.stat().st_mtime for path in parts]
    late = sum(pq.read_metadata(path).num_rows for path in parts[cores:])
    first = pq.read_metadata(parts[0]).num_rows
    steady = late / (at[-1] - at[cores - 1])
    # Its workers begin about as long before the first file as a file takes.
    begun = at[0] - first * cores / steady
    print(said.strip().splitlines()[-1])
    return {
        "rows": rows,
        "files": len(parts),
        "whole": rows / whole,
        "working": rows / (at[-1] - begun),
        "steady": steady,
        "before the workers, s": begun - started,
        "CPU, s": usage.cpu,
        "by CPU": rows / usage.cpu,
        "driver, GB": usage.driver / 1e9,
        "largest, GB": usage.largest / 1e9,
        "all, GB": usage.total / 1e9,
    }


def linked(store: Path, folder: Path, share: float) -> tuple[Path, int]:
    """A part of the files of a store, training and test part together, or all of them several times."""
    folder.mkdir()
    files = [
        *sorted((store / "test").glob("*.parquet")),
        *sorted((store / "train").glob("*.parquet")),
    ]
    total = sum(pq.read_metadata(file).num_rows for file in files)
    rows = 0
    for number in range(len(files) * math.ceil(share)):
        file = files[number % len(files)]
        if rows < share * total:
            os.link(file, folder / f"{number:05d}.parquet")
            rows += pq.read_metadata(file).num_rows
    return folder, rows


def kill(model: Path, data: Path, out: Path, rows: int) -> None:
    """kill -9 of the driver in the middle, then the same command; every row is to be there once."""
    driver = subprocess.Popen(
        command(model, data, out), stdout=subprocess.DEVNULL, start_new_session=True
    )
    while sum(1 for _ in out.glob("part-*.parquet")) < 10:
        assert driver.poll() is None, "it ended by itself"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # the workers of its Ray notice and end
    before = {path: path.stat().st_ino for path in out.glob("part-*.parquet")}
    done = subprocess.run(command(model, data, out), capture_output=True, text=True, check=True)
    kept = sum(path.stat().st_ino == inode for path, inode in before.items())
    found = (
        pq.ParquetDataset(sorted(out.glob("part-*.parquet"))).read(columns=["image_id"]).column(0)
    )
    given = pq.ParquetDataset(sorted(data.glob("*.parquet"))).read(columns=["image_id"]).column(0)
    same = found.combine_chunks().equals(given.combine_chunks())
    print(done.stdout.strip())
    different = len(np.unique(found.to_numpy(zero_copy_only=False).astype(str)))
    print(
        f"killed after {len(before)} files; {kept} of them kept by the second run; {len(found):,} of "
        f"{rows:,} rows, {different:,} different, "
        f"{'the' if same else 'NOT the'} store's rows in the store's order"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--tags", type=int, default=1000)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the store's files; 2: all of them twice"
    )
    parser.add_argument("--part", choices=("rate", "kill"), default="rate")
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=args.store.parent) as name:
        data, rows = linked(args.store, Path(name) / "data", args.share)
        dim = FeatureStore.open(str(data), option="--store", tags_needed=False).image_dim
        model, out = bundle(Path(name) / "model", dim, args.tags), Path(name) / "out"
        if args.part == "kill":
            kill(model, data, out, rows)
            return
        file = max(data.glob("*.parquet"), key=lambda path: path.stat().st_size)
        bares = [bare(file, model, n, 200_000) for n in (1, cores)]
        found = job(model, data, out, rows)
        bares += [bare(file, model, n, 200_000) for n in (1, cores)]
    rates = []
    for n, before, after in ((1, bares[0], bares[2]), (cores, bares[1], bares[3])):
        rates.append((before[0] + after[0]) / 2)
        print(
            f"bare scorer, {n} x {cores // n} threads {rates[-1]:,.0f} rows/s ({before[0]:,.0f} before, "
            f"{after[0]:,.0f} after)"
        )
    for which in ("whole", "working", "steady"):
        print(f"jobs.annotate, {which} {found[which]:,.0f} rows/s, {found[which] / max(rates):.2f}")
    by_cpu = max(
        (before[1] + after[1]) / 2 for before, after in zip(bares[:2], bares[2:], strict=True)
    )
    print(
        f"rows a second of CPU time: bare {by_cpu:,.0f}, jobs.annotate {found['by CPU']:,.0f}, "
        f"{found['by CPU'] / by_cpu:.2f}, start of Ray included"
    )
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
