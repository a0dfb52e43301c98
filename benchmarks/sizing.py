"""The constants of docs/operations.md that no other benchmark measures: bytes a row, a tag, an image x tag.

    python -m benchmarks.sizing [--part step survey read vocabulary bundle processes]

Every measurement is the growth of a fresh process's peak memory. ``processes`` trains on the embedded example
with two workers and adds up the private memory of all processes below, twice a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.processes import command_line, descendants, private_bytes

ROOT = Path(__file__).resolve().parent.parent


def held(what: str = "VmHWM") -> int:
    """Bytes resident: VmHWM at most so far, VmRSS now. (getrusage's maximum begins with the parent's.)"""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(what))


def step(kind: str, images: int, pool: int) -> None:
    """Memory of the scores and what comes of them, forward and backward, beyond a step of 8 images."""
    import torch

    from distributed.training.drel_learner import DRELLearner, PoolConfig
    from distributed.training.optim import OptimConfig
    from distributed.training.sharded_table import ShardedTagEmbedding
    from drel_core.model.pooled_step import LossConfig
    from drel_core.model.tag_embedding import TableConfig
    from drel_core.model.towers import DREL, ModelConfig
    from drel_core.scoring.tag_lists import TagLists

    torch.set_num_threads(1)
    config = ModelConfig(image_hidden=64, tag_dim=64, tag_hidden=64, latent=64, metric="identity")
    loss = LossConfig(kind="smooth") if kind == "smooth" else LossConfig(miner="hard", negatives=10)
    stepper = DRELLearner(
        DREL(64, config),
        ShardedTagEmbedding(pool, config, TableConfig(), 0),
        torch.ones(pool, dtype=torch.int64),
        loss,
        PoolConfig(candidates=pool),
        OptimConfig(),
        0,
    )
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(pool, (images, 3), generator=generator).tolist()
    tags = TagLists.from_lists([sorted(set(row)) for row in drawn])
    features_BD = torch.randn(images, 64)

    def take(count: int) -> None:
        stepper.run(
            features_BD[:count], tags[:count], epoch=0, step=0, progress=0.0, global_batch=images
        )

    take(8)
    before = held()
    take(images)
    print(
        f"step, {kind}: {(held() - before) / images / pool:.0f} bytes an image x tag "
        f"({images} images, {pool} tags, 3 tags an image)"
    )


def survey(rows: int) -> None:
    """The driver's search for duplicate ids."""
    import numpy as np

    from distributed.data.survey import _duplicates

    before, unit = held(), 65536
    generator = np.random.default_rng(0)
    surveys: list[Any] = [
        SimpleNamespace(
            id_hash=generator.integers(0, 2**63, unit).astype(np.uint64),
            bad=[],
            unit=SimpleNamespace(file_row=0, path="x"),
        )
        for _ in range(rows // unit)
    ]
    start = time.perf_counter()
    _duplicates(surveys)
    print(
        f"survey, driver: {(held() - before) / rows:.0f} bytes a row, "
        f"{(time.perf_counter() - start) / rows * 1e9:.0f} ns a row ({rows} rows)"
    )


def read(rows: int, dim: int) -> None:
    """One task of the survey: read, check and count a row group of float16 features."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distributed.data.check_rows import SurveyOptions, survey_unit
    from distributed.data.columns import Columns
    from distributed.data.feature_store import FeatureStore

    generator = np.random.default_rng(0)
    values = pa.array(generator.normal(size=rows * dim).astype(np.float16))
    tags = [[f"some tag {tag}" for tag in row] for row in generator.integers(0, 100_000, (rows, 3))]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/store.parquet"
        columns = {
            "image_id": [f"image-{row}" for row in range(rows)],
            "features": pa.FixedSizeListArray.from_arrays(values, dim),
            "tags": tags,
        }
        pq.write_table(pa.table(columns), path, row_group_size=rows)
        store = FeatureStore.open(path, Columns())
        pa.set_cpu_count(1)
        survey_unit(store.units[0], SurveyOptions(store.columns, store.image_dim))
        start = time.perf_counter()
        survey_unit(store.units[0], SurveyOptions(store.columns, store.image_dim))
        took = time.perf_counter() - start
    print(
        f"survey, a task: {rows / took:.0f} rows/s, {rows * dim * 2 / took / 2**20:.0f} MiB/s of features "
        f"on one core (D = {dim}, float16, from the page cache)"
    )


def vocabulary(tags: int) -> None:
    """A bundle's names and counts, parsed."""
    from drel_core.bundle.vocabulary import Vocabulary

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.json"
        with open(
            path, "w", encoding="utf-8"
        ) as file:  # in pieces: what is written is not measured
            file.write('{"names": [')
            for tag in range(tags):
                file.write(f'{", " * (tag > 0)}"some tag {tag}"')
            file.write('], "counts": [' + ", ".join(["1000"] * tags) + "]}")
        before, start = held(), time.perf_counter()
        found = Vocabulary.from_dict(json.loads(path.read_text("utf-8")))
        print(
            f"vocabulary: {(held() - before) / tags:.0f} bytes a tag, "
            f"{(time.perf_counter() - start) / tags * 1e9:.0f} ns a tag ({len(found)} tags)"
        )


def bundle(tags: int) -> None:
    """What a scorer holds of a loaded model (L = 256), and how long loading takes."""
    import numpy as np
    import torch

    from distributed.serving.model import ServedModel
    from drel_core.annotators.drel import write_table_part, write_towers
    from drel_core.bundle.format import write_bundle
    from drel_core.bundle.vocabulary import Vocabulary
    from drel_core.model.towers import DREL, ModelConfig

    config = ModelConfig(
        image_hidden=64, latent=256, normalise=True, tag_bias=True, metric="identity"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if not (child := sys.argv[-1]).startswith("/"):
            model = DREL(64, config)
            write_table_part(place, 0, 1, 0, torch.randn(tags, config.tag_dim), torch.ones(tags))
            write_towers(place, model)
            about = {"model": model.to_dict(), "table_parts": 1, "train": {}, "image_dim": 64}
            names = tuple(f"some tag {tag}" for tag in range(tags))
            write_bundle(place, "drel", Vocabulary(names, np.ones(tags)), about)
            size = sum(path.stat().st_size for path in place.iterdir())
            print(
                f"bundle: {size / tags:.0f} bytes a tag on disk (E = {config.tag_dim})", flush=True
            )
            subprocess.run(
                [sys.executable, "-m", "benchmarks.sizing", "--run", "bundle", str(tags), folder],
                cwd=ROOT,
                check=True,
            )
            return
        torch.set_num_threads(1)
        before, start = held(), time.perf_counter()
        served = ServedModel(child)
        took = time.perf_counter() - start
        print(
            f"scorer: {(held('VmRSS') - before) / tags:.0f} bytes a tag, at its peak "
            f"{(held() - before) / tags:.0f}; {took / tags * 1e6:.1f} us a tag to load on one thread "
            f"({len(served.names)} tags, L = 256)"
        )


def processes() -> None:
    """Private memory of a local run, by kind of process, at the moment when all together hold most."""
    store = ROOT / "examples" / "openclipart"
    with tempfile.TemporaryDirectory() as out:
        run = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jobs.train",
                "--data.train",
                str(store / "train.parquet"),
                "--out",
                out,
                "--workers",
                "2",
                "--epochs",
                "10",
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        most: dict[str, float] = {}
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.5):
                now = private_below(run.pid)
                if sum(now.values()) > sum(most.values()):
                    most = now

        watcher = threading.Thread(target=watch)
        watcher.start()
        run.wait()
        done.set()
        watcher.join()
    for name, size in sorted(most.items(), key=lambda pair: -pair[1]):
        if size > 2e7:
            print(f"processes: {size / 2**20:7.0f} MiB  {name}")
    print(f"processes: {sum(most.values()) / 2**20:7.0f} MiB  all together")


def private_below(root: int) -> dict[str, float]:
    """Private bytes of a process and all below it, added up by what they are."""
    found: dict[str, float] = {}
    for pid in [root, *descendants(root)]:
        words = command_line(pid).split()
        kind = words[0].rpartition("/")[2] if words else "?"
        kind = "jobs.train" if pid == root else kind
        found[kind] = found.get(kind, 0.0) + private_bytes(pid)
    return found


PARTS: dict[str, tuple[Callable[..., None], list[list[str]]]] = {
    "step": (step, [["smooth", "1024", "16384"], ["hard", "1024", "16384"]]),
    "survey": (survey, [["8000000"]]),
    "read": (read, [["32768", "1024"]]),
    "vocabulary": (vocabulary, [["1000000"]]),
    "bundle": (bundle, [["200000"]]),
    "processes": (processes, [[]]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        part, *values = args.run
        PARTS[part][0](*(int(v) if v.isdigit() else v for v in values if not v.startswith("/")))
        return
    for part in args.part:
        for values in PARTS[part][1]:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.sizing", "--run", part, *values],
                cwd=ROOT,
                check=True,
            )


if __name__ == "__main__":
    main()
