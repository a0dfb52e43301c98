"""Train on the embedded example and show what comes out: python -m jobs.demo"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from distributed.data.blocks import load_rows
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import survey_store
from distributed.driver import train
from distributed.inference.evaluate import evaluate_store
from distributed.storage.files import write_json
from drel_core.annotators.knn import KNNAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.scoring.metrics import format_decisions, format_table
from jobs.cli import run_job
from jobs.train import parse, write_config

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "openclipart"
SAMPLES = 10


def main(arguments: list[str]) -> None:
    config, text, _ = parse(
        [
            *("--data.train", str(EXAMPLE / "train.parquet")),
            *("--data.test", str(EXAMPLE / "test.parquet")),
            *("--out", str(ROOT / "out" / "demo"), "--workers", "2"),
            *arguments,
        ]
    )
    out = Path(config.out)
    print("Training DREL on 4601 public-domain clip-art images with 2 workers", flush=True)
    metrics = train.run(
        config,
        log=lambda line: print(line, flush=True),
        begin=lambda resolved: write_config(resolved, text),
    )
    assert metrics is not None and config.data.test is not None
    write_json(out / "metrics.json", metrics)
    annotator = load_bundle(out / "model")
    vocabulary = annotator.vocabulary
    names = list(vocabulary.names)
    train_survey = survey_store(FeatureStore.open(config.data.train), "fail", statistics=False)
    test_survey = survey_store(FeatureStore.open(config.data.test), "fail", statistics=False)
    known = load_rows(train_survey.train, Columns(), pa.array(names, pa.string()))
    knn = KNNAnnotator.fit(known.features_BD, known.tags, len(names), k=100)
    neighbours = evaluate_store(knn, vocabulary, test_survey, Columns(), config.k)

    test = load_rows(test_survey.train, Columns(), pa.array(names, pa.string()))
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
        wanted = ", ".join(names[tag] for tag in true[:6])
        print(f"  {int(chosen[row]):4d}  {wanted[:48]:48}  ->  {', '.join(marked)}")
    print(f"\nTop {config.k} tags, {metrics['images']} test images, {metrics['tags_scored']} tags:")
    rows = [("popularity", metrics["floor"]), ("kNN (k=100)", neighbours), ("DREL", metrics)]
    print(format_table(rows))
    print(f"\n{format_decisions(metrics)}")
    print(f"\nmodel        {out / 'model'}")
    print(f"TensorBoard  {ROOT / '.venv/bin/tensorboard'} --logdir {out / 'tensorboard'}")
    print(f"docs         {ROOT / 'README.md'}, {ROOT / 'docs'}")


if __name__ == "__main__":
    run_job(main)
