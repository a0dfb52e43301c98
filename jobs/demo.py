"""Train on the embedded example and show what comes out: python -m jobs.demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver import train
from distributed.driver.launch import Launcher, launch
from distributed.reporting.report import ReportConfig, write_report
from distributed.storage.files import write_json
from distributed.training.config import TrainConfig
from drel_core.annotators.load import load_bundle
from drel_core.scoring.metrics import format_decisions, format_table
from jobs.cli import run_job
from jobs.train import parse, write_config

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "openclipart"
SAMPLES = 10
NEIGHBOURS = {"kNN, k = 100": ("knn-100", "100"), "kNN, k chosen": ("knn-chosen", "0")}
"""Folder and ``--knn.k`` of what DREL is compared with; 0 chooses k and weighting on training rows."""


def main(arguments: list[str], launcher: Launcher = launch) -> None:
    given = [
        *("--data.train", str(EXAMPLE / "train.parquet")),
        *("--data.test", str(EXAMPLE / "test.parquet")),
        *("--out", str(ROOT / "out" / "demo"), "--workers", "2"),
        *arguments,
    ]
    config, text, _ = parse(given)
    out = Path(config.out)
    assert config.data.test is not None
    say("Training DREL on 4601 public-domain clip-art images with 2 workers")
    metrics = train.run(
        config, log=say, begin=lambda resolved: write_config(resolved, text), launcher=launcher
    )
    assert metrics is not None
    write_json(out / "metrics.json", metrics)
    say("\nThe same with k nearest neighbours")
    others = [
        (name, neighbours(given, out / folder, k)) for name, (folder, k) in NEIGHBOURS.items()
    ]
    show_samples(config)
    report = ReportConfig(
        model=shown(out),
        data=shown(Path(config.data.test)),
        out=str(out / "report.html"),
        pictures=str(EXAMPLE / "pictures"),
        k=config.k,
        decide=config.decide,
    )
    say("\nThe report")
    write_report(report, others, say)
    print(f"\nTop {config.k} tags, {metrics['images']} test images, {metrics['tags_scored']} tags:")
    print(format_table([("popularity", metrics["floor"]), *others, ("DREL", metrics)]))
    print(f"\n{format_decisions(metrics)}")
    print(what_next(out))


def say(line: str) -> None:
    print(line, flush=True)


def neighbours(given: list[str], out: Path, k: str) -> dict[str, Any]:
    """Metrics of kNN on the same data.

    Args:
        given: the demo's own options.
        k: of ``--knn.k``.
    """
    config, text, _ = parse([*given, "--method", "knn", "--knn.k", k, "--out", str(out)])
    metrics = train.run(
        config,
        log=lambda line: say(line) if line.startswith("chosen") else None,
        begin=lambda resolved: write_config(resolved, text),
    )
    assert metrics is not None
    return metrics


def show_samples(config: TrainConfig) -> None:
    """Print some test images, evenly spread, with what the model says."""
    assert config.data.test is not None
    annotator = load_bundle(Path(config.out) / "model")
    names = list(annotator.vocabulary.names)
    survey = survey_store(FeatureStore.open(config.data.test), "fail", statistics=False)
    test = load_rows(survey.train, Columns(), pa.array(names, pa.string()))
    chosen = torch.linspace(0, len(test) - 1, SAMPLES).long()
    sample = test.select(chosen)
    found = annotator.annotate(sample.features_BD.float(), config.k)
    print("\nTen test images: true tags -> predicted tags with their probability (* is right)")
    for row, (true, *predicted) in enumerate(
        zip(sample.tags.tolist(), *(part.tolist() for part in found), strict=True)
    ):
        marked = [
            f"{names[tag]}{'*' if tag in true else ''} {score:.0%}"
            for score, tag in zip(*predicted, strict=True)
        ]
        wanted = ", ".join(names[tag] for tag in true)
        wanted = wanted if len(wanted) <= 48 else f"{wanted[:47]}…"
        print(f"  {int(chosen[row]):4d}  {wanted:48}  ->  {', '.join(marked)}")


def what_next(out: Path) -> str:
    """Where things are, and the two commands that come next."""
    model = shown(out)
    python = ".venv/bin/python" if (ROOT / ".venv").is_dir() else "python"
    return f"""
report       {shown(out / "report.html")}   open it in a browser
model        {shown(out / "model")}
TensorBoard  {python.replace("python", "tensorboard")} --logdir {shown(out / "tensorboard")}

Next, a page to try the model on. It has example rows: this model reads numbers, not pictures.
  {python} -m jobs.serve --model {model}

Or a model of your own pictures, which its page takes (a folder and a CSV of tags; docs/tutorial.md):
  {python} -m jobs.ingest --source images --input PICTURES --tags tags.csv --out STORE --split random:100 \\
    && {python} -m jobs.train --data.train STORE --data.test STORE --out OUT"""


def shown(path: Path) -> str:
    """A path as a person in this checkout types it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    run_job(main)
