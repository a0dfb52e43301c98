"""Build a feature store: python -m jobs.ingest --source images --input PATH --out OUT"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from distributed.ingest.extract import CnnExtraction
from distributed.ingest.nus_wide import NusWide, NusWideOptions
from distributed.ingest.pictures import PictureOptions, open_pictures
from distributed.ingest.run import StoreOptions, ingest
from distributed.ingest.source import Source
from jobs.cli import OneLineParser, build, run_job


@dataclass(frozen=True, kw_only=True)
class IngestConfig(StoreOptions, PictureOptions):
    """What to read and what to make of it."""

    source: Literal["images", "nuswide"]
    """images: a folder or s3:// prefix of pictures with --tags, or Parquet that holds their bytes; nuswide: \
    the NUS-WIDE distribution as it unpacks"""
    input: str
    """where the source lies"""
    out: str
    """folder for the feature store; written whole or not at all, and taken up again after a stop"""
    features: Literal["cnn"] = "cnn"
    """of pictures: cnn is a pretrained network"""
    cnn: CnnExtraction = field(default_factory=CnnExtraction)
    """the network"""
    nuswide: NusWideOptions = field(default_factory=NusWideOptions)
    """what is taken of NUS-WIDE"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.ingest",
        description="Build a feature store. The same command on the same --out goes on after a stop.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(IngestConfig)
    config = build(parser, parser.parse_args(arguments), IngestConfig)
    source: Source
    extraction: CnnExtraction | None = None
    if config.source == "nuswide":
        official = not config.split.startswith("random")
        source = NusWide.open(config.input, config.nuswide, official)
    else:
        source = open_pictures(config.input, only(config, PictureOptions))
        extraction = config.cnn
        extraction.describe()  # a network that cannot be loaded is told before Ray starts
    store = only(config, StoreOptions)
    manifest = ingest(
        source, extraction, store, config.out, say=lambda line: print(line, flush=True)
    )
    rows = manifest["rows"]
    print(f"{rows['train']} training and {rows['test']} test images, D = {manifest['D']}, "
          f"{manifest['T']} tags, {manifest['rejected']} rows rejected")  # fmt: skip
    print(f"store   {config.out}")
    print(f"report  {config.out}/report.md")


Part = TypeVar("Part", bound=Any)


def only(config: IngestConfig, kind: type[Part]) -> Part:
    """The options of one of the classes that IngestConfig is made of."""
    return kind(**{name: getattr(config, name) for name in kind.__dataclass_fields__})


if __name__ == "__main__":
    run_job(main)
