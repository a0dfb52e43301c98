"""WSABIE and DREL against LightFM's WARP: quality after equal time, on the same features.

    python -m benchmarks.lightfm_warp --peer VENV/bin/python [--data FOLDER] [--out FOLDER]

Trains WSABIE with a latent space of 64 (jobs.train, 2 workers) and DREL `best` without and with its rule and
kernel; gives LightFM (64 components, 2 threads) the seconds that each of them trained. LightFM's
features are what WSABIE's linear map sees: signed roots, standardised. Its learning rate, penalty on the
features' embeddings and draws are chosen on 15% of the training rows by F1 within WSABIE's time. Seconds are
training alone, without the start of Ray and without reading. For the peer's environment: docs/results.md.

Needs the larger data sets (DREL_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from distributed.feature_store import FeatureStore
from distributed.pipeline import Rows, read_rows
from distributed.store_survey import StoreSurvey
from distributed.unit_tasks import survey_store
from drel_core.bundle import load_bundle
from drel_core.metrics import MetricCounts
from drel_core.model import signed_power

LATENT = 64
WIDE = {"wsabie": ("--method", "wsabie", "--model.latent", LATENT, "--model.tag_dim", LATENT),
        "drel towers": ("--preset", "best", "--decision.fits", 0, "--kernel.landmarks", 0),
        "drel best": ("--preset", "best",)}  # fmt: skip
GRID = (*itertools.product((0.002, 0.01, 0.05), (0.0, 1e-6), (10,)), (0.01, 0.0, 100))
Setting = tuple[float, float, int]
Found = tuple[int, float, dict[str, float]]


def read(path: Path, names: tuple[str, ...] | None = None) -> tuple[Rows, StoreSurvey]:
    """All rows of a store, their tags as ids of the given vocabulary or of the store's own."""
    store = FeatureStore.open(str(path))
    survey = survey_store(store, "fail", statistics=False)
    vocabulary = pa.array(names) if names else survey.names
    return read_rows(survey.train, store.columns, vocabulary), survey


def inputs(train: Rows, test: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Signed roots, standardised by the training rows."""
    root_ND, root_MD = (signed_power(rows.features_BD.float(), 0.5) for rows in (train, test))
    mean_D, std_D = root_ND.mean(0), root_ND.std(0).clamp(min=1e-6)
    return ((root_ND - mean_D) / std_D).numpy(), ((root_MD - mean_D) / std_D).numpy()


def fit(
    peer: str, folder: Path, tags: int, train: Rows, test: Rows, setting: Setting, seed: int,
    seconds: list[float],
) -> list[Found]:  # fmt: skip
    """Epochs, seconds and metrics of one run of LightFM, at each of the times."""
    train_ND, test_MD = inputs(train, test)
    np.savez(folder / "in.npz", train_ND=train_ND, test_MD=test_MD,
             row=train.tags.row_ids().numpy(), tag=train.tags.values.numpy())  # fmt: skip
    rate, penalty, draws = setting
    done = subprocess.run(
        [peer, str(Path(__file__).with_name("lightfm_fit.py")), str(folder / "in.npz"),
         str(folder / "out.npz"), "--tags", str(tags), "--components", str(LATENT), "--rate", str(rate),
         "--feature_penalty", str(penalty), "--most_draws", str(draws), "--seed", str(seed),
         "--seconds", *map(str, sorted(seconds))],
        check=False, stdout=sys.stderr,
    )  # fmt: skip
    done.check_returncode()
    trained_T = torch.bincount(train.tags.values, minlength=tags) > 0
    with np.load(folder / "out.npz") as out:
        found = []
        for topk_id_Mk, epochs, taken in zip(
            out["topk_id_SMk"], out["epochs"], out["seconds"], strict=True
        ):
            counts = MetricCounts(tags, topk_id_Mk.shape[1])
            counts.update_topk(torch.from_numpy(topk_id_Mk), test.tags)
            found.append((int(epochs), float(taken), counts.result(trained_T)))
    return found


def part(rows: Rows, chosen_B: np.ndarray) -> Rows:
    index = torch.from_numpy(np.flatnonzero(chosen_B))
    return rows.select(index)


def line(name: str, seconds: float, metrics: dict[str, float], note: str = "") -> None:
    print(
        f"| {name} | {seconds:.1f} | {metrics['F1']:.3f} | {metrics['N+']:.0f} | {note} |",
        flush=True,
    )


def main() -> None:
    shared = Path(os.environ.get("DREL_SHARED_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--peer", required=True, help="the Python of LightFM's environment")
    parser.add_argument("--data", type=Path, default=shared / "corel5k-cnn1280")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark-lightfm"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    paths = {name: given.data / f"{name}.parquet" for name in ("train", "test")}

    times: list[float] = []
    print("| method | training, s | F1 | N+ | |\n| --- | --- | --- | --- | --- |")
    names: tuple[str, ...] | None = None
    for name, options in WIDE.items():
        out = given.out / name.replace(" ", "-")
        subprocess.run(
            [sys.executable, "-m", "jobs.train", *map(str, options), "--data.train", paths["train"],
             "--workers", "2", "--seed", str(given.seed), "--out", out],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        annotator = load_bundle(out / "model")
        names = annotator.vocabulary.names
        rows, _ = read(paths["test"], names)
        counts = MetricCounts(len(names), 5)
        counts.update_topk(annotator.annotate(rows.features_BD.float(), 5)[1], rows.tags)
        trained_T = torch.from_numpy(annotator.vocabulary.counts) > 0
        seconds = annotator.about["train"]["seconds"]
        times.append(seconds)
        line(
            name,
            seconds,
            counts.result(trained_T),
            "latent space of 64" if name == "wsabie" else "",
        )

    assert names is not None
    train, _ = read(paths["train"], names)
    test, _ = read(paths["test"], names)
    held_B = np.random.default_rng(given.seed).random(len(train)) < 0.15
    fitted, held = part(train, ~held_B), part(train, held_B)
    best: tuple[float, Setting] | None = None
    for setting in GRID:
        _, _, metrics = fit(
            given.peer, given.out, len(names), fitted, held, setting, given.seed, times[:1]
        )[0]
        print(
            f"LightFM on held-out rows, {setting}: F1 {metrics['F1']:.3f}",
            file=sys.stderr,
            flush=True,
        )
        if best is None or metrics["F1"] > best[0]:
            best = metrics["F1"], setting
    assert best is not None
    setting = best[1]
    note = "rate {}, penalty {}, draws {}".format(*setting)
    for epochs, seconds, metrics in fit(
        given.peer, given.out, len(names), train, test, setting, given.seed, times
    ):
        line("LightFM WARP", seconds, metrics, f"{epochs} epochs; {note}")


if __name__ == "__main__":
    main()
