"""WSABIE and DREL against LightFM's WARP: quality after equal time, on the same features.

    python -m benchmarks.lightfm_warp --peer VENV/bin/python [--data FOLDER] [--out FOLDER]

Trains WSABIE with a latent space of 64 (jobs.train, 2 workers) and DREL `best` without and with its kernel,
and tells what its five most probable tags reach, and the five for macro F1; gives LightFM (64 components, 2
threads) the seconds that each of them trained. LightFM's features are what WSABIE's linear map sees: signed
roots, standardised. Its learning rate, penalty on the features' embeddings and draws are chosen on 15% of the
training rows by F1 within WSABIE's time. Seconds are training alone, without the start of Ray and without
reading. For the peer's environment: docs/results.md.

Needs the larger data sets (DREL_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from distributed.data.blocks import load_rows
from distributed.data.feature_store import FeatureStore
from distributed.data.rows import Rows
from distributed.data.survey import survey_store
from drel_core.annotators.load import load_bundle
from drel_core.model.towers import signed_power
from drel_core.scoring.metrics import MetricCounts

LATENT = 64
WIDE = {
    "wsabie": ("--method", "wsabie", "--model.latent", LATENT, "--model.tag_dim", LATENT),
    "drel towers": ("--preset", "best", "--decision.held_out", 0, "--kernel.landmarks", 0),
    "drel best": ("--preset", "best"),
}
GRID = (*itertools.product((0.002, 0.01, 0.05), (0.0, 1e-6), (10,)), (0.01, 0.0, 100))
Setting = tuple[float, float, int]
Found = tuple[int, float, dict[str, float]]


def read(path: Path, names: tuple[str, ...]) -> Rows:
    """All rows of a store, their tags as ids of the vocabulary."""
    store = FeatureStore.open(str(path))
    survey = survey_store(store, "fail", statistics=False)
    return load_rows(survey.train, store.columns, pa.array(names))


class Peer:
    """LightFM on one split of rows: signed roots of the features, standardised by the rows to learn from."""

    def __init__(
        self, python: str, folder: Path, tags: int, seed: int, train: Rows, test: Rows
    ) -> None:
        self.python, self.folder, self.tags, self.seed = python, folder, tags, seed
        self.test = test.tags
        self.trained_T = torch.bincount(train.tags.values, minlength=tags) > 0
        root_ND, root_MD = (signed_power(rows.features_BD.float(), 0.5) for rows in (train, test))
        mean_D, std_D = root_ND.mean(0), root_ND.std(0).clamp(min=1e-6)
        np.savez(
            folder / "in.npz",
            train_ND=((root_ND - mean_D) / std_D).numpy(),
            test_MD=((root_MD - mean_D) / std_D).numpy(),
            row=train.tags.row_ids().numpy(),
            tag=train.tags.values.numpy(),
        )

    def fit(self, setting: Setting, seconds: list[float]) -> list[Found]:
        """Epochs, seconds and metrics of one run, at each of the (rising) times."""
        rate, penalty, draws = setting
        subprocess.run(
            [
                self.python,
                str(Path(__file__).with_name("lightfm_fit.py")),
                str(self.folder / "in.npz"),
                str(self.folder / "out.npz"),
                "--tags",
                str(self.tags),
                "--components",
                str(LATENT),
                "--rate",
                str(rate),
                "--feature_penalty",
                str(penalty),
                "--most_draws",
                str(draws),
                "--seed",
                str(self.seed),
                "--seconds",
                *map(str, seconds),
            ],
            check=True,
            stdout=sys.stderr,
        )
        found = []
        with np.load(self.folder / "out.npz") as out:
            for topk_id_Mk, epochs, taken in zip(
                out["topk_id_SMk"], out["epochs"], out["seconds"], strict=True
            ):
                counts = MetricCounts(self.tags, topk_id_Mk.shape[1])
                counts.update_topk(torch.from_numpy(topk_id_Mk), self.test)
                found.append((int(epochs), float(taken), counts.result(self.trained_T)))
        return found


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
    for name, options in WIDE.items():
        out = given.out / name.replace(" ", "-")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "jobs.train",
                *map(str, options),
                "--data.train",
                paths["train"],
                "--data.test",
                paths["test"],
                "--workers",
                "2",
                "--seed",
                str(given.seed),
                "--out",
                out,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        metrics = json.loads((out / "metrics.json").read_text("utf-8"))
        times.append(metrics["train"]["seconds"])
        line(name, times[-1], metrics, "latent space of 64" if name == "wsabie" else "")
        if "macro" in metrics["decisions"]:
            line(f"{name}, macro", times[-1], metrics["decisions"]["macro"])

    names = load_bundle(given.out / "wsabie" / "model").vocabulary.names
    train, test = read(paths["train"], names), read(paths["test"], names)
    is_held_N = torch.from_numpy(np.random.default_rng(given.seed).random(len(train)) < 0.15)
    fitted, held = (train.select(chosen_N.nonzero()[:, 0]) for chosen_N in (~is_held_N, is_held_N))
    peer = Peer(given.peer, given.out, len(names), given.seed, fitted, held)
    f1 = {}
    for setting in GRID:
        f1[setting] = peer.fit(setting, times[:1])[0][2]["F1"]
        print(
            f"LightFM on held-out rows, {setting}: F1 {f1[setting]:.3f}",
            file=sys.stderr,
            flush=True,
        )
    best = max(f1, key=f1.__getitem__)
    note = "rate {}, penalty {}, draws {}".format(*best)
    peer = Peer(given.peer, given.out, len(names), given.seed, train, test)
    for epochs, seconds, metrics in peer.fit(best, sorted(times)):
        line("LightFM WARP", seconds, metrics, f"{epochs} epochs; {note}")


if __name__ == "__main__":
    main()
