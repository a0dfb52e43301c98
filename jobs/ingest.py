"""Build a feature store: python -m jobs.ingest --source images --input PATH --out OUT"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from distributed.data.canonical_tags import open_rules
from distributed.ingest.check import LOOK_ROWS, look
from distributed.ingest.extraction.base import Extraction
from distributed.ingest.extraction.cnn import CnnExtraction
from distributed.ingest.extraction.lowlevel import LowLevelExtraction
from distributed.ingest.extraction.several import DESCRIPTORS, NETWORK, SeveralExtractions
from distributed.ingest.run import Input, StoreOptions, check_begun, ingest
from distributed.ingest.sources.base import Source
from distributed.ingest.sources.nuswide import FEATURE_SIZES, NusWideSource
from distributed.ingest.sources.picture_options import PictureOptions
from distributed.ingest.sources.pictures import PictureFolder, open_pictures
from distributed.ingest.sources.several import SeveralColumns, named_options
from distributed.ingest.sources.table import TableOptions, TableSource
from distributed.ingest.sources.web_dataset import WebDataset
from distributed.storage.files import past_short_errors
from drel_core.errors import InputError
from jobs import dry_run
from jobs.cli import NOTHING, OneLineParser, build, run_job, say


@dataclass(frozen=True, kw_only=True)
class IngestConfig(StoreOptions, PictureOptions):
    """What to read and what to make of it."""

    source: Literal["images", "coco", "openimages", "webdataset", "nuswide", "table"]
    """images: a folder or s3:// prefix of pictures with --tags, or Parquet that holds their bytes; \
    coco, openimages: a folder of pictures with annotations of that kind in --tags; webdataset: tar files \
    of pictures with JSON, txt or cls; nuswide: the NUS-WIDE distribution as it unpacks; table: CSV, JSON \
    lines or Parquet with tags, and features in it or in --features_file"""
    input: str
    """file, folder or s3:// prefix of the source"""
    out: str = ""
    """folder or s3:// prefix for the feature store; written whole or not at all, and taken up again after a \
    stop"""
    check: bool = False
    """say, from a sample of the input, what would be made of it; writes nothing and needs no --out; \
    --dry_run says the same, and how long all of it takes"""
    features: str = "cnn"
    """of pictures: cnn is a pretrained network, lowlevel the paper's six descriptors of colour, texture and \
    shape; cnn,lowlevel: both, each a column of its name"""
    cnn: CnnExtraction = field(default_factory=CnnExtraction)
    """the network"""
    lowlevel: LowLevelExtraction = field(default_factory=LowLevelExtraction)
    """the six descriptors"""
    nuswide_tags: Literal["tags1k", "concepts"] = "tags1k"
    """the 1000 tags of the photographers, or the 81 concepts that were checked"""
    nuswide_features: list[str] = field(default_factory=lambda: list(FEATURE_SIZES))
    """which of the six feature files"""
    features_file: str = ""
    """table: .npy, .npz, .mat or HDF5 file with the features; empty: the Parquet files hold them; \
    a=FILE,b=FILE: several columns, each of a file"""
    features_column: str = "features"
    """table: column with the features, where Parquet holds them; a,b: several"""
    features_array: str = ""
    """table: name of the array in an .npz, .mat or HDF5 file; empty: the only matrix of numbers"""
    ids_array: str = ""
    """table: name of an array of image ids in that file: rows are joined by id"""
    row_column: str = ""
    """table: column with the row in the array, from 0; empty: rows of both lie side by side"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.ingest",
        description="Build a feature store. The same command on the same --out goes on after a stop.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(IngestConfig)
    asked = parser.parse_args(arguments)
    config = build(parser, asked, IngestConfig)
    if not (config.out or config.check):
        raise InputError("--out is not given; name the folder for the store, or ask with --check")
    config = with_absolute_paths(config)
    source: Source
    extraction: Extraction | None = None
    if config.split.startswith("column:") and config.source != "table":
        raise InputError(f"--split {config.split}: only --source table has columns for it")
    if config.tags and config.source in ("table", "nuswide", "webdataset"):
        raise InputError(
            f"--tags {config.tags}: --source {config.source} has its tags in --input; leave --tags out"
        )
    if config.source == "nuswide":
        source = NusWideSource.open(
            config.input, config.nuswide_tags, features=config.nuswide_features
        )
    elif config.source == "table":
        options = table_options(config)
        if named := named_options(options):
            source = past_short_errors(lambda: SeveralColumns.open(config.input, named))
        else:
            source = past_short_errors(lambda: TableSource.open(config.input, options))
    else:
        source = past_short_errors(lambda: picture_source(config))
        extraction = extraction_of(config)
        extraction.describe()  # a network or codebook that cannot be loaded is told before Ray starts
    for note in getattr(source, "notes", ()):
        print(note, flush=True)
    store = only(config, StoreOptions)
    if config.check or asked.dry_run:
        left = source.num_rows
        if asked.dry_run:
            left = check_begun(source, extraction, store, config.out, given_input(config), say)
        started = time.perf_counter()
        for line in look(
            source,
            extraction,
            lowercase=store.lowercase,
            dtype=store.dtype,
            max_pixels=store.max_pixels,
            rules=open_rules(store.vocabulary),
        ):
            say(line)
        if asked.dry_run:
            rate = min(source.num_rows, LOOK_ROWS) / (time.perf_counter() - started)
            dry_run.ingestion(source.num_rows, left, rate, extraction is not None)
            say(NOTHING)
        else:
            say("nothing was written; the same command without --check, with --out, ingests")
        return
    manifest = ingest(
        source,
        extraction,
        store,
        config.out,
        log=lambda line: print(line, flush=True),
        given=given_input(config),
    )
    rows = manifest["rows"]
    print(
        f"{rows['train']} training and {rows['test']} test images, D = {manifest['D']}, "
        f"{manifest['T']} tags, {manifest['rejected']} rows rejected"
    )
    print(f"store   {config.out}")
    print(f"report  {config.out}/report.md")


def picture_source(config: IngestConfig) -> Source:
    options = only(config, PictureOptions)
    if config.source == "webdataset":
        return WebDataset.open(config.input, options)
    if config.source in ("coco", "openimages"):
        return PictureFolder.open_annotated(config.input, config.source, options)
    return open_pictures(config.input, options)


def given_input(config: IngestConfig) -> Input:
    """What a source was opened with: every option that is about reading."""
    places = {"input", "tags", "classes", "features_file"}
    elsewhere = {"out", "cnn", "lowlevel", *places, *StoreOptions.__dataclass_fields__}
    options = asdict(config)
    named = named_options(table_options(config)) if config.source == "table" else {}
    files = [one.features_file for one in named.values()] or [config.features_file]
    given = [*files, config.input, config.tags, config.classes]
    return Input(
        tuple(place for place in given if place),
        {name: value for name, value in options.items() if name not in elsewhere}
        | ({"features_files": dict(zip(named, files, strict=True))} if named else {}),
    )


def extraction_of(config: IngestConfig) -> Extraction:
    """How pictures become the features that ``--features`` names.

    Raises:
        InputError: a name is not known, or there twice.
    """
    names = tuple(name.strip() for name in config.features.split(","))
    if not set(names) <= {NETWORK, DESCRIPTORS} or len(set(names)) < len(names):
        raise InputError(
            f"--features {config.features}: give {NETWORK}, {DESCRIPTORS}, or both with a comma"
        )
    if len(names) == 1:
        return config.cnn if names[0] == NETWORK else config.lowlevel
    return SeveralExtractions(names, config.cnn, config.lowlevel)


def with_absolute_paths(config: IngestConfig) -> IngestConfig:
    """Workers run in folders of their own: a path means what it means where it was typed. Files of arrays
    are made absolute where they are opened."""
    changed: dict[str, Any] = {
        name: absolute(path)
        for name in ("input", "out", "tags", "classes", "vocabulary")
        if (path := getattr(config, name))
    }
    if codebook := config.lowlevel.codebook:
        changed["lowlevel"] = replace(config.lowlevel, codebook=absolute(codebook))
    kind, _, network = config.cnn.backbone.partition(":")
    if kind == "file":
        changed["cnn"] = replace(config.cnn, backbone=f"file:{absolute(network)}")
    return replace(config, **changed)


def absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def table_options(config: IngestConfig) -> TableOptions:
    """A random split is made of the rows that are usable in the end, so not by the source."""
    return TableOptions(
        features_file=config.features_file,
        id_column=config.id_column or "image_id",
        tags_column=config.tags_column or "tags",
        features_column=config.features_column,
        separator=config.separator,
        features_array=config.features_array,
        ids_array=config.ids_array,
        row_column=config.row_column,
        split=config.split.removeprefix("column:") if config.split.startswith("column:") else "",
    )


Part = TypeVar("Part", bound=Any)


def only(config: IngestConfig, kind: type[Part]) -> Part:
    """The options of one of the classes that IngestConfig is made of."""
    return kind(**{name: getattr(config, name) for name in kind.__dataclass_fields__})


if __name__ == "__main__":
    run_job(main, goes_on=not any(word.startswith(("--check", "--dry")) for word in sys.argv))
