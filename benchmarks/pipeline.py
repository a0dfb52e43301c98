"""`jobs.train` against the same step over tensors in memory: what the pipeline costs.

    python -m benchmarks.pipeline [--rows 100000 --dim 4096]

Generates a float16 store, then in one run measures, in images/s of training (steady state, from the
trainer's own lines after the first): the bare step over tensors in memory; jobs.train with the shard
resident, and streamed, 1 worker x 2 threads; and 2 workers x 1 thread. Then the time from the command to
the first step, against a bare 2-worker TorchTrainer that does nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.data.blocks import load_rows
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.training.build import build_drel_learner
from jobs.train import parse

LINE = re.compile(r"step (\d+)/\d+ .*? ([\d,]+) images/s")
BARE = """
import ray, ray.train.torch, sys, time
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
def loop(config):
    open(config["mark"], "w").write(str(time.time()))
ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR",
         log_to_driver=False)
TorchTrainer(loop, train_loop_config={"mark": sys.argv[1]},
             scaling_config=ScalingConfig(num_workers=2),
             run_config=RunConfig(storage_path=sys.argv[2], name="bare")).fit()
"""


def make_store(folder: Path, rows: int, dim: int, tags: int = 81, group: int = 2048) -> Path:
    generator = np.random.default_rng(0)
    path = folder / "store.parquet"
    schema = pa.schema(
        [
            ("image_id", pa.string()),
            ("features", pa.list_(pa.float16(), dim)),
            ("tags", pa.list_(pa.string())),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=["tags"]) as writer:
        for start in range(0, rows, group):
            n = min(group, rows - start)
            block = generator.standard_normal((n, dim), dtype=np.float32).astype(np.float16)
            names = [[f"tag{t}" for t in row] for row in generator.integers(0, tags, (n, 3))]
            writer.write_table(
                pa.table(
                    [
                        pa.array([f"i{start + i}" for i in range(n)]),
                        pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dim),
                        pa.array(names),
                    ],
                    schema=schema,
                )
            )
    return path


def options(
    store: Path, out: Path, batch: int, workers: int, threads: int, residency: str
) -> list[str]:
    return [
        "--preset",
        "paper",
        "--data.train",
        str(store),
        "--out",
        str(out),
        "--workers",
        str(workers),
        "--threads",
        str(threads),
        "--batch_size",
        str(batch),
        "--epochs",
        "1",
        "--data.residency",
        residency,
        "--checkpoint.every",
        "1000000",
        "--data.memory_gib",
        "8",
    ]


def trained(arguments: list[str]) -> float:
    """Images/s of jobs.train, the median of its lines but the first and the last."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.train", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    rates = [float(rate.replace(",", "")) for _, rate in LINE.findall(done.stdout)][1:-1]
    return float(np.median(rates))


def bare_step(arguments: list[str], batch: int, threads: int, seconds: float) -> float:
    """Images/s of the same step over rows in memory, in this process."""
    torch.set_num_threads(threads)
    config = parse(arguments)[0]
    store = FeatureStore.open(config.data.train)
    survey = survey_store(store, "fail")
    stepper = build_drel_learner(config, survey, torch.device("cpu"))
    held = [load_rows(r, store.columns, survey.names) for r in survey.train[:8]]
    batches = [
        part
        for rows in held
        for part in (
            rows.select(torch.arange(i, i + batch)) for i in range(0, len(rows) - batch + 1, batch)
        )
    ]
    stepper.model.train()
    rates: list[float] = []
    start = time.perf_counter()
    step = 0
    while time.perf_counter() - start < seconds or step < 5:
        one = time.perf_counter()
        rows_now = batches[step % len(batches)]
        stepper.run(
            rows_now.features_BD,
            rows_now.tags,
            epoch=0,
            step=step,
            progress=0.0,
            global_batch=batch,
        )
        rates.append(batch / (time.perf_counter() - one))
        step += 1
    return float(np.median(rates[2:]))


def first_step_seconds(folder: Path, store: Path) -> tuple[float, float]:
    """From the command to the first progress line of a tiny run, and to a bare trainer's loop."""
    script, mark = folder / "bare.py", folder / "mark"
    script.write_text(BARE)
    start = time.time()
    subprocess.run([sys.executable, script, mark, folder], check=True, capture_output=True)
    bare = float(mark.read_text()) - start
    out = folder / "first"
    arguments = options(store, out, 32, 2, 1, "auto")
    start = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *arguments], stdout=subprocess.PIPE, text=True
    )
    while not list(out.glob("tensorboard/events*")):  # opened right before the first step
        if process.poll() is not None:
            raise SystemExit("jobs.train ended before its first step")
        time.sleep(0.02)
    ours = time.time() - start
    process.communicate()
    return ours, bare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument(
        "--batch", type=int, default=2048, help="images in a step, over all workers"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_store(folder, args.rows, args.dim)

        def run(label: str, workers: int, threads: int, residency: str) -> float:
            out = folder / label
            return trained(options(store, out, args.batch, workers, threads, residency))

        def bare() -> float:
            return bare_step(
                options(store, folder / "x", args.batch, 1, 2, "auto"), args.batch, 2, 10
            )

        # The machine's speed drifts: each run is compared with the bare step right before and after.
        ratio: dict[str, float] = {}
        before = bare()
        for label, workers, threads, residency in (
            ("resident", 1, 2, "resident"),
            ("streaming", 1, 2, "stream"),
            ("2 workers", 2, 1, "resident"),
        ):
            images = run(label, workers, threads, residency)
            after = bare()
            ratio[label] = images / ((before + after) / 2)
            print(
                f"{label:12} {images:8.0f} images/s  {ratio[label]:.2f} of the bare step "
                f"({before:.0f} before, {after:.0f} after)",
                flush=True,
            )
            before = after
        print(
            f"2 workers x 1 thread / 1 worker x 2 threads: "
            f"{ratio['2 workers'] / ratio['resident']:.2f}"
        )
        small = make_store(folder, 512, 64)
        ours, nothing = first_step_seconds(folder, small)
        print(f"first step    {ours:8.1f} s; bare trainer {nothing:.1f} s: {ours / nothing:.2f} x")


if __name__ == "__main__":
    main()
