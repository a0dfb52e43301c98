"""Build a feature store: python -m jobs.ingest --source images --input PATH --out OUT"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distributed.ingest.extract import CnnExtraction
from distributed.ingest.pictures import PictureOptions, open_pictures
from distributed.ingest.run import StoreOptions, ingest
from distributed.unit_tasks import start_ray
from jobs.cli import OneLineParser, build, run_job


@dataclass(kw_only=True)
class IngestConfig:
    """What to read and what to make of it."""

    source: Literal["images"]
    """images: a folder or s3:// prefix of pictures with --pictures.tags, or Parquet with their bytes"""
    input: str
    """where the source lies"""
    out: str
    """folder for the feature store; written whole or not at all, and taken up again after a stop"""
    features: Literal["cnn"] = "cnn"
    """of pictures: cnn is a pretrained network"""
    pictures: PictureOptions = field(default_factory=PictureOptions)
    """how a picture's id and tags are found"""
    cnn: CnnExtraction = field(default_factory=CnnExtraction)
    """the network"""
    store: StoreOptions = field(default_factory=StoreOptions)
    """what the store is to look like"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.ingest",
        description="Build a feature store. The same command on the same --out goes on after a stop.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(IngestConfig)
    config = build(parser, parser.parse_args(arguments), IngestConfig)
    source = open_pictures(config.input, config.pictures)
    extraction = config.cnn
    extraction.describe()  # a network that cannot be loaded is told before Ray starts
    start_ray(1)
    manifest = ingest(
        source, extraction, config.store, config.out, say=lambda line: print(line, flush=True)
    )
    rows = manifest["rows"]
    print(f"{rows['train']} training and {rows['test']} test images, D = {manifest['D']}, "
          f"{manifest['T']} tags, {manifest['rejected']} rows rejected")  # fmt: skip
    print(f"store   {config.out}")
    print(f"report  {config.out}/report.md")


if __name__ == "__main__":
    run_job(main)
