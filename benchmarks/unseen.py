"""How good are tags that a model knows by name alone, and what do a few images of them add?

    python -m benchmarks.unseen [--data FOLDER] [--text glove] [--take tags|images] [--seeds 0 1 2]
    python -m benchmarks.unseen --part images [--images 1 3 10] [--starts random auto text] ...

Every 9th tag of a set by frequency is taken out of the training images (--take tags), or the images that
carry one (--take images). A model is trained on what is left, and gets these tags by `jobs.update --tags`.
mAP of the unseen tags is measured on the test part, beside the mean of a random order; the figures of the
other tags before and after; how far the probabilities of unseen tags are off (expected calibration error).

images: 1, 3 and 10 images of each tag come, by `jobs.update --data`, and new tags start at random, near the
tags of the same images, or from their names; with `named` the model got the names first. Each image set is
drawn by the seed.

--validation SPLIT holds 15% of the training rows out as the test part, and takes out every 9th tag from the
5th on: for choosing. Trains without Ray, in one process. Needs the larger data sets (DREL_SHARED_DATA). A run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.update import job
from distributed.data.blocks import load_rows
from distributed.data.feature_store import FeatureStore
from distributed.data.row_hash import hash_ids, is_drawn
from distributed.data.survey import survey_store
from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.load import load_bundle
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.reliability import expected_calibration_error, reliability


def by_frequency(table: pa.Table) -> list[str]:
    pairs = table.column("tags").combine_chunks().flatten().value_counts().to_pylist()
    ordered = sorted(pairs, key=lambda pair: (-pair["counts"], pair["values"]))
    return [pair["values"] for pair in ordered]


def with_tags(table: pa.Table, tags: list[list[str]]) -> pa.Table:
    """The rows that have a tag left."""
    place = table.schema.get_field_index("tags")
    column = pa.array(tags, table.schema.field("tags").type)
    table = table.set_column(place, "tags", column)
    return table.filter(pc.greater(pc.list_value_length(table.column("tags")), 0))


def prepare(data: Path, out: Path, take: str, validation: int | None) -> list[str]:
    """``base``, ``later`` and ``test`` (.parquet) and ``new.txt`` in ``out``; gives the new tags."""
    out.mkdir(parents=True, exist_ok=True)
    train, test = pq.read_table(data / "train.parquet"), pq.read_table(data / "test.parquet")
    new = by_frequency(train)[8 if validation is None else 4 :: 9]
    if validation is not None:
        ids = train.column("image_id").to_numpy().astype(object)
        held = pa.array(is_drawn(ids, 0.15, "split", validation))
        train, test = train.filter(pc.invert(held)), train.filter(held)
    unseen = set(new)
    tags = train.column("tags").to_pylist()
    has = pa.array([bool(unseen & set(row)) for row in tags])
    if take == "images":
        base = train.filter(pc.invert(has))
    else:
        base = with_tags(train, [[tag for tag in row if tag not in unseen] for row in tags])
    for name, table in (("base", base), ("later", train.filter(has)), ("test", test)):
        if not (path := out / f"{name}.parquet").exists():
            pq.write_table(table, path)
    (out / "new.txt").write_text("".join(f"{tag}\n" for tag in new), encoding="utf-8")
    print(f"{data.name}: {len(base)} images without {len(new)} tags; {len(test)} to score")
    return new


def some_images(later: pa.Table, new: list[str], images: int, seed: int) -> pa.Table:
    """As many images of each new tag, by a hash of their ids; those of 1 are among those of 3."""
    tags = [set(row) for row in later.column("tags").to_pylist()]
    ids = later.column("image_id").cast(pa.string()).to_numpy(zero_copy_only=False)
    order = np.argsort(hash_ids(ids.astype(object), f"unseen {seed}"))
    kept: set[int] = set()
    for tag in new:
        kept.update([row for row in order.tolist() if tag in tags[row]][:images])
    return later.take(pa.array(sorted(kept)))


def average_precision(score_N: Tensor, hit_N: Tensor) -> float:
    hit_N = hit_N[score_N.argsort(descending=True, stable=True)].double()
    found = hit_N.cumsum(0) / torch.arange(1, len(hit_N) + 1)
    return float((found * hit_N).sum() / hit_N.sum())


def random_average_precision(images: int, hits: int) -> float:
    """What a random order is expected to have."""
    harmonic = float((1 / torch.arange(1, images + 1).double()).sum())
    return harmonic / images * (1 - (hits - 1) / max(images - 1, 1)) + (hits - 1) / max(
        images - 1, 1
    )


def score(model: Path, test: Path, new: set[str], seen: set[str]) -> dict[str, Any]:
    """Figures of unseen and of seen tags, by each decision that the model has."""
    annotator = load_bundle(model)
    names = annotator.vocabulary.names
    store = FeatureStore.open(str(test))
    rows = load_rows(
        survey_store(store, "fail", statistics=False).train, store.columns, pa.array(names)
    )
    score_NT = annotator.scores(rows.features_BD)
    hit_NT = rows.tags.mask(len(names))
    of = {
        kind: torch.tensor([name in tags for name in names])
        for kind, tags in (("new", new), ("seen", seen))
    }
    out: dict[str, Any] = {}
    for kind, is_T in of.items():
        tags = (is_T & hit_NT.any(0)).nonzero()[:, 0].tolist()
        if not tags:
            continue
        hits = [int(hit_NT[:, tag].sum()) for tag in tags]
        found = [average_precision(score_NT[:, tag], hit_NT[:, tag]) for tag in tags]
        chance = [random_average_precision(len(score_NT), hit) for hit in hits]
        out[f"{kind} tags"] = len(tags)
        out[f"{kind} mAP"] = float(np.mean(found))
        out[f"{kind} random"] = float(np.mean(chance))
        if annotator.decider is not None:
            pairs = reliability(score_NT[:, is_T], hit_NT[:, is_T])
            out[f"{kind} ece"] = expected_calibration_error(pairs)
            out[f"{kind} expected"] = float(score_NT[:, is_T].sum())
            out[f"{kind} hits"] = sum(hits)
    decisions = ["top"] if annotator.decider is None else annotator.decider.decisions
    for how in decisions:
        counts = MetricCounts(len(names), 5, keep_scores_bytes=0)
        depth = 5 if how != "threshold" else 50
        chosen = choose(annotator, rows.features_BD, depth, decision_of(annotator, how))
        tag_Nk = chosen.ids
        counts.update_topk(tag_Nk, rows.tags)
        said_Nk = tag_Nk >= 0
        right_Nk = said_Nk & hit_NT.gather(1, tag_Nk.clamp(min=0))
        is_new_Nk = said_Nk & of["new"][tag_Nk.clamp(min=0)]
        for kind, is_T in of.items():
            if bool((is_T & hit_NT.any(0)).any()):
                found_of = counts.result(is_T)
                for key in ("F1", "N+", "oF1"):
                    out[f"{how} {kind} {key}"] = found_of[key]
        out[f"{how} P@1"] = float(right_Nk[:, 0].double().mean())
        out[f"{how} precision"] = int(right_Nk.sum()) / max(1, int(said_Nk.sum()))
        out[f"{how} said of new"] = int(is_new_Nk.sum())
        out[f"{how} right of new"] = int((is_new_Nk & right_Nk).sum())
    return out


def made(verb: str, out: Path, *arguments: object) -> Path:
    """A job's model, unless it is there."""
    if not (out / "model" / "config.json").exists():
        job(verb, "--out", out, "--threads", 1, *arguments, alone=True)
    return out / "model"


