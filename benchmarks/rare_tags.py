"""What do the names of tags bring to tags of few images?

    python -m benchmarks.rare_tags --set corel5k-cnn1280 [--text none glove shuffled] [--seeds 0 1 2]
    python -m benchmarks.rare_tags --set openclipart-cnn1280 --validation 0

Trains the preset `best` with each source of text vectors, in one process without Ray, and scores tags that 1
to 13 training images have, beside all tags: mean average precision, and F1 of the 5 most probable tags.
`shuffled` gives every tag the GloVe vector of another one, which is what misleading names would do. Beside
them the popularity floor: its mAP is that of images in random order.

Scored is the test part; with --validation SPLIT a fifth of the training rows, which are then not trained on.
What is finished in --out is not trained again. Needs the larger data sets (DREL_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distributed.data.blocks import load_rows
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver.in_process import launch
from drel_core.annotators.load import load_bundle
from drel_core.annotators.popularity import floor_counts
from drel_core.scoring.metrics import MetricCounts
from drel_core.text.vectors import open_text_vectors
from jobs.train import main as train

_MOST = 13  # training images of a rare tag
_K = 5


def split(folder: Path, out: Path, seed: int) -> tuple[Path, Path]:
    """Training rows without a random fifth, and that fifth."""
    table = pq.read_table(folder / "train.parquet")
    order = np.random.default_rng(seed).permutation(len(table))
    held = len(table) // 5
    paths = out / f"train-{seed}.parquet", out / f"held-{seed}.parquet"
    for path, rows in zip(paths, (order[held:], order[:held]), strict=True):
        pq.write_table(table.take(np.sort(rows)), path)
    return paths


def write_shuffled(store: Path, path: Path) -> None:
    """GloVe vectors of the store's tags, each under the name of another."""
    tags = pq.read_table(store, columns=["tags"])["tags"].to_pylist()
    names = sorted({tag.strip() for row in tags for tag in row})
    vector_nd, has_n = open_text_vectors("glove").vectors(names)
    known = [name for name, has in zip(names, has_n.tolist(), strict=True) if has]
    order = np.random.default_rng(0).permutation(len(known))
    rows = vector_nd[has_n][torch.from_numpy(order)].tolist()
    pq.write_table(pa.table({"name": known, "vector": rows}), path)


def score(model: Path, test: Path) -> dict[str, float]:
    annotator = load_bundle(model)
    count_T = torch.from_numpy(annotator.vocabulary.counts)
    survey = survey_store(FeatureStore.open(str(test)), "fail", statistics=False)
    rows = load_rows(
        survey.train, FeatureStore.open(str(test)).columns, pa.array(annotator.vocabulary.names)
    )
    found = MetricCounts(len(count_T), _K)
    for start in range(0, len(rows), 512):
        part = slice(start, start + 512)
        features_BD = rows.features_BD[part].float()
        best_Bk = annotator.annotate(features_BD, _K)[1]
        found.update(annotator.scores(features_BD), rows.tags[part], best_Bk)
    floor = floor_counts(count_T, rows.tags, _K)
    out = {}
    for name, chosen_T in (("rare", (count_T > 0) & (count_T <= _MOST)), ("all", count_T > 0)):
        result, low = found.result(chosen_T), floor.result(chosen_T)
        out |= {
            f"{name} tags": result["tags_scored"],
            f"{name} mAP": result["mAP"],
            f"{name} F1": result["F1"],
            f"{name} mAP floor": found.chance_map(chosen_T),
            f"{name} F1 floor": low["F1"],
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="corel5k-cnn1280", help="folder below DREL_SHARED_DATA")
    parser.add_argument("--text", nargs="+", default=["none", "glove"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--validation", type=int)
    parser.add_argument("--out", type=Path, default=Path("out/rare_tags"))
    given, others = parser.parse_known_args()
    shared = Path(os.environ["DREL_SHARED_DATA"]) / given.set
    out = given.out / given.set
    out.mkdir(parents=True, exist_ok=True)
    base, test = shared / "train.parquet", shared / "test.parquet"
    if given.validation is not None:
        base, test = split(shared, out, given.validation)
    if "shuffled" in given.text:
        write_shuffled(base, out / "shuffled.parquet")
    kinds = ("rare mAP", "rare F1", "all mAP", "all F1")
    for text in given.text:
        found = []
        for seed in given.seeds:
            run = out / f"{text}-{seed}-{base.stem}"
            source = out / "shuffled.parquet" if text == "shuffled" else text
            files = ["--data.train", str(base), "--out", str(run), "--seed", str(seed)]
            with contextlib.redirect_stdout(io.StringIO()):
                train([*files, "--tags.text", str(source), *others], launch)
            found.append(score(run / "model", test))
            figures = "  ".join(f"{kind} {found[-1][kind]:.4f}" for kind in kinds)
            print(f"{given.set}  {text:8}  seed {seed}  {figures}", flush=True)
        mean = {kind: float(np.mean([one[kind] for one in found])) for kind in found[0]}
        spread = {kind: float(np.std([one[kind] for one in found])) for kind in found[0]}
        figures = "  ".join(f"{kind} {mean[kind]:.4f} ± {spread[kind]:.4f}" for kind in kinds)
        print(f"{given.set}  {text:8}  mean    {figures}", flush=True)
    figures = "  ".join(f"{kind} {mean[kind + ' floor']:.4f}" for kind in kinds)
    print(f"{given.set}  floor             {figures}  ({mean['rare tags']:.0f} rare tags scored)")


if __name__ == "__main__":
    main()
