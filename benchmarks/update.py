"""Does an update reach what training anew reaches, and in how much less time?

    python -m benchmarks.update [--data FOLDER] [--workers 2] [--out FOLDER]

Of a set's tags every 9th by frequency is new, 40 at most. A model is trained on the images without any of
them, then updated with the images that carry them; another is trained on all images from the start. Both are
scored on the test part, over new and over old tags. Needs the larger data sets (DREL_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.feature_store import FeatureStore, encode_tags, flat_tags
from distributed.pipeline import read_rows
from distributed.unit_tasks import survey_store
from drel_core.bundle import load_bundle
from drel_core.metrics import MetricCounts
from drel_core.tag_lists import TagLists


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
    """F1 over new and over old tags, top 5."""
    annotator = load_bundle(model)
    store = FeatureStore.open(str(test))
    survey = survey_store(store, "fail", statistics=False)
    names = annotator.vocabulary.names
    rows = read_rows(survey.train, store.columns, pa.array(names))
    counts = MetricCounts(len(names), 5)
    tags: TagLists = rows.tags
    counts.update_topk(annotator.annotate(rows.features_BD, 5)[1], tags)
    out = {}
    for label, chosen in (("new", new), ("old", seen - new), ("all", seen)):
        found = counts.result(torch.tensor([name in chosen for name in names]))
        out |= {
            f"{label} F1": found["F1"],
            f"{label} N+": found["N+"],
            f"{label} tags": found["tags_scored"],
        }
    return out


def job(verb: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"jobs.{verb}", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout[-400:] if done.returncode == 0 else done.stdout + done.stderr, flush=True)
    done.check_returncode()


def main() -> None:
    shared = Path(os.environ.get("DREL_SHARED_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=shared / "corel5k-cnn1280")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark-update"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given, others = parser.parse_known_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    train, test = given.data / "train.parquet", given.data / "test.parquet"
    base, later, new = split(pq.read_table(train))
    pq.write_table(base, out / "base.parquet")
    pq.write_table(later, out / "later.parquet")
    shared_options = ["--workers", given.workers, "--seed", given.seed]
    job("train", "--data.train", out / "base.parquet", "--out", out / "base", *shared_options)
    job("update", "--model", out / "base", "--data", out / "later.parquet", "--out", out / "updated",
        *shared_options, *others)  # fmt: skip
    job("train", "--data.train", train, "--out", out / "anew", *shared_options)
    seen = set(load_bundle(out / "anew" / "model").vocabulary.names)
    result: dict[str, dict[str, float]] = {}
    for name in ("base", "updated", "anew"):
        result[name] = score(out / name / "model", test, set(new), seen)
        result[name]["seconds"] = load_bundle(out / name / "model").about["train"]["seconds"]
        print(name, json.dumps(result[name]), flush=True)
    updated, anew = result["updated"], result["anew"]
    ratios = {
        key: round(updated[key] / anew[key], 3) for key in ("new F1", "old F1", "all F1", "seconds")
    }
    print(
        f"{len(base)} images, then {len(later)} with {len(new)} new tags; of training anew: {ratios}"
    )
    (out / "results.json").write_text(json.dumps({**result, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