def measure_names(folder: Path, new: list[str], given: argparse.Namespace, seed: int) -> None:
    """The model before and after it got the names."""
    base = base_model(folder, given, seed)
    seen = set(load_bundle(base).vocabulary.names)
    text = ("--tags", folder / "new.txt", "--tags.text", given.text, "--tags.skip", "true")
    named = made("update", folder / f"named-{given.text}-{seed}", "--model", base, *text)
    for what, model in (("before", base), ("after", named)):
        show(
            folder,
            f"{what} {given.text}",
            seed,
            score(model, folder / "test.parquet", set(new), seen),
        )


def measure_images(folder: Path, new: list[str], given: argparse.Namespace, seed: int) -> None:
    """1, 3, 10 images of each tag, from each start."""
    base = base_model(folder, given, seed)
    seen = set(load_bundle(base).vocabulary.names)
    later = pq.read_table(folder / "later.parquet")
    for images in given.images:
        data = folder / f"images-{images}-{seed}.parquet"
        if not data.exists():
            pq.write_table(some_images(later, new, images, seed), data)
        for start in given.starts:
            how: tuple[object, ...] = ("--start", start)
            if start in ("text", "auto"):
                how += ("--tags.text", given.text)
            if start == "named":
                names = ("--tags", folder / "new.txt", "--tags.skip", "true")
                how = (*names, "--tags.text", given.text)
            out = folder / f"{start}-{given.text}-{images}-{seed}"
            if start in ("random", "co-occurring"):
                out = folder / f"{start}-{images}-{seed}"
            learned = ("--model", base, "--data", data, "--seed", seed)
            model = made("update", out, *learned, *how)
            found = score(model, folder / "test.parquet", set(new), seen)
            show(folder, f"{images} images {start} {given.text}", seed, found)


def base_model(folder: Path, given: argparse.Namespace, seed: int) -> Path:
    more = ("--tags.text", given.text) if given.trained_with_text else ()
    out = folder / (f"base-{given.text}-{seed}" if more else f"base-{seed}")
    return made("train", out, "--data.train", folder / "base.parquet", "--seed", seed, *more)


def show(folder: Path, what: str, seed: int, found: dict[str, Any]) -> None:
    shown = {key: round(value, 4) for key, value in found.items()}
    print(f"{what} seed {seed}: {json.dumps(shown)}", flush=True)
    with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "seed": seed, **found}) + "\n")


def main() -> None:
    shared = Path(os.environ.get("DREL_SHARED_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=shared / "corel5k-cnn1280")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark-unseen"))
    parser.add_argument("--part", choices=("names", "images"), default="names")
    parser.add_argument("--take", choices=("tags", "images"), default="tags")
    parser.add_argument("--text", default="glove")
    parser.add_argument("--trained_with_text", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--starts", nargs="+", default=["random", "co-occurring", "text", "named"])
    parser.add_argument("--validation", type=int, default=None, metavar="SPLIT")
    given = parser.parse_args()
    name = f"{given.data.name}-{given.take}"
    folder = given.out / (name if given.validation is None else f"{name}-{given.validation}")
    new = prepare(given.data, folder, given.take, given.validation)
    for seed in given.seeds:
        (measure_names if given.part == "names" else measure_images)(folder, new, given, seed)


if __name__ == "__main__":
    main()
